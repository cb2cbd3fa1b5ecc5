"""What a task costs that the warm process could have done before it forked."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from servers import running, wait_for
from worker_bench import SDK, FakeBridge, WorkerProcess, workload

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

#: A sitecustomize that counts what each process makes anew, in the warm process and all that is forked from it.
COUNTING = """
import os, sys

if "airflow_mqtt.worker.runner.host" in sys.orig_argv:
    import builtins, logging, socket
    from pydantic import TypeAdapter

    made, cleared, asked = builtins.made_anew = [], [], []
    make, clear, ask = TypeAdapter.__init__, logging.Manager._clear_cache, socket.getaddrinfo

    def counted(self, type, **options):
        made.append(str(type))
        make(self, type, **options)

    def counted_clear(self):
        cleared.append(1)
        clear(self)

    def counted_ask(*arguments, **options):
        asked.append(1)
        return ask(*arguments, **options)

    TypeAdapter.__init__, logging.Manager._clear_cache, socket.getaddrinfo = counted, counted_clear, counted_ask
    os.register_at_fork(after_in_child=lambda: [counts.clear() for counts in builtins.made_anew])
"""

COUNTED_DAG = """
import builtins
from airflow.sdk import dag, task

@dag(schedule=None)
def counting():
    @task
    def noop():
        made, cleared, asked = map(len, builtins.made_anew)
        print(f"made anew: {made}, {cleared} and {asked}")
    noop()

counting()
"""

#: Modules that a no-op imports anew, though the warm process could have them. May only become fewer.
ANEW: frozenset[str] = frozenset()


def _hosts(worker: WorkerProcess) -> list[int]:
    """Return the process groups of warm processes: each begins a session."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(worker.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "airflow_mqtt.worker.runner.host" in line]


def test_a_worker_can_be_warm_from_its_start(tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge) -> None:
    """And stays so: however long it has nothing to do, and after the process has ended."""
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME), warm="start", runner_idle_timeout=0)
    with running(process):
        bridge.status("idle")
        wait_for(lambda: "the runner host is ready" in process.tail(), what="the warm process")
        (host,) = _hosts(process)
        assert bridge.event(bridge.run("quick"), "finished").outcome == "succeeded"
        assert _hosts(process) == [host]


def test_a_worker_that_is_warm_on_demand_has_no_such_process(
    tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge
) -> None:
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME), runner_idle_timeout=0)
    with running(process):
        bridge.status("idle")
        assert _hosts(process) == []
        bridge.event(bridge.run("quick"), "finished")
        wait_for(lambda: not _hosts(process), what="the end of the warm process")


@pytest.fixture
def worker(tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge) -> Iterator[WorkerProcess]:
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME))
    with running(process):
        bridge.status("idle")
        yield process


@pytest.mark.skipif(not SDK.startswith("1.3."), reason="the list is that of the newest Airflow")
def test_a_task_imports_nothing_that_its_parent_has_not(
    bridge: FakeBridge, worker: WorkerProcess, tmp_path: Path
) -> None:
    found = tmp_path / "modules"
    (tmp_path / "worker/dags/lean.py").write_text(DAG.format(file=str(found)))
    _run(bridge, "lean")
    wait_for(found.exists, what="the modules of the task")
    anew = set(found.read_text().split()) - _warm(worker)
    assert {name for name in anew if not name.startswith("unusual_prefix_")} == ANEW  # but the Dag file itself


@pytest.mark.skipif(not SDK.startswith("1.3."), reason="the counts are those of the newest Airflow")
def test_what_all_tasks_make_alike_is_made_before_they_are(
    tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge
) -> None:
    """Else: five validators of the SDK's own messages; caches of all loggers, cleared for each of 70 settings; and the
    device's name, which may be asked of a resolver that is a long way off.
    """
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(COUNTING)
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME))
    process.env["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    (tmp_path / "worker/dags/counting.py").write_text(COUNTED_DAG)
    with running(process):
        bridge.status("idle")
        bridge.log(_run(bridge, "counting"), "made anew: 0, 0 and 0")


SITE_DAG = """
import sys
from airflow.sdk import dag, task

@dag(schedule=None)
def as_the_site():
    @task
    def noop():
        from airflow.sdk.log import load_remote_log_handler
        print("read by", type(load_remote_log_handler()).__name__)
        ours = ("airflow_mqtt.executor.", "airflow_mqtt.database")
        print("has", *sorted(name for name in sys.modules if name.startswith(ours)))
    noop()

as_the_site()
"""


@pytest.mark.skipif(not SDK.startswith("1.3."), reason="how a supervisor asks for a reader of logs is that of 3.2 on")
def test_a_device_with_the_configuration_of_its_site_loads_no_reader_of_logs(
    tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge
) -> None:
    """Our plugin puts it in place there, and each supervisor asks for it: to load it takes 70 ms."""
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME))
    process.env["AIRFLOW__CORE__EXECUTOR"] = "airflow_mqtt.executor.MqttExecutor"
    (tmp_path / "worker/dags/as_the_site.py").write_text(SITE_DAG)
    with running(process):
        bridge.status("idle")
        job = _run(bridge, "as_the_site")
        bridge.log(job, "read by MqttLogIO")
        said = bridge.log(job, " airflow_mqtt.executor.remote_logs")
        assert "airflow_mqtt.executor.log_reader" not in said
        assert "airflow_mqtt.database" not in said


REHEARSAL = """
import os, socket
from airflow_mqtt.worker import processes
from airflow_mqtt.worker.runner import host
host.load()
from airflow_mqtt.worker.runner import supervise
ours, theirs = socket.socketpair()
before = os.listdir("/proc/self/fd")
ahead = supervise.rehearse(theirs)
print(ahead.waits, processes.has_living_child(), end=" ")
ahead.drop()
print(ahead.waits, processes.has_living_child(), sorted(os.listdir("/proc/self/fd")) == sorted(before))
"""


@pytest.mark.skipif(not SDK.startswith("1.3."), reason="how a supervisor begins is that of the newest Airflow")
def test_a_spare_has_begun_a_task_and_leaves_nothing_of_it(worker: WorkerProcess) -> None:
    """It has forked the task's process, which is ended where no task comes."""
    done = subprocess.run([sys.executable, "-c", REHEARSAL], env=worker.env, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "True True False False True", done.stderr


def _run(bridge: FakeBridge, dag_id: str) -> str:
    """Run the task of the Dag in the file of its name to its end; return the job."""
    order = workload("noop")
    order["ti"]["dag_id"] = dag_id
    job = bridge.run("noop", workload=order | {"dag_rel_path": f"{dag_id}.py"})
    assert bridge.event(job, "finished").exit_code == 0
    return job


def _warm(worker: WorkerProcess) -> set[str]:
    """Return the modules that the warm process has before it forks."""
    code = "import sys; from airflow_mqtt.worker.runner import host; host.load(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=worker.env, capture_output=True, text=True, check=True)
    return set(done.stdout.split()) | {"runpy"}  # it runs as a module
