"""Real processes with proxies between them: Mosquitto, PostgreSQL, two bridges, three workers.

    worker -- proxy -- Mosquitto -- proxy -- bridge -- proxy -- PostgreSQL

What ends by itself is started again after a second, as systemd would.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import sqlalchemy as sa

import servers
from airflow_mqtt.database import tables
from demo.processes import MissingProgramError, Server
from faults.api import ExecutionApi
from faults.jobs import Jobs
from faults.links import Link
from leftovers import end_runners

DEVICE = Path(__file__).with_name("device")
ROOT = Path(__file__).resolve().parents[2]
WORKERS = ("edge-1", "edge-2", "edge-3")
BRIDGES = ("one", "two")
SLOTS = 6
RESTART_AFTER = 1.0

BRIDGE_OPTIONS = {
    "task-heartbeat-interval": 1, "accept-timeout": 3, "lease-ttl": 2, "status-interval": 1, "lost-after": 600,
}  # fmt: skip
WORKER_OPTIONS = {
    "keepalive": 5, "heartbeat-interval": 2, "runner-idle-timeout": 60, "log-rate": 1_000_000, "disk-reserve": 262_144,
}  # fmt: skip


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


class Database(servers.Postgres):
    """PostgreSQL with few connections. It keeps what it committed through a SIGKILL of all its processes."""

    MAX_CONNECTIONS = 60

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, durable=True)
        self.command[self.command.index("max_connections=200")] = f"max_connections={self.MAX_CONNECTIONS}"

    def _all(self, number: signal.Signals) -> None:
        for pid in (self.pid, *_children(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL the postmaster and its backends, which have process groups of their own."""
        self._all(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(60)

    def pause(self) -> None:
        self._all(signal.SIGSTOP)

    def resume(self) -> None:
        self._all(signal.SIGCONT)


@contextmanager
def database() -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="airflow-mqtt-pg-", ignore_cleanup_errors=True) as name:
        try:
            server = Database(Path(name))
            server.initialise()
        except (MissingProgramError, KeyError) as error:
            servers.missing(error)
        with servers.running(server):
            yield server


class OnlyItself(Server):
    """A process whose children outlive its SIGKILL, as a worker's runners do."""

    def kill(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def stop(self, timeout: float = 0) -> None:
        """As `kill`: a row of the table does not wait for a drain."""
        if self.alive:
            self.kill()


class Keeper:
    """Starts what ended by itself again. Whoever ends something on purpose holds it."""

    def __init__(self) -> None:
        self._kept: list[Server] = []
        self._held: set[str] = set()
        self._stop = threading.Event()
        self._lock = threading.RLock()
        self.exits: list[str] = []
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def keep(self, server: Server) -> None:
        self._kept.append(server)

    @contextmanager
    def holding(self, server: Server) -> Iterator[None]:
        with self._lock:
            self._held.add(server.name)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(server.name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        ended: dict[str, float] = {}
        while not self._stop.wait(0.1):
            with self._lock:
                for server in self._kept:
                    if server.name in self._held or server.alive:
                        ended.pop(server.name, None)
                    elif server.name not in ended:
                        ended[server.name] = time.monotonic()
                        last = server.tail(1).splitlines()[-1][:300]
                        self.exits.append(f"{server.name} ended with {server.returncode}: {last}")
                    elif time.monotonic() - ended[server.name] >= RESTART_AFTER:
                        server.launch()


class Rig:
    """All parts of one row of the table."""

    def __init__(
        self, directory: Path, database: Database, *, seed: int, overrides: dict[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.database = database
        self.seed = seed
        self._overrides = overrides
        self._stack = ExitStack()
        self.workers: dict[str, Server] = {}
        self.bridges: dict[str, Server] = {}
        self.worker_links: dict[str, Link] = {}
        self.bridge_links: dict[str, Link] = {}
        self.database_links: dict[str, Link] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        enter = self._stack.enter_context
        self._stack.callback(end_runners, self.directory)
        self.broker = enter(servers.mosquitto(self.directory / "broker", accounts=WORKERS, overrides=self._overrides))
        self.url = self.database.new_database()
        self.api = enter(ExecutionApi())
        self.jobs = Jobs(self.url, self.api, self.directory / "evidence", seed=self.seed)
        self.jobs.open()
        self._stack.callback(self.jobs.close)
        self.keeper = Keeper()
        for number, name in enumerate(BRIDGES):
            self.bridge_links[name] = enter(Link(self.broker.port, seed=self.seed * 100 + number))
            self.database_links[name] = enter(Link(self.database.port, seed=self.seed * 100 + 10 + number))
            self._run(self.bridge(name), self.bridges)
        for number, name in enumerate(WORKERS):
            self.worker_links[name] = enter(Link(self.broker.port, seed=self.seed * 100 + 20 + number))
            self.clock(name).parent.mkdir(parents=True, exist_ok=True)
            self._run(self.worker(name, self.worker_links[name].port), self.workers)
        enter(self.keeper)

    def _run(self, server: Server, among: dict[str, Server]) -> None:
        among[server.name] = server
        self._stack.enter_context(servers.running(server))
        self.keeper.keep(server)

    @property
    def proxies(self) -> list[Link]:
        return [*self.worker_links.values(), *self.bridge_links.values(), *self.database_links.values()]

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_AIRFLOW"))}
        return kept | {"PYTHONUNBUFFERED": "1"}

    def bridge(self, name: str) -> Server:
        url = self.url.replace(f":{self.database.port}/", f":{self.database_links[name].port}/")
        command = [sys.executable, "-m", "airflow_mqtt.cli", "bridge", "run", "--instance", name, "--allow", "all"]
        command += ["--broker-url", self.broker.url("bridge", port=self.bridge_links[name].port)]
        command += ["--database-url", url, "--execution-api-url", self.api.url, *_flags(BRIDGE_OPTIONS)]
        return Server(name, command, log=self.directory / f"bridge-{name}.log", env=self._environment())

    def state_dir(self, name: str) -> Path:
        return self.directory / name / "state"

    def clock(self, name: str) -> Path:
        """The file with the error of the device's clock, in seconds."""
        return self.directory / name / "clock"

    def worker(self, name: str, port: int, *, state: Path | None = None, label: str = "") -> Server:
        command = [sys.executable, "-m", "airflow_mqtt.cli", "worker", "run", "--name", name, "--slots", str(SLOTS)]
        command += ["--broker-url", self.broker.url(name, port=port)]
        command += ["--state-dir", str(state or self.state_dir(name)), *_flags(WORKER_OPTIONS)]
        env = self._environment()
        env |= {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(DEVICE), env.get("PYTHONPATH")])), "FAULTS_CLOCK": str(self.clock(name)),
            "FAULTS_WORKER": label or name,
        }  # fmt: skip
        return OnlyItself(label or name, command, log=self.directory / f"worker-{label or name}.log", env=env)

    def leader(self) -> str | None:
        """Return the name of the bridge whose lease it is now."""
        with self.jobs.engine.connect() as connection:
            return connection.execute(sa.select(tables.bridge.c.holder)).scalar_one_or_none() or None


def _flags(options: dict[str, int]) -> list[str]:
    return [text for key, value in options.items() for text in (f"--{key}", str(value))]
