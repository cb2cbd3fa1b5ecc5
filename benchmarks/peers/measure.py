"""Measures one system; runs in its environment, started by `python -m peers`. Its last line is the result as JSON.

python -m peers.measure --system celery --directory D --host H --database-url URL --slots 8 …
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa

sys.path[:0] = [str(Path(__file__).parents[2] / folder) for folder in ("examples", "tests")]

from demo.processes import Server, StartError, wait_for  # noqa: E402
from demo.site import PARTS, AirflowSite  # noqa: E402
from peers.link import Link  # noqa: E402
from peers.report import Result  # noqa: E402
from peers.systems import SYSTEMS, Mqtt, Place, PlainSite, System  # noqa: E402
from proc import family, processor_seconds, proportional_mib  # noqa: E402

_DAGS: Final = """\
from airflow.sdk import dag, task

@dag(schedule=None)
def many():
    @task
    def noop(number):
        return number
    noop.expand(number=list(range({tasks})))
many()

@dag(schedule=None)
def one():
    @task
    def noop():
        return 1
    noop()
one()
"""

#: Seconds after which a worker that has connected has come to rest.
_SETTLE: Final = 12.0

#: What a fresh process does before it can run a task: what a worker's warm process does, and ends.
_IMPORTS: Final = "from airflow_mqtt.worker.runner import compat; compat.warm_up()"

#: Seconds between two looks at the worker's memory while it works.
_LOOK: Final = 0.25


#: Seconds of a slow link's round trip.
_ROUND_TRIP: Final = 0.3

_HELD: Final = "dispatched → finished, all that a slot is held"

#: The stages of single tasks, from the times in the bridge's rows and in Airflow's.
_STAGES: Final = f"""\
select dispatched_at - queued_at as "queued → dispatched",
    started_at - dispatched_at as "dispatched → gate opened (with `accepted`)",
    extract(epoch from start_date) - started_at as "gate opened → the task's start in Airflow",
    extract(epoch from end_date - start_date) as "start → end in Airflow",
    finished_at - extract(epoch from end_date) as "end → finished at the bridge",
    finished_at - dispatched_at as "{_HELD}"
from mqtt_job join task_instance using (dag_id, run_id, task_id, map_index)
where dag_id = 'one' order by mqtt_job.queued_at
"""  # noqa: S608


@dataclass(slots=True)
class Bench:
    """A system that runs, and what is measured of it."""

    site: AirflowSite
    worker: Server | None
    link: Link
    result: Result
    engine: sa.Engine
    idle_bytes_per_s: float = field(default=0.0)

    def seconds(self, expression: str, dag_id: str, skip: int = 0) -> list[float]:
        """Return `expression` of each task instance of a Dag, in the order in which they were queued."""
        query = f"select extract(epoch from {expression}) from task_instance where dag_id = :dag order by queued_dttm"  # noqa: S608
        with self.engine.connect() as connection:
            return [float(row[0]) for row in connection.execute(sa.text(query), {"dag": dag_id})][skip:]

    def run(self, dag_id: str) -> None:
        """Run a Dag to its end."""
        state = self.site.client.await_run(dag_id, self.site.client.trigger(dag_id), timeout=300, check=self.site.check)
        if state != "success":
            raise StartError(f"a run of {dag_id} ended as {state}")

    def idle(self, seconds: float) -> None:
        """See what the worker and its link cost while nothing is to be done."""
        if self.worker is None:
            return
        pids = family(self.worker.pid)
        self.result.idle_mib = proportional_mib(pids)
        began, passed, spent = time.monotonic(), self.link.bytes(), _spent(pids)
        time.sleep(seconds)
        took = time.monotonic() - began
        self.result.idle_core_percent = round(100 * (_spent(pids) - spent) / took, 2)
        if passed is not None:
            self.idle_bytes_per_s = ((self.link.bytes() or 0) - passed) / took
            self.result.idle_bytes_per_minute = round(60 * self.idle_bytes_per_s)

    def singles(self, count: int) -> None:
        """Run single tasks with pauses. One before them does not count: Airflow's processes load things, too."""
        self.run("one")
        began, passed = time.monotonic(), self.link.bytes()
        for number in range(count):
            self.run("one")
            time.sleep(1 + 0.7 * number % 3)  # not in step with anybody's interval
        if self.worker is not None and passed is not None:
            silence = self.idle_bytes_per_s * (time.monotonic() - began)
            self.result.bytes_per_task = round(((self.link.bytes() or 0) - passed - silence) / count)
        waited = self.seconds("start_date - queued_dttm", "one", skip=1)
        self.result.started_p50_ms = round(1000 * _middle(waited))
        self.result.started_max_ms = round(1000 * max(waited))
        self.result.ended_p50_ms = round(1000 * _middle(self.seconds("end_date - queued_dttm", "one", skip=1)))

    def first(self) -> None:
        """Run the first task of a worker that has just started."""
        if self.worker is None:
            return
        self.worker.stop()
        self.worker.start()
        time.sleep(_SETTLE)
        self.run("one")
        self.result.first_ms = round(1000 * self.seconds("end_date - queued_dttm", "one")[-1])

    def mapped(self, count: int) -> None:
        """Run one mapped task of `count`."""
        with _highest(self.worker) as highest:
            self.run("many")
        since, until = self.seconds("queued_dttm", "many"), self.seconds("end_date", "many")
        self.result.tasks = count
        self.result.tasks_per_s = round(count / (max(until) - min(since)), 2)
        if self.worker is not None:
            self.result.peak_mib = highest[0]
            self.result.after_mib = proportional_mib(family(self.worker.pid))

    def own(self, system: Mqtt, count: int) -> None:
        """See where a task's time goes, what a fresh Task SDK costs, and what a task costs on a slow link."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.text(_STAGES)).mappings().all()[1 : count + 1]
        self.result.stages_ms = {
            stage: round(1000 * _middle([float(row[stage]) for row in rows]), 1) for stage in rows[0]
        }
        took = []
        for _ in range(3):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", _IMPORTS], env=self.site.environment, check=True)
            took.append(time.monotonic() - began)
        self.result.imports_ms = round(1000 * _middle(took))
        fast = self._held(1, count)
        with system.slow_worker(_ROUND_TRIP) as worker:
            worker.start()
            for _ in range(1 + count):
                self.run("one")
            slow = self._held(3 + count, count)
        self.result.slow_round_trips = round((slow - fast) / _ROUND_TRIP, 1)

    def _held(self, first: int, count: int) -> float:
        """Return for how many seconds a single task had its slot: the median of `count`, from the `first` on."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.text(_STAGES)).mappings().all()
        return _middle([float(row[_HELD]) for row in rows[first : first + count]])


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def _spent(pids: set[int]) -> float:
    return sum(processor_seconds(pid) for pid in pids if Path(f"/proc/{pid}").exists())


@contextmanager
def _highest(worker: Server | None) -> Iterator[list[float]]:
    """Look at the worker's memory again and again; the one item of the list is the most that was seen, in MiB."""
    highest, ended = [0.0], threading.Event()

    def look() -> None:
        while worker is not None and not ended.wait(_LOOK):
            highest[0] = max(highest[0], proportional_mib(family(worker.pid)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        ended.set()
        thread.join()


def measure(place: Place, link: Link, arguments: argparse.Namespace) -> Result:
    """Start all of a system, measure, end it."""
    dags = place.directory / "dags"
    dags.mkdir(parents=True)
    (dags / "bench.py").write_text(_DAGS.format(tasks=arguments.tasks))
    site = PlainSite(place.directory, database_url=place.sqlalchemy_url, dags_folder=dags, host=place.host)
    system = SYSTEMS[arguments.system](place, site)
    site.environment.update(system.settings())
    result = Result(arguments.system, system.title, at=datetime.now(UTC).isoformat(timespec="seconds"))
    with ExitStack() as stack:
        stack.callback(site.stop)
        site.migrate()
        worker = _start(system, site, stack)
        for dag_id in ("one", "many"):
            site.client.await_dag(dag_id, check=site.check)
        time.sleep(min(_SETTLE, arguments.idle))
        engine = sa.create_engine(place.sqlalchemy_url)
        stack.callback(engine.dispose)
        bench = Bench(site, worker, link, result, engine)
        bench.idle(arguments.idle)
        bench.singles(arguments.singles)
        bench.first()
        bench.mapped(arguments.tasks)
        if isinstance(system, Mqtt) and worker is not None:
            worker.stop()
            bench.own(system, arguments.singles)
    return result


def _start(system: System, site: AirflowSite, stack: ExitStack) -> Server | None:
    helpers = list(system.helpers())
    worker = system.worker()
    for server in (*helpers, *([] if worker is None else [worker])):
        stack.callback(server.stop)
    for server in helpers[:1]:  # a broker, before the scheduler looks for it
        server.start()
    for part in PARTS:
        site.server(part).launch()
    site.servers["api-server"].await_ready()
    wait_for(_healthy(site), what="a scheduler", timeout=90)
    for server in (*helpers[1:], *([] if worker is None else [worker])):
        server.start()
    return worker


def _healthy(site: AirflowSite) -> Callable[[], bool]:
    def healthy() -> bool:
        site.check()
        return bool(site.client.get("monitor/health")["scheduler"]["status"] == "healthy")

    return healthy


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="peers.measure", description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--prefix", nargs="*", default=())
    parser.add_argument("--device", default="")
    for name, number in (("slots", 8), ("tasks", 40), ("singles", 8)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--idle", type=float, default=60)
    given = parser.parse_args(arguments)
    place = Place(given.directory, given.host, given.database_url, given.slots, given.prefix)
    link = Link(given.host, tuple(given.prefix), given.device)
    try:
        result = measure(place, link, given)
    except (StartError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result.to_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
