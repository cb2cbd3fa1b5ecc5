"""A bridge that cannot begin: it says once, in one line, what a person must mend, and it can be stopped."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from airflow_mqtt.database import tables
from proxy import Proxy
from schema import with_tables
from servers import free_port, wait_for


class Started:
    """A bridge process that nobody helps: `ended` returns its exit code, `lines` what it has said."""

    def __init__(self, log: Path, database_url: str, *flags: str, broker_url: str = "mqtt://u:p@127.0.0.1:9") -> None:
        given = [
            "--database-url", database_url, "--broker-url", broker_url,
            "--execution-api-url", "http://127.0.0.1:9/execution/", *flags,
        ]  # fmt: skip
        command = [sys.executable, "-m", "airflow_mqtt.cli", "bridge", "run", *given]
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)

    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    def ended(self) -> int:
        return self.process.wait(timeout=60)


@pytest.fixture
def start(tmp_path):
    started = []

    def start_one(*arguments, **options):
        started.append(Started(tmp_path / f"bridge-{len(started)}.log", *arguments, **options))
        return started[-1]

    yield start_one
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_bridge_without_a_database_can_be_stopped(start, number):
    bridge = start(f"postgresql://u:p@127.0.0.1:{free_port()}/d")
    wait_for(lambda: "the database does not answer" in "".join(bridge.lines()), what="its first try")
    bridge.process.send_signal(number)
    assert bridge.ended() == 0
    assert "Traceback" not in "".join(bridge.lines())


def test_a_bridge_whose_database_is_silent_can_be_stopped(start):
    """The connection stands, and PostgreSQL says nothing: an attempt takes its ten seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        bridge = start(f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/d")
        connection, _ = silent.accept()
        with connection:
            bridge.process.send_signal(signal.SIGTERM)
            assert bridge.ended() == 0
    assert bridge.lines() == []  # an attempt that was waited for would have been said


@pytest.fixture
def migrated_postgres(shared_postgres):
    """The name of a database in PostgreSQL that has the tables."""
    url = sa.engine.make_url(shared_postgres.new_database())
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg2"))
    tables.metadata.create_all(engine)
    engine.dispose()
    return url.database


@pytest.mark.parametrize("silent", ["database", "broker", "both"])
def test_a_leader_can_be_stopped_when_nobody_answers(start, shared_postgres, broker, migrated_postgres, silent):
    """The connections stand. It has a lease to give back, and transactions to end."""
    with Proxy(shared_postgres.port) as to_database, Proxy(broker.port) as to_broker:
        database_url = sa.engine.make_url(shared_postgres.url_of(migrated_postgres)).set(port=to_database.port)
        bridge = start(
            database_url.render_as_string(hide_password=False),
            broker_url=broker.url("bridge").replace(f":{broker.port}", f":{to_broker.port}"),
        )
        wait_for(lambda: "connected to broker" in "".join(bridge.lines()), what="its lead")
        for name, proxy in (("database", to_database), ("broker", to_broker)):
            if silent in (name, "both"):
                proxy.stall()
        bridge.process.send_signal(signal.SIGTERM)
        assert bridge.ended() == 0
    said = "".join(bridge.lines())
    assert "Traceback" not in said
    if silent == "broker":
        assert "stopped leading" in said


def only_line(bridge, code=1):
    assert bridge.ended() == code
    (line,) = bridge.lines()
    return line


def test_a_mistyped_path_of_sqlite_makes_no_file(start, tmp_path):
    path = tmp_path / "a directory" / "air flow.db"
    for missing in (path, path.with_name("other.db")):
        line = only_line(start(f"sqlite:///{missing}"))
        assert f"there is no database at {missing}; check database_url" in line
        assert "airflow db migrate" in line
        path.parent.mkdir(exist_ok=True)
    assert list(path.parent.iterdir()) == []


def test_an_empty_database_wants_a_migration(start, tmp_path):
    (tmp_path / "100 %41 #1?.db").touch()
    line = only_line(start(f"sqlite:///{tmp_path}/100 %2541 %231%3f.db"))
    assert "the database has not the tables" in line and "airflow db migrate" in line


@pytest.mark.parametrize("content", [b"no database, but a text that somebody wrote\n" * 100, None])
def test_a_file_that_is_no_database(start, tmp_path, content):
    path = tmp_path / "airflow.db"
    path.mkdir() if content is None else path.write_bytes(content)
    line = only_line(start(f"sqlite:///{path}"))
    assert f"the database at {path} cannot be used" in line
    assert "check database_url" in line


def test_two_slashes_are_a_mistake_in_the_settings(start):
    assert "a path needs sqlite:////absolute/path" in only_line(start("sqlite://airflow.db"), code=2)


@pytest.fixture
def migrated(sqlite_url):
    engine = with_tables(sqlite_url)
    engine.dispose()
    return sqlite_url


def of_link(bridge):
    """What the link has said, without the time."""
    return [line.partition("bridge.mqtt.link: ")[2] for line in bridge.lines() if "bridge.mqtt.link: " in line]


def await_tries(broker, number):
    """Wait until the broker has seen so many connections; it names each in its log."""
    wait_for(lambda: broker.log.read_text().count("New connection from") >= number, what="tries")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_an_account_without_rights_is_told_where_to_look_and_once(start, broker, migrated, version):
    bridge = start(migrated, "--mqtt-version", version, broker_url=broker.url("edge-1"))
    wait_for(
        lambda: "check account and access rules (mosquitto/acl)" in "".join(bridge.lines()), what="advice", timeout=60
    )
    await_tries(broker, 6)
    bridge.process.send_signal(signal.SIGTERM)
    assert bridge.ended() == 0
    said = of_link(bridge)
    assert len(said) == len(set(said)), said


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_wrong_password_is_named_once(start, broker, migrated, version):
    wrong = f"mqtt://bridge:wrong@{broker.host}:{broker.port}"
    bridge = start(migrated, "--mqtt-version", version, broker_url=wrong)
    await_tries(broker, 4)
    bridge.process.send_signal(signal.SIGTERM)
    assert bridge.ended() == 0
    (line,) = of_link(bridge)
    assert "access denied (" in line and "check user and password of broker_url" in line


def test_each_outage_of_the_broker_is_said_with_its_end(start, broker, migrated):
    bridge = start(migrated, broker_url=broker.url("bridge"))

    def said(text, times):
        wait_for(lambda: "".join(bridge.lines()).count(text) >= times, what=f"{text} ({times})")

    for times in (1, 2):
        said("connected to broker", times)
        broker.kill()
        said("connection lost", times)
        said("Connection refused", times)
        broker.start()
    said("connected to broker", 3)
    bridge.process.send_signal(signal.SIGTERM)
    assert bridge.ended() == 0
    assert len(of_link(bridge)) <= 9, of_link(bridge)  # also what it met in the middle of publishing


def test_an_address_for_metrics_that_is_taken(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        bridge = start(f"postgresql://u:p@127.0.0.1:{free_port()}/d", "--metrics-address", address)
        assert bridge.ended() == 1
    (line,) = bridge.lines()
    assert line == (
        f"airflow-mqtt bridge: metrics_address: nobody can listen on {address} (Address already in use); give a free"
        " port of this machine"
    )
