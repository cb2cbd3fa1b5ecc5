"""The bridge's `health_file`: it is touched by who leads and by who stands by, and by nobody who hangs."""

import os
import time

import pytest

from airflow_mqtt.database import tables
from demo import edge
from servers import mosquitto, running, wait_for


@pytest.fixture
def bridge(tmp_path, engine, database_url):
    """Returns a bridge, not started, and its health file."""
    with mosquitto(tmp_path / "broker") as broker:

        def make(name):
            file = tmp_path / f"{name}.health"
            server = edge.bridge(
                tmp_path,
                name=name,
                broker_url=broker.url("bridge"),
                database_url=database_url,
                execution_api_url="http://127.0.0.1:1/execution/",
                options=["--instance", name, "--health-file", str(file), "--lease-ttl", "3"],
            )
            return server, file

        yield make


def await_beats(file):
    """Wait for more than one: a single one may have been on its way."""
    before = time.time()
    wait_for(lambda: file.exists() and file.stat().st_mtime > before + 1, what="new beats")


def test_leader_and_standby_touch_their_files_and_one_that_hangs_does_not(bridge):
    (leader, of_leader), (standby, of_standby) = bridge("one"), bridge("two")
    with running(leader):
        wait_for(lambda: "leading with epoch" in leader.tail(), what="a leader")
        with running(standby):
            wait_for(lambda: "standing by" in standby.tail(), what="a standby")
            await_beats(of_leader)
            await_beats(of_standby)
            standby.pause()
            os.utime(of_standby, (0, 0))
            await_beats(of_leader)  # time passes, and the other goes on
            assert of_standby.stat().st_mtime == 0
            standby.resume()
            await_beats(of_standby)


def test_one_without_its_tables_ends_with_one_line_and_touches_nothing(bridge, engine):
    tables.metadata.drop_all(engine)
    server, file = bridge("one")
    server.launch()
    assert server.wait() == 1
    (line,) = server.log.read_text().splitlines()
    assert "run `airflow db migrate`" in line
    assert not file.exists()


def test_a_file_that_cannot_be_made_is_said_in_one_line(bridge, tmp_path):
    server, _ = bridge("one")
    server.command[server.command.index("--health-file") + 1] = str(tmp_path / "missing/health")
    server.launch()
    assert server.wait() == 2
    (line,) = server.log.read_text().splitlines()
    assert "health_file" in line
    assert "its directory is not there" in line
