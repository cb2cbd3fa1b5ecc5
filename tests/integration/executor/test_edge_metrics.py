"""What Airflow's metrics say of workers and jobs, as a StatsD server hears it."""

import json
import socket
import time

import pytest

from airflow_mqtt.protocol.jobs import JobEvent
from integration.executor.world import TO_RUNNING

pytest.importorskip("statsd")


class StatsdServer:
    """A UDP port, and the lines that came there."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        self.port = self.socket.getsockname()[1]

    def lines(self):
        """Return what has come: all of it is there, since who sends is in this process."""
        found = []
        while True:
            try:
                found += self.socket.recv(65535).decode().splitlines()
            except TimeoutError:
                return {line.split("|")[0] for line in found if "edge" in line}, found


@pytest.fixture
def statsd(monkeypatch):
    server = StatsdServer()
    settings = {"STATSD_ON": "True", "STATSD_HOST": "127.0.0.1", "STATSD_PORT": str(server.port)}
    for name, value in settings.items():
        monkeypatch.setenv(f"AIRFLOW__METRICS__{name}", value)
    yield server
    server.socket.close()


@pytest.fixture
def executor(world, statsd):
    """One that says its metrics there, as a scheduler's does: `BaseExecutor` sets them up."""
    from airflow_mqtt.executor import compat

    if not compat.NAMES_METRICS_TWICE:
        pytest.skip("Airflow before 3.3 sets its metrics up once in a process")
    yield world.executor()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__METRICS__STATSD_ON", "False")
        world.executor()


STATUS = {
    "state": "running", "connection": 1, "instance": "i", "ts": 1.0, "interval": 30.0, "slots": 4, "free": 3,
    "running": 1,
}  # fmt: skip


def test_the_figures_of_a_worker(world, statsd, executor):
    world.worker("edge-1", "default", "solar", state="running", status=json.dumps(STATUS))
    world.worker("edge-2", "default", state="maintenance mode", status=json.dumps(STATUS | {"free": 4, "running": 0}))
    world.worker("edge-3", "default", state="unknown", status=json.dumps(STATUS))
    executor.sync()
    said, _ = statsd.lines()
    for name, values in {
        "status": (20, 30, 0), "connected": (1, 1, 0), "maintenance": (0, 1, 0), "jobs_active": (1, 0, 0),
        "concurrency": (4, 4, 0), "free_concurrency": (3, 4, -1), "num_queues": (2, 1, 1),
    }.items():  # fmt: skip
        for number, value in enumerate(values, 1):
            assert f"airflow.edge_worker.{name}.edge-{number}:{value}" in said


def test_a_queue_that_a_device_names_is_no_figure_of_another():
    """It goes into a tag: StatsD's own signs would end the line, and begin the next."""
    from airflow_mqtt.executor.edge_metrics import gauges
    from bridge_samples import info, worker

    strange = worker(info=info(queues=["x\nairflow.dag_processing.fake:1|c|#a:b", "café/1"]))
    (tags,) = [gauge.tags for gauge in gauges(strange, "") if "queues" in gauge.tags]
    assert tags["queues"] == "café/1,x_airflow.dag_processing.fake_1_c__a_b"


def test_what_is_gone_has_nothing_and_heartbeats_are_counted(world, statsd, executor):
    from sqlalchemy import delete, update

    from airflow_mqtt.database import tables

    for name in ("edge-1", "edge-2"):
        world.worker(name, "default", status=json.dumps(STATUS))
    executor.sync()
    statsd.lines()
    with world.session() as session:
        session.execute(delete(tables.worker).where(tables.worker.c.name == "edge-2"))
        session.execute(update(tables.worker).values(seen_at=time.time() + 61))
    executor.sync()
    assert not any("connected" in line for line in statsd.lines()[0]), "it looks now and then only"
    executor._next_look = 0
    executor.sync()
    said, _ = statsd.lines()
    assert {"airflow.edge_worker.heartbeat_count.edge-1:2", "airflow.edge_worker.connected.edge-2:0"} <= said


def test_jobs_that_start_and_end(world, statsd, executor):
    ti, job = world.queue(executor)
    _, short = world.queue(executor)
    _, never = world.queue(executor)
    world.drive(job.id, *TO_RUNNING, started_at=time.time())
    executor.sync()
    start = f"airflow.edge_worker.ti.start.default.{ti.dag_id}.{ti.task_id}:1"
    assert start in statsd.lines()[0]
    world.drive(job.id, JobEvent.SUCCEED, final_state="up_for_retry")
    world.drive(short.id, *TO_RUNNING, started_at=time.time())
    world.drive(short.id, JobEvent.LOSE)
    world.drive(never.id, JobEvent.FAIL)
    executor.sync()
    said, lines = statsd.lines()
    ends = f"airflow.edge_worker.ti.finish.default.{{}}.{ti.dag_id}.{{}}:1"
    assert ends.format("up_for_retry", ti.task_id) in said
    assert ends.format("failed", short.task_id) in said
    assert ends.format("failed", never.task_id) in said
    assert {line for line in said if "ti.start." in line} == {start.replace(ti.task_id, short.task_id)}
    assert any(line.startswith("airflow.edge_executor.sync.duration:") and line.endswith("|ms") for line in lines)


def test_one_of_several_schedulers_speaks_of_the_workers(world, statsd, executor):
    world.worker("edge-1", "default", status=json.dumps(STATUS))
    older, newer = world.scheduler(), world.scheduler()
    world.executor(newer).sync()
    assert not any("connected" in line for line in statsd.lines()[0])
    world.executor(older).sync()
    assert "airflow.edge_worker.connected.edge-1:1" in statsd.lines()[0]


@pytest.mark.parametrize("value", ["false", "perhaps"])
def test_nothing_is_said_or_read_where_it_is_off(world, statsd, executor, monkeypatch, caplog, value):
    world.worker("edge-1", "default", status=json.dumps(STATUS))
    monkeypatch.setenv("AIRFLOW__MQTT__EDGE_METRICS", value)
    off = world.executor()
    with world.statements() as asked:
        off.sync()
    assert not any("edge_" in line for line in statsd.lines()[1])
    assert not any("mqtt_worker.name" in statement and "LIMIT" in statement for statement in asked)


def test_without_metrics_of_airflow_nothing_is_read(world):
    assert world.executor()._metrics is None
