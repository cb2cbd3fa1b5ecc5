"""What an order may make a device run: whoever writes orders chooses among what is on the device, and no more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from airflow_mqtt.worker.packages import installed_version
from worker_bench import FakeBridge, WorkerProcess, workload

NAME = "edge-1"

OUTSIDE = """
from pathlib import Path
Path({touched!r}).touch()
"""

CALLBACKS = """
def fine(**_):
    print("a callback of the bundle")
"""


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[FakeBridge]:
    with (
        servers.mosquitto(tmp_path / "broker", accounts=[NAME]) as broker,
        FakeBridge(broker.url("bridge"), NAME) as peer,
    ):
        process = WorkerProcess(tmp_path / "worker", broker.url(NAME), slots=8)
        peer.dags = process.state_dir.parent / "dags"
        (peer.dags / "alerts.py").write_text(CALLBACKS)
        with servers.running(process):
            peer.status("idle")
            yield peer


def callback(path: str, kwargs: dict, dag_rel_path: str = "bench.py") -> dict:
    order = workload("quick")
    return {
        "type": "ExecuteCallback",
        "callback": {"id": order["ti"]["id"], "fetch_method": "import_path", "data": {"path": path, "kwargs": kwargs}},
        "dag_rel_path": dag_rel_path,
        "bundle_info": order["bundle_info"],
        "log_path": None,
    }


def test_nothing_outside_of_the_dag_bundle_is_run(bridge: FakeBridge, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    (tmp_path / "worker/outside.py").write_text(OUTSIDE.format(touched=str(touched)))
    paths = ["../outside.py", str(tmp_path / "worker/outside.py"), "sub/../../outside.py"]
    for path in paths:
        job = bridge.run("quick", workload=workload("quick") | {"dag_rel_path": path})
        finished = bridge.event(job, "finished")
        assert finished.outcome == "failed"
        assert "leads out of the Dag bundle" in finished.reason
        assert bridge.calls(job) == []
    assert not touched.exists()
    assert bridge.event(bridge.run("quick"), "finished").outcome == "succeeded"


@pytest.mark.skipif((installed_version("apache-airflow-task-sdk") or "") < "1.3", reason="no callbacks before 3.3")
def test_a_callback_is_code_of_the_bundle_or_a_notifier(bridge: FakeBridge, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    wanted = {
        "subprocess.run": {"args": ["touch", str(touched)]},
        "os.system": {"command": f"touch {touched}"},
        "builtins.exec": {"source": "x"},
        "airflow.sdk.definitions.dag.dag": {},
    }
    jobs = [bridge.run("", workload=callback(path, kwargs)) for path, kwargs in wanted.items()]
    fine = bridge.run("", workload=callback("alerts.fine", {}))
    for job in jobs:
        assert bridge.event(job, "finished").outcome == "failed"
        assert "is not run on this device" in bridge.log(job, "is not run on this device")
    assert bridge.event(fine, "finished").outcome == "succeeded"
    assert not touched.exists()
