"""A bridge that cannot begin: it says once, in one line, what a person must mend, and it can be stopped."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
        return self.process.wait(timeout=20)


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
    wait_for(lambda: "the database does not answer" in "".join(bridge.lines()), what="its first try", timeout=20)
    asked = time.monotonic()
    bridge.process.send_signal(number)
    assert bridge.ended() == 0
    assert time.monotonic() - asked < 5
    assert "Traceback" not in "".join(bridge.lines())


def test_a_bridge_whose_database_is_silent_can_be_stopped(start):
    """The connection stands, and PostgreSQL says nothing: an attempt takes its ten seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        bridge = start(f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/d")
        connection, _ = silent.accept()
        with connection:
            asked = time.monotonic()
            bridge.process.send_signal(signal.SIGTERM)
            assert bridge.ended() == 0
            assert time.monotonic() - asked < 5
    assert bridge.lines() == []


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
