"""Real servers for tests: each on a free port of 127.0.0.1, with files in a directory of its own, stopped by its pid.

    with mosquitto(tmp_path, accounts=["edge-1"]) as broker:
        broker.url("edge-1"); broker.kill(); broker.forget(); broker.start()
    with postgres() as database:
        database.url; database.new_database()
    with pgbouncer(database, "transaction") as pooler:
        pooler.url_of(database.url)
    with nats(tmp_path) as broker: ...
    with prometheus(tmp_path, configuration) as watcher:
        watcher.query("up"); watcher.alerts()
    with Proxy(broker.port) as proxy:
        proxy.port; proxy.cut(); proxy.stall(); proxy.delay(0.2); proxy.heal()

Where a server is missing, the test skips with the reason; in CI (CI=true) it fails.
"""

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from demo.brokers import Broker, Mosquitto, Nats
from demo.processes import MissingProgramError, Server, find_program, free_port, listens, wait_for
from proxy import Proxy

__all__ = [
    "Broker", "Mosquitto", "Nats", "Pgbouncer", "Postgres", "Prometheus", "Proxy", "Server", "free_port", "listens",
    "missing", "mosquitto", "nats", "nats_cluster", "pgbouncer", "postgres", "prometheus", "promtool", "wait_for",
]  # fmt: skip


def missing(reason: object) -> NoReturn:
    """Skip the test on a laptop; fail it in CI, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(str(reason))
    pytest.skip(str(reason))


@contextmanager
def mosquitto(
    directory: Path | None = None,
    *,
    accounts: Iterable[str] = (),
    port: int = 0,
    bind: str = "127.0.0.1",
    overrides: Mapping[str, str | int | None] | None = None,
) -> Iterator[Mosquitto]:
    """A running Mosquitto with the accounts `bridge`, `monitor` and `accounts`, and mosquitto/acl."""
    with _directory(directory) as folder:
        try:
            broker = Mosquitto(folder, accounts=accounts, port=port, bind=bind, overrides=overrides)
        except MissingProgramError as error:
            missing(error)
        with running(broker):
            yield broker


@contextmanager
def nats(directory: Path | None = None, *, accounts: Iterable[str] = ()) -> Iterator[Nats]:
    """A running NATS server with MQTT, with the accounts and rights that Mosquitto would have."""
    with _directory(directory) as folder:
        try:
            broker = Nats(folder, accounts=accounts)
        except MissingProgramError as error:
            missing(error)
        with running(broker):
            yield broker


@contextmanager
def nats_cluster(directory: Path | None = None, *, accounts: Iterable[str] = (), size: int = 3) -> Iterator[list[Nats]]:
    """Several NATS servers that are one MQTT broker."""
    passwords = {name: secrets.token_urlsafe(12) for name in ("bridge", "monitor", *accounts)}
    ports = [free_port() for _ in range(size)]
    with _directory(directory) as folder, ExitStack() as stack:
        nodes = []
        for number, port in enumerate(ports, start=1):
            name = f"node-{number}"
            peers = [other for other in ports if other != port]
            try:
                node = Nats(folder / name, name=name, cluster_port=port, peers=peers, passwords=passwords)
            except MissingProgramError as error:
                missing(error)
            node.launch()
            stack.callback(node.stop)
            nodes.append(node)
        for node in nodes:
            node.await_ready()
        yield nodes


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Start `server`, and stop whatever of it runs at the end."""
    try:
        server.start()
        yield server
    finally:
        if server.alive:
            server.resume()
        server.stop()


@contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="airflow-mqtt-", ignore_cleanup_errors=True) as name:
        yield Path(name)


# --- PostgreSQL -------------------------------------------------------------------------------------------

#: What makes it fast: nothing here has to survive a power cut. A test of that turns `durable` on.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Postgres(Server):
    """PostgreSQL in `directory`. As root it runs as another user, since PostgreSQL refuses to run as root."""

    user = "airflow"

    def __init__(self, directory: Path, *, bind: str = "127.0.0.1", durable: bool = False) -> None:
        self.directory = directory
        self.port = free_port()
        self.host = bind
        self.password = secrets.token_urlsafe(12)
        settings = [
            "-p", str(self.port), "-c", f"listen_addresses={bind}", "-c", f"unix_socket_directories={directory}",
            "-c", "max_connections=200", "-c", "shared_buffers=64MB",
        ]  # fmt: skip
        for setting in () if durable else FAST:
            settings += ["-c", setting]
        super().__init__(
            "postgres",
            [*_as_postgres(), _postgres_program("postgres"), "-D", str(directory / "data"), *settings],
            log=directory / "postgres.log",
            cwd=directory,
            ready=self.answers,
        )

    def initialise(self) -> None:
        """Make the cluster's files."""
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self.directory.chmod(0o700)
        secret = self.directory / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        self._run(
            "initdb", "-D", str(self.directory / "data"), "-U", self.user, "-A", "scram-sha-256",
            f"--pwfile={secret}", "-E", "UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip
        with (self.directory / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")  # on loopback it is nobody else

    def _run(self, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*_as_postgres(), _postgres_program(program), *arguments],
            check=True,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env={**os.environ, "PGPASSWORD": self.password, **environment},
        )

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run `sql` and return its bare output."""
        arguments = ["-h", self.host, "-p", str(self.port), "-U", self.user, "-d", database, "-XAtqc", sql]
        return self._run("psql", *arguments).stdout.strip()

    def answers(self) -> bool:
        try:
            return self.psql("select 1") == "1"
        except subprocess.CalledProcessError:
            return False

    def new_database(self, name: str | None = None) -> str:
        """Make an empty database and return its URL."""
        name = name or f"test_{secrets.token_hex(4)}"
        self.psql(f'create database "{name}"')
        return self.url_of(name)

    def url_of(self, database: str) -> str:
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def stop(self, timeout: float = 60) -> None:
        """End it with its sessions. At SIGTERM alone it would wait for those that a test has left open."""
        self.signal(signal.SIGINT)
        super().stop(timeout)

    @property
    def url(self) -> str:
        """The URL of the database `postgres`: as Airflow's `sql_alchemy_conn` and `--database-url` take it."""
        return self.url_of("postgres")


@contextmanager
def postgres(*, bind: str = "127.0.0.1", durable: bool = False) -> Iterator[Postgres]:
    """A running PostgreSQL. Its directory is always a new one in the temporary directory: another user owns it."""
    with tempfile.TemporaryDirectory(prefix="airflow-mqtt-pg-", ignore_cleanup_errors=True) as name:
        try:
            server = Postgres(Path(name), bind=bind, durable=durable)
            server.initialise()
        except (MissingProgramError, KeyError) as error:
            missing(error)
        with running(server):
            yield server


# --- PgBouncer ----------------------------------------------------------------------------------------------

#: Sessions of the server that PgBouncer lends, few, and each time the next: what somebody leaves in one is met soon.
POOL = 3


class Pgbouncer(Server):
    """PgBouncer before `server`. `mode` is `transaction` or `session`."""

    def __init__(self, directory: Path, server: Postgres, mode: str) -> None:
        self.port = free_port()
        self.server = server
        users = directory / "users"
        users.write_text(f'"{server.user}" "{server.password}"\n')
        settings = directory / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {users}\n"
            f"pool_mode = {mode}\ndefault_pool_size = {POOL if mode == 'transaction' else 50}\nmax_client_conn = 200\n"
            "server_round_robin = 1\n"
        )
        for path in (directory, users, settings):
            path.chmod(0o755)
        program = find_program("pgbouncer", "apt-get install pgbouncer")
        super().__init__(
            "pgbouncer",
            [*_as_postgres(), program, str(settings)],
            log=directory / "pgbouncer.log",
            cwd=directory,
            ready=lambda: listens(self.port),
        )

    def url_of(self, url: str) -> str:
        """Return the URL of the database at `url` by way of this pooler."""
        return url.replace(f":{self.server.port}/", f":{self.port}/")


@contextmanager
def pgbouncer(server: Postgres, mode: str) -> Iterator[Pgbouncer]:
    """A running PgBouncer before `server`."""
    with tempfile.TemporaryDirectory(prefix="airflow-mqtt-pool-", ignore_cleanup_errors=True) as name:
        try:
            pooler = Pgbouncer(Path(name), server, mode)
        except MissingProgramError as error:
            missing(error)
        with running(pooler):
            yield pooler


def _as_postgres() -> list[str]:
    if os.geteuid() != 0:
        return []
    return [
        find_program("setpriv", "apt-get install util-linux"),
        *["--reuid=postgres", "--regid=postgres", "--init-groups"],
    ]


def _postgres_program(name: str) -> str:
    """Return the newest version's program: Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parents[1].name))
    if versions:
        return str(versions[-1])
    found = shutil.which(name)
    if found is None:
        raise MissingProgramError(f"{name} is not installed: apt-get install postgresql")
    return found


# --- Prometheus ---------------------------------------------------------------------------------------------


class Prometheus(Server):
    """Prometheus with the configuration at `path`, and its data in `directory`."""

    def __init__(self, directory: Path, path: Path) -> None:
        self.port = free_port()
        program = find_program("prometheus", "apt-get install prometheus")
        super().__init__(
            "prometheus",
            [
                program, f"--config.file={path}", f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}", "--web.enable-lifecycle", "--log.level=warn",
            ],
            log=directory / "prometheus.log",
            cwd=directory,
            ready=lambda: listens(self.port),
        )  # fmt: skip

    def get(self, path: str, **values: str) -> Any:
        """Ask its API, https://prometheus.io/docs/prometheus/latest/querying/api/, and return the data it answers."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(values)}"
        with urlopen(url, timeout=60) as answer:
            document = json.load(answer)
        assert document["status"] == "success"
        return document["data"]

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return the series that `text` finds now, as metric and value."""
        found: list[dict[str, Any]] = self.get("query", query=text)["result"]
        return found

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Name -> one alert of that name that fires."""
        return {one["labels"]["alertname"]: one for one in self.get("alerts")["alerts"] if one["state"] == "firing"}


@contextmanager
def prometheus(directory: Path, path: Path) -> Iterator[Prometheus]:
    """A running Prometheus."""
    try:
        server = Prometheus(directory, path)
    except MissingProgramError as error:
        missing(error)
    with running(server):
        yield server


def promtool(*arguments: str) -> str:
    """Run promtool and return what it says. Raises `CalledProcessError`."""
    try:
        program = find_program("promtool", "apt-get install prometheus")
    except MissingProgramError as error:
        missing(error)
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout
