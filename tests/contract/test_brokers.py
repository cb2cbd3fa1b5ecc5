"""One pass over each broker with real processes: the bridge, and a worker that runs a task, or one that we play."""

import json
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import sqlalchemy as sa

import servers
from airflow_mqtt.database import tables, transitions
from airflow_mqtt.protocol.messages import Cancel
from demo.processes import Server
from fakes import FakeExecutionApi, FakeWorker
from proxy import Proxy
from servers import wait_for
from worker_bench import RUN_CONTEXT, WorkerProcess, workload

NAME = "edge-1"
START = {"mosquitto": servers.mosquitto, "nats": servers.nats, "cluster": servers.nats_cluster}
VARIANTS = ["mosquitto-5", "mosquitto-3.1.1", "mosquitto-auto", "nats-3.1.1", "nats-auto", "cluster-auto"]


class Site:
    """A bridge process between a broker (`nodes`), an SQLite database and an Execution API that we play."""

    def __init__(self, nodes: list[servers.Broker], version: str, folder: Path, api: FakeExecutionApi) -> None:
        self.nodes, self.version, self.folder, self.api = nodes, version, folder, api
        url = f"sqlite:///{folder}/airflow.db"
        self.engine = sa.create_engine(url)
        tables.metadata.create_all(self.engine)
        command = [
            sys.executable, "-m", "airflow_mqtt.cli", "bridge", "run", "--broker-url", nodes[0].url("bridge"),
            "--database-url", url, "--execution-api-url", api.url, "--mqtt-version", version,
            "--task-heartbeat-interval", "0.5", "--accept-timeout", "5", "--status-interval", "0.5", "--allow", "all",
        ]  # fmt: skip
        self.bridge = Server("bridge", command, log=folder / "bridge.log")

    @property
    def protocol(self) -> mqtt.MQTTProtocolVersion:
        """What a client of ours speaks."""
        v5 = self.version == "5" or (self.version == "auto" and isinstance(self.nodes[0], servers.Mosquitto))
        return mqtt.MQTTv5 if v5 else mqtt.MQTTv311

    def queue(self, task: str = "quick", queue: str = "default") -> str:
        """Commit a job, as the executor does, and return its id."""
        content = workload(task)
        row = {
            "id": str(uuid.uuid4()), "kind": "airflow", "workload_type": "ExecuteTask", "workload": json.dumps(content),
            "token": "workload-token", "token_at": time.time(), "queue": queue, "priority": 1, "slots": 1,
            "subject": content["ti"]["id"], "dag_id": "bench", "run_id": "run_1", "task_id": task, "try_number": 1,
            "owner": "1",
        }  # fmt: skip
        with self.engine.begin() as connection:
            for statement in transitions.creation(row, now=time.time(), by="test"):
                connection.execute(statement)
        return row["id"]

    def job(self, id_: str) -> sa.Row:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(tables.job).where(tables.job.c.id == id_)).one()

    def wait_state(self, id_: str, state: str, timeout: float = 60) -> None:
        wait_for(lambda: self.job(id_).state == state, what=f"job {state}; it is {self.job(id_)}", timeout=timeout)

    def log(self, id_: str) -> bytes:
        query = sa.select(tables.job_log.c.data).where(tables.job_log.c.job_id == id_).order_by(tables.job_log.c.offset)
        with self.engine.connect() as connection:
            return b"".join(connection.execute(query).scalars())


@pytest.fixture(params=VARIANTS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    kind, _, version = request.param.partition("-")
    with START[kind](tmp_path / "broker", accounts=[NAME]) as made, FakeExecutionApi() as api:
        api.answer("PATCH", "run", 200, RUN_CONTEXT)
        site = Site(made if isinstance(made, list) else [made], version, tmp_path, api)
        with servers.running(site.bridge):
            yield site
        site.engine.dispose()


def test_a_task_runs_on_a_real_worker(site: Site, tmp_path: Path) -> None:
    queue = "north.field/ö"
    worker = WorkerProcess(
        tmp_path / "worker", site.nodes[-1].url(NAME), NAME, queues=queue, mqtt_version=site.version, drain_timeout=1
    )
    with servers.running(worker):
        job = site.queue(queue=queue)
        site.wait_state(job, "succeeded", 120)
        wait_for(lambda: b"hello from the device" in site.log(job), what="the log")
        assert all(site.api.calls(*call) for call in (("PATCH", "run"), ("POST", "return_value"), ("PATCH", "state")))
        assert site.job(job).final_state == "success"


def test_orders_events_and_logs_pass(site: Site) -> None:
    with FakeWorker(site.nodes[-1].url(NAME), NAME, version=site.protocol) as worker:
        job = site.queue()
        run = worker.order(timeout=60)  # a cluster elects a leader for each of the bridge's subscriptions first
        worker.event("accepted", run)
        path = f"task-instances/{site.job(job).subject}"
        assert worker.call(run, "PATCH", f"{path}/run", {"hostname": "x", "unixname": "u", "pid": 7}).status == 200
        worker.log(run, 0, b"x" * 100_000)
        wait_for(lambda: len(site.log(job)) == 100_000, what="the log")
        site.api.answer("PUT", "heartbeat", 409, {"detail": {"reason": "not_running"}})
        assert worker.order(Cancel).job == job
        worker.event("cancelled", run)
        site.wait_state(job, "cancelled")
        wait_for(lambda: worker.acked == worker.seq, what="the acknowledgement")
    assert "Traceback" not in site.bridge.log.read_text()


def test_jobs_flow_while_a_node_of_a_cluster_dies(tmp_path: Path) -> None:
    """The bridge's node dies; an address that leads to any node, as a cluster has, leads to another one."""
    with (
        servers.nats_cluster(tmp_path / "broker", accounts=[NAME]) as nodes,
        Proxy(nodes[0].port) as address,
        FakeExecutionApi() as api,
    ):
        api.answer("PATCH", "run", 200, RUN_CONTEXT)
        site = Site([_At(nodes[0], address.port)], "auto", tmp_path, api)
        worker = WorkerProcess(tmp_path / "worker", nodes[1].url(NAME), NAME, drain_timeout=1)
        with servers.running(site.bridge), servers.running(worker):
            site.wait_state(site.queue(), "succeeded", 120)
            waiting = site.queue("wait_for_file")
            site.wait_state(waiting, "running")
            nodes[0].kill()
            address.target = ("127.0.0.1", nodes[2].port)
            worker.go.touch()
            site.wait_state(waiting, "succeeded", 120)
            site.wait_state(site.queue(), "succeeded", 120)
        site.engine.dispose()


class _At:
    """A broker behind another port."""

    def __init__(self, broker: servers.Broker, port: int) -> None:
        self._broker, self._port = broker, port

    def url(self, account: str) -> str:
        return self._broker.url(account, port=self._port)
