"""The built worker image runs a job against the broker's image; the thin one starts, and says what it cannot do."""

import json
import os
from pathlib import Path

import pytest
from parts import address_of, await_log, confined, health

import servers
from worker_bench import DAG, FakeBridge


def worker(image: str, broker, name: str, dags: Path):
    bundle = {
        "name": "bench",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": "/dags"},
    }
    settings = {
        "AIRFLOW_MQTT_BROKER_URL": broker.url(name, host=broker.address, port=1883),
        "AIRFLOW_MQTT_NAME": name,
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
    }
    return confined(image, settings).with_volume_mapping(str(dags), "/dags", "ro")


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "bench.py").write_text(DAG.replace("{go}", "/tmp/go"))
    for path in (folder, *folder.parents):
        if path.owner() == folder.owner() and path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    return folder


def test_it_runs_a_job(container_broker, dags: Path) -> None:
    with (
        FakeBridge(container_broker.url("bridge"), "edge-1") as bridge,
        worker(os.environ["WORKER_IMAGE"], container_broker, "edge-1", dags) as container,
    ):
        try:
            bridge.status("idle", timeout=60)
            job = bridge.run("quick")
            finished = bridge.event(job, "finished", timeout=120)
            assert (finished.outcome, finished.exit_code) == ("succeeded", 0)
            bridge.log(job, "hello from the device")
            assert health(container, "worker") == (0, "healthy")
        except BaseException:
            print(container.get_logs())
            raise


def test_the_thin_one_says_what_it_lacks(container_broker, dags: Path) -> None:
    with (
        FakeBridge(container_broker.url("bridge"), "edge-2") as bridge,
        worker(os.environ["THIN_WORKER_IMAGE"], container_broker, "edge-2", dags) as container,
    ):
        bridge.status("idle", timeout=60)
        await_log(container, "apache-airflow-task-sdk is not installed")


class WrongPassword:
    """A broker's address, with a password that is not edge-2's."""

    def __init__(self, broker) -> None:
        self.address = broker.address

    def url(self, account: str, *, host: str, port: int) -> str:
        return f"mqtt://{account}:wrong@{host}:{port}"


def test_a_wrong_password_is_unhealthy_and_says_so(container_broker, dags: Path) -> None:
    with worker(os.environ["WORKER_IMAGE"], WrongPassword(container_broker), "edge-2", dags) as container:
        code, said = health(container, "worker")
        assert (code, said.count("\n")) == (1, 0)
        assert "refuses the account edge-2" in said
        await_log(container, "worker: unhealthy: the broker")


class ForeignBroker:
    """A Mosquitto that is not ours: it lets anybody in, and anybody read everything."""

    def __init__(self, container) -> None:
        self.container = container
        self.address = address_of(container.get_wrapped_container().id)

    def url(self, account: str, *, host: str, port: int) -> str:
        return f"mqtt://{account}:any@{host}:{port}"


@pytest.fixture
def foreign_broker(tmp_path: Path):
    from testcontainers.core.container import DockerContainer

    config = tmp_path / "foreign.conf"
    config.write_text("listener 1883\nallow_anonymous true\n")
    config.chmod(0o644)
    container = DockerContainer(os.environ["MOSQUITTO_IMAGE"])
    with container.with_volume_mapping(str(config), "/mosquitto/config/mosquitto.conf", "ro") as running:
        answers = ["mosquitto_pub", "-t", "x", "-n"]
        servers.wait_for(lambda: running.exec(answers).exit_code == 0, what="the broker", every=0.2)
        yield ForeignBroker(running)


def test_a_broker_without_our_access_rules_is_unhealthy_and_says_so(foreign_broker, dags: Path) -> None:
    with worker(os.environ["WORKER_IMAGE"], foreign_broker, "edge-1", dags) as container:
        servers.wait_for(lambda: health(container, "worker")[0] == 0, what="the worker", timeout=60, every=0.5)
        # What a leading bridge publishes.
        status = ["mosquitto_pub", "-r", "-t", "airflow/v1/queue/edge/status", "-m", "{}"]
        assert foreign_broker.container.exec(status).exit_code == 0
        servers.wait_for(lambda: health(container, "worker")[0] == 1, what="an unhealthy worker", every=0.5)
        code, said = health(container, "worker")
        assert (code, said.count("\n")) == (1, 0)
        assert "needs the access rules of mosquitto/acl" in said
        await_log(container, f"worker: unhealthy: {said}")
