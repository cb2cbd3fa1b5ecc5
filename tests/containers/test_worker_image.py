"""The built worker image runs a job against the broker's image; the thin one starts, and says what it cannot do."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker_bench import DAG, FakeBridge


@contextmanager
def worker(image: str, broker, name: str, dags: Path) -> Iterator:
    from testcontainers.core.container import DockerContainer

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
    container = DockerContainer(image, read_only=True, cap_drop=["ALL"], init=True)
    container = container.with_tmpfs_mount("/tmp")
    for key, value in settings.items():
        container = container.with_env(key, value)
    with container.with_volume_mapping(str(dags), "/dags", "ro") as running:
        yield running


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "bench.py").write_text(DAG.replace("{go}", "/tmp/go"))
    for path in (folder, *folder.parents):
        if path.owner() == folder.owner() and path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    return folder


def health(container) -> tuple[int, str]:
    answer = container.exec(["python3", "/usr/local/lib/airflow-mqtt/health.py", "worker"])
    return answer.exit_code, answer.output.decode().strip()


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
            assert health(container) == (0, "healthy")
        except BaseException:
            print(container.get_logs())
            raise


def test_the_thin_one_says_what_it_lacks(container_broker, dags: Path) -> None:
    with (
        FakeBridge(container_broker.url("bridge"), "edge-2") as bridge,
        worker(os.environ["THIN_WORKER_IMAGE"], container_broker, "edge-2", dags) as container,
    ):
        bridge.status("idle", timeout=60)
        log = b"".join(container.get_logs()).decode()
        assert "apache-airflow-task-sdk is not installed" in log


class WrongPassword:
    """A broker's address, with a password that is not edge-2's."""

    def __init__(self, broker) -> None:
        self.address = broker.address

    def url(self, account: str, *, host: str, port: int) -> str:
        return f"mqtt://{account}:wrong@{host}:{port}"


def test_a_wrong_password_is_unhealthy_and_says_so(container_broker, dags: Path) -> None:
    with worker(os.environ["WORKER_IMAGE"], WrongPassword(container_broker), "edge-2", dags) as container:
        code, said = health(container)
        assert (code, said.count("\n")) == (1, 0)
        assert "refuses the account edge-2" in said
        assert "worker: unhealthy: the broker" in b"".join(container.get_logs()).decode()
