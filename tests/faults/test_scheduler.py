"""Faults of the scheduler and of Airflow around it, on a real Airflow: what the device did is on its disk.

FAULTS_API_OUTAGE is for how many seconds the api-server is down in that test (60; the full figure is 300).
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from airflow_mqtt.database import tables
from airflow_mqtt.worker import processes
from airflow_site import WORKER, WholeSite, whole_site
from demo.client import AirflowClient
from servers import wait_for

OUTAGE = float(os.environ.get("FAULTS_API_OUTAGE", "60"))

#: For one test only: a token that waits lives as long, and the others do not run against that clock.
QUEUED_TIMEOUT = 25

#: Within which the process of a task is gone once the bridge knows that Airflow does not want it: the supervisor's
#: next heartbeat (1 s), and then what `on_kill` takes. The Task SDK lets a task that goes on after `on_kill` live for
#: another 5 s (`WatchedSubprocess.kill`), and so do we: that time is the task's own.
GONE_WITHIN = 5.0
SDK_ESCALATION = 5.0

SETTINGS = {
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "1",
    # Nobody can heartbeat to an api-server that is down: Airflow itself fails tasks after this long (300 by default).
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(int(max(300, OUTAGE * 2))),
    "AIRFLOW__CORE__PARALLELISM": "32",
}

pytestmark = pytest.mark.timeout(600)


@dataclass
class Held:
    """One run of a Dag whose tasks wait for `go`."""

    site: WholeSite
    engine: sa.Engine
    dag: str
    run: str
    folder: Path

    @property
    def client(self) -> AirflowClient:
        return self.site.client

    def traces(self, name: str = "starts") -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def go(self) -> None:
        (self.folder / "go").touch()

    def await_start(self, count: int = 1, timeout: float = 120) -> list[int]:
        """Wait until user code has started `count` times; return the processes."""
        wait_for(lambda: len(self.traces()) >= count, what=f"{count} starts of {self.dag}", timeout=timeout)
        return [int(found) for line in self.traces() for found in re.findall(r"pid=(\d+)", line)]

    def task(self, task: str = "hold") -> dict[str, Any]:
        return self.client.task(self.dag, self.run, task)

    def state(self) -> str:
        return self.task()["state"]

    def end(self, timeout: float = 90) -> str:
        return self.client.await_run(self.dag, self.run, timeout=timeout, check=self.site.airflow.check)

    def jobs(self) -> list[Any]:
        """Return this run's rows of `mqtt_job`, the oldest first."""
        query = sa.select(tables.job).where(tables.job.c.run_id == self.run).order_by(tables.job.c.queued_at)
        with self.engine.connect() as connection:
            return list(connection.execute(query))

    def log(self) -> str:
        """Return the end of the first job's log."""
        query = sa.select(tables.job_log.c.data).where(tables.job_log.c.job_id == self.jobs()[0].id)
        with self.engine.connect() as connection:
            data = b"".join(connection.execute(query.order_by(tables.job_log.c.offset)).scalars())
        return data.decode(errors="replace")[-6000:]

    def event_at(self, event: str) -> float:
        """Wait for an event of this run's first job; return when it was."""
        query = sa.select(tables.job_event.c.at).where(
            tables.job_event.c.job_id == self.jobs()[0].id, tables.job_event.c.event == event
        )

        def found() -> float | None:
            with self.engine.connect() as connection:
                return connection.execute(query).scalar()

        return wait_for(found, what=f"the event {event}")

    def await_gone(self, pid: int) -> float:
        """Wait until the process is gone (or only waits to be reaped); return when that was seen."""
        process = processes.identify(pid)
        wait_for(lambda: not processes.alive(process), what=f"process {pid} to be gone", every=0.02)
        return time.time()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSite]:
    pytest.importorskip("airflow", reason="Airflow is not installed")
    directory = tmp_path_factory.mktemp("site")
    shutil.copytree(Path(__file__).with_name("dags"), directory / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    with whole_site(directory, SETTINGS) as running:
        running.bridge.stop()
        running.bridge.command += ["--task-heartbeat-interval", "1"]
        running.bridge.start()
        running.watch.await_state("bridge/status", "leading", servers=[running.bridge], timeout=90)
        yield running


@pytest.fixture(scope="module")
def engine(site: WholeSite) -> Iterator[sa.Engine]:
    engine = sa.create_engine(site.airflow.database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def begin(site: WholeSite, engine: sa.Engine, tmp_path: Path):
    """Start a run of a Dag with a folder of its own. Whatever still waits at the end of the test goes on."""
    begun: list[Held] = []

    def start(dag: str, **conf: Any) -> Held:
        site.client.await_dag(dag, check=site.airflow.check)
        folder = tmp_path / f"{dag}-{len(begun)}"
        folder.mkdir()
        run = site.client.trigger(dag, {"folder": str(folder), **conf})
        begun.append(Held(site, engine, dag, run, folder))
        return begun[-1]

    yield start
    for held in begun:
        held.go()


@pytest.fixture
def scheduler(site: WholeSite):
    """The scheduler, which is running again after the test."""
    server = site.airflow.servers["scheduler"]
    yield server
    if not server.alive:
        server.start()


# --- the scheduler dies -----------------------------------------------------------------------------------


def test_scheduler_dies_between_queueing_and_sync(begin, site: WholeSite, scheduler) -> None:
    """It committed the job and heard nothing of it. The task runs while there is no scheduler; the next one adopts it."""
    site.bridge.pause()
    held = begin("holds")
    wait_for(lambda: [job.state for job in held.jobs()] == ["queued"], what="the job", timeout=60, every=0.02)
    scheduler.kill()
    site.bridge.resume()
    held.await_start()
    scheduler.start()
    time.sleep(12)  # longer than its health check: by now it has adopted, or failed, what the old one left
    assert held.state() == "running"
    held.go()
    assert held.end() == "success"
    assert len(held.traces()) == 1 and len(held.jobs()) == 1


def test_task_ends_while_there_is_no_scheduler(begin, site: WholeSite, scheduler) -> None:
    held = begin("holds")
    held.await_start()
    scheduler.kill()
    held.go()
    wait_for(lambda: held.jobs()[0].state == "succeeded", what="the job's end", timeout=60)
    scheduler.start()
    assert held.end() == "success"
    assert len(held.traces()) == 1 and len(held.jobs()) == 1


def test_two_schedulers_and_one_dies(begin, site: WholeSite, scheduler) -> None:
    second = site.airflow.server("scheduler", name="scheduler-2")
    second.start()
    try:
        runs = [begin("holds_many") for _ in range(2)]
        wait_for(lambda: sum(len(held.jobs()) for held in runs) >= 8, what="jobs of both schedulers", timeout=90)
        scheduler.kill()
        del site.airflow.servers["scheduler"]
        for held in runs:
            held.go()
        assert [held.end(timeout=240) for held in runs] == ["success", "success"]
        for held in runs:
            started = [line.partition(" ")[0] for line in held.traces()]
            assert sorted(started) == sorted(set(started)) and len(started) == 6
    finally:
        site.airflow.servers["scheduler"] = scheduler
        if not scheduler.alive:
            scheduler.start()
        second.stop()
        del site.airflow.servers["scheduler-2"]


# --- somebody changes the task while it runs --------------------------------------------------------------


def _clear(held: Held) -> None:
    body = {"dry_run": False, "dag_run_id": held.run, "task_ids": ["hold"], "only_failed": False, "only_running": False}
    held.client.call("POST", f"dags/{held.dag}/clearTaskInstances", json=body)


def _mark(held: Held, state: str) -> None:
    path = f"dags/{held.dag}/dagRuns/{held.run}/taskInstances/hold"
    held.client.call("PATCH", path, json={"new_state": state})


def _assert_gone(held: Held, pid: int, within: float = GONE_WITHIN) -> None:
    """`on_kill` ran, and the process is gone in time from when the bridge learned that it is unwanted."""
    gone = held.await_gone(pid)
    took = gone - held.event_at("cancel")
    print(f"{held.dag}: gone after {took:.1f} s")
    assert took <= within, f"the process was there for {took:.1f} s after the bridge knew\n{held.log()}"
    assert [line for line in held.traces("killed") if f"pid={pid}" in line], "on_kill did not run"


@pytest.mark.parametrize("state", ["failed", "success"])
def test_marked_while_it_runs(begin, state: str) -> None:
    held = begin("holds")
    (pid,) = held.await_start()
    _mark(held, state)
    _assert_gone(held, pid)
    assert held.end() == state
    assert held.state() == state and len(held.traces()) == 1
    wait_for(lambda: held.jobs()[0].state == "cancelled", what="the job's end")


def test_marked_failed_and_takes_no_notice(begin) -> None:
    """A task that goes on after `on_kill` is killed by the SDK's own clock."""
    held = begin("holds", stubborn=True)
    (pid,) = held.await_start()
    _mark(held, "failed")
    _assert_gone(held, pid, within=GONE_WITHIN + SDK_ESCALATION)
    assert held.end() == "failed"


def test_cleared_while_it_runs(begin) -> None:
    held = begin("holds")
    (pid,) = held.await_start()
    _clear(held)
    _assert_gone(held, pid)
    held.await_start(2)
    assert held.state() == "running"
    held.go()
    assert held.end() == "success"
    assert len(held.traces()) == 2 and len(held.jobs()) == 2


# --- late reports -----------------------------------------------------------------------------------------

_HIDE = """
create or replace function hide_report() returns trigger as $$
begin
  if new.final_state in ('deferred', 'up_for_reschedule') and new.state in ('succeeded', 'failed') and old.state = 'running'
  then new.report_pending := false; end if;
  return new;
end $$ language plpgsql;
create or replace trigger hide_report before update on mqtt_job for each row execute function hide_report();
"""


@pytest.mark.parametrize("dag", ["defers", "reschedules"])
def test_late_report_of_a_task_that_is_queued_again(begin, site: WholeSite, engine: sa.Engine, dag: str) -> None:
    """The first dispatch ends; the scheduler hears of it only when the task is queued for its second."""
    with engine.begin() as connection:
        connection.execute(sa.text(_HIDE))
    held = begin(dag)
    wait_for(lambda: held.jobs() and held.jobs()[0].state == "succeeded", what="the first dispatch's end", timeout=90)
    site.worker.pause()
    try:
        wait_for(lambda: len(held.jobs()) == 2 and held.state() == "queued", what="the second dispatch", timeout=60)
        first = held.jobs()[0].id
        with engine.begin() as connection:
            connection.execute(sa.text("drop trigger hide_report on mqtt_job"))
            connection.execute(sa.update(tables.job).where(tables.job.c.id == first).values(report_pending=True))
        wait_for(lambda: not held.jobs()[0].report_pending, what="the scheduler to hear the late report")
        time.sleep(3)
        assert held.state() == "queued"
    finally:
        site.worker.resume()
    held.await_start()
    held.go()
    assert held.end() == "success"
    assert held.task()["try_number"] == 1 and len(held.traces()) == 1


# --- nobody is there --------------------------------------------------------------------------------------


@pytest.fixture
def impatient(scheduler) -> Iterator[None]:
    """The scheduler gives up on queued tasks soon."""
    name = "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT"
    scheduler.stop()
    scheduler.env[name] = str(QUEUED_TIMEOUT)
    scheduler.start()
    yield
    scheduler.stop()
    del scheduler.env[name]
    scheduler.start()


@pytest.mark.usefixtures("impatient")
def test_queued_timeout_while_the_only_worker_is_offline(begin, site: WholeSite) -> None:
    """Airflow gives up on a task that waits: it is requeued once, then failed. Nothing of it runs afterwards."""
    site.worker.stop()
    site.watch.await_state(f"worker/{WORKER}/status", "offline")
    try:
        held = begin("holds")
        assert held.end(timeout=QUEUED_TIMEOUT * 2 + 90) == "failed"
        wait_for(lambda: {job.state for job in held.jobs()} == {"cancelled"}, what="its jobs to be revoked")
        assert len(held.jobs()) == 2
    finally:
        site.worker.start()
    after = begin("holds")
    after.await_start()
    after.go()
    assert after.end() == "success"
    assert held.traces() == []


def test_api_server_down_during_a_task(begin, site: WholeSite) -> None:
    """A task goes on, and ends, while there is no API; its XCom and its state arrive when there is one again."""
    server = site.airflow.servers.pop("api-server")
    try:
        held = begin("holds")
        held.await_start()
        server.kill()
        time.sleep(OUTAGE / 2)
        held.go()
        time.sleep(OUTAGE / 2)
        assert [job.state for job in held.jobs()] == ["running"]
        server.start()
        assert held.end() == "success"
        assert len(held.traces()) == 1
        assert held.client.xcom(held.dag, held.run, "hold") == "held"
    finally:
        if not server.alive:
            server.start()
        site.airflow.servers["api-server"] = server


def test_all_is_as_it_was(site: WholeSite) -> None:
    """No part has ended by itself, and no scheduler was told what it did not expect (`process_executor_events`)."""
    site.check()
    for log in site.airflow.directory.glob("scheduler*.log"):
        assert "but the task instance's state attribute is" not in log.read_text(errors="replace"), log
