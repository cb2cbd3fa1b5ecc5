"""The processes around a bridge that is measured, what they cost, and what the database says in the end."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from airflow_mqtt.database import tables
from demo.brokers import Mosquitto
from demo.processes import Server, free_port, listens
from fleet.jobs import engine_of, make_history, make_tables
from proc import processor_seconds

#: Anybody may speak for any worker here: the fleet has one connection.
_OPEN: Final = {"allow_anonymous": "true", "password_file": None, "acl_file": None}


class Site:
    """Broker, database and stub, and the bridges that are started on them. `directory` holds their logs."""

    def __init__(self, directory: Path, url: str, broker: Mosquitto, api: Server, api_port: int) -> None:
        self.url = url
        self.broker = broker
        self.bridges: list[Server] = []
        self.database: Server | None = None
        self._directory = directory
        self._api = api
        self._api_port = api_port

    def start_bridge(self) -> Server:
        """Start a bridge; it leads or stands by."""
        number = len(self.bridges)
        bridge = Server(
            f"bridge-{number}",
            [
                sys.executable, "-m", "airflow_mqtt.cli", "bridge", "run",
                "--broker-url", f"mqtt://127.0.0.1:{self.broker.port}", "--database-url", self.url,
                "--execution-api-url", f"http://127.0.0.1:{self._api_port}/execution/",
                "--instance", f"bench-{number}", "--allow", "all", "--log-level", "warning" if number == 0 else "info",
            ],
            log=self._directory / f"bridge-{number}.log",
            env={name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        )  # fmt: skip
        self.bridges.append(bridge)
        bridge.start()
        return bridge

    def queue_jobs(self, count: int, queues: int, rate: float = 0.0) -> subprocess.Popen[bytes]:
        """Commit jobs, in a process of their own."""
        return subprocess.Popen(
            [sys.executable, "-m", "fleet.jobs", self.url, str(count), str(queues), str(rate)],
            cwd=Path(__file__).parents[1],
        )

    def processor_seconds(self) -> dict[str, float]:
        """Return what each part has cost so far; that of a database that is no process of its own is the bridge's."""
        spent = {
            "bridge": sum(processor_seconds(bridge.pid) for bridge in self.bridges if bridge.alive),
            "broker": processor_seconds(self.broker.pid),
            "stub": processor_seconds(self._api.pid),
            "fleet": sum(os.times()[:2]),
        }
        if self.database is not None:
            spent["database"] = processor_seconds(self.database.pid, children=True)
        return spent

    def times(self, since: float) -> list[tuple[float, float, float]]:
        """Return when each job that was queued `since` and succeeded was queued, accepted and finished."""
        job = tables.job.c
        query = sa.select(job.queued_at, job.accepted_at, job.finished_at).where(
            job.dag_id == "bench", job.state == "succeeded", job.queued_at >= since
        )
        return [(row[0], row[1], row[2]) for row in self._rows(query)]

    def is_known(self) -> bool:
        """Whether the bridge has read all jobs that were queued."""
        job = tables.job.c
        return not self._rows(sa.select(job.id).where(job.news).limit(1))

    def _rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        engine = engine_of(self.url)
        with engine.connect() as connection:
            rows = connection.execute(query).all()
        engine.dispose()
        return rows


@contextmanager
def site(directory: Path, *, sqlite: bool, history: int) -> Iterator[Site]:
    """A running site without a bridge. All that it starts ends with it."""
    with ExitStack() as stack:
        if sqlite:
            database, url = None, f"sqlite:///{directory}/airflow.db"
        else:
            database = stack.enter_context(_postgres())
            url = database.new_database()
        make_tables(url)
        if history:
            make_history(url, history)
        broker = Mosquitto(directory / "broker", overrides=_OPEN)
        port = free_port()
        api = Server(
            "stub",
            [sys.executable, "-m", "fleet.stub", str(port)],
            log=directory / "stub.log",
            cwd=Path(__file__).parents[1],
            ready=lambda: listens(port),
        )
        here = Site(directory, url, broker, api, port)
        here.database = database
        for server in (broker, api):
            server.start()
            stack.callback(server.stop)
        try:
            yield here
        finally:
            for bridge in here.bridges:
                bridge.stop()


def _postgres() -> Any:
    """PostgreSQL as the tests start it, here with all of its durability."""
    from servers import postgres  # type: ignore[import-not-found]  # noqa: PLC0415  tests have no types

    return postgres(durable=True)
