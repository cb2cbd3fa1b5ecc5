"""What a task costs that the warm process could have done before it forked."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from servers import running, wait_for
from worker_bench import FakeBridge, WorkerProcess, workload

NAME = "edge-1"

DAG = """
import atexit, sys
from pathlib import Path
from airflow.sdk import dag, task

@atexit.register
def note():
    Path({file!r}).write_text("\\n".join(sys.modules))

@dag(schedule=None)
def lean():
    @task
    def noop():
        return 1
    noop()

lean()
"""

#: Modules that a no-op imports anew, though the warm process could have them. May only become fewer.
ANEW: frozenset[str] = frozenset()


@pytest.fixture
def worker(tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge) -> Iterator[WorkerProcess]:
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME))
    with running(process):
        bridge.status("idle")
        yield process


def test_a_task_imports_nothing_that_its_parent_has_not(
    bridge: FakeBridge, worker: WorkerProcess, tmp_path: Path
) -> None:
    found = tmp_path / "modules"
    (tmp_path / "worker/dags/lean.py").write_text(DAG.format(file=str(found)))
    order = workload("noop")
    order["ti"]["dag_id"] = "lean"
    job = bridge.run("noop", workload=order | {"dag_rel_path": "lean.py"})
    assert bridge.event(job, "finished").exit_code == 0
    wait_for(found.exists, what="the modules of the task")
    anew = set(found.read_text().split()) - _warm(worker)
    assert {name for name in anew if not name.startswith("unusual_prefix_")} == ANEW  # but the Dag file itself


def _warm(worker: WorkerProcess) -> set[str]:
    """Return the modules that the warm process has before it forks."""
    code = "import sys; from airflow_mqtt.worker.runner import host; host.load(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=worker.env, capture_output=True, text=True, check=True)
    return set(done.stdout.split()) | {"runpy"}  # it runs as a module
