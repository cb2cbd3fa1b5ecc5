"""The bridge's `health_file`: it is touched by who leads and by who stands by, and by nobody who hangs."""

import os
import time

import pytest
import sqlalchemy as sa

from airflow_mqtt.database import tables, transitions
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

        make.broker = broker
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


def test_a_broker_that_is_silent_holds_up_neither_the_writer_nor_the_sign_of_life(bridge, engine):
    server, file = bridge("one")
    with running(server):
        wait_for(lambda: "connected to broker" in server.tail(), what="a connection")
        bridge.broker.pause()
        try:
            job = new_job(engine, not_after=time.time())
            wait_for(lambda: state_of(engine, job) == "failed", what="what time does to a job that waits")
            await_beats(file)
        finally:
            bridge.broker.resume()
        await_beats(file)
        assert "no longer leading" not in server.log.read_text()


def new_job(engine, **values):
    """Commit a job as the executor does, and return its id."""
    row = {
        "id": "late", "kind": "airflow", "workload_type": "ExecuteTask", "workload": "{}", "token": "t", "token_at": 0.0,
        "queue": "default", "priority": 1, "slots": 1, "subject": "ti", "owner": "1",
    }  # fmt: skip
    with engine.begin() as connection:
        for statement in transitions.creation(row | values, now=time.time() - 60, by="test"):
            connection.execute(statement)
    return row["id"]


def state_of(engine, job):
    with engine.connect() as connection:
        return connection.execute(sa.select(tables.job.c.state).where(tables.job.c.id == job)).scalar_one()


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
