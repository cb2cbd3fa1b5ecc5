"""A task's process is forked before its task is known, and is then as any other."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from airflow_mqtt.worker import processes
from airflow_mqtt.worker.job_files import JobFiles
from servers import running, wait_for
from worker_bench import FakeBridge, WorkerProcess, workload

NAME = "edge-1"

if sys.platform != "linux":
    pytest.skip("a task's process is forked ahead on Linux only", allow_module_level=True)


class Device:
    def __init__(self, process: WorkerProcess, bridge: FakeBridge) -> None:
        self.process = process
        self.bridge = bridge

    def spare(self) -> tuple[int, int]:
        """Return the supervisor that waits for its order, and the process that waits for its task."""
        self.bridge.event(self.bridge.run("quick"), "finished")
        return wait_for(self._found, what="the spare and its process")

    def _found(self) -> tuple[int, int] | None:
        """A spare leads a session, and is not the warm process; it runs no job."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,sid="], capture_output=True, text=True, check=True).stdout
        table = [tuple(map(int, line.split())) for line in listed.splitlines()]
        below = {self.process.pid}
        while more := {pid for pid, parent, _ in table if parent in below} - below:
            below |= more
        return next(
            (
                (parent, pid)
                for pid, parent, session in table
                if parent in below and session == parent and _parent(parent, table) != self.process.pid
            ),
            None,
        )


def _parent(pid: int, table: list[tuple[int, ...]]) -> int:
    return next((parent for found, parent, _ in table if found == pid), 0)


@pytest.fixture
def device(tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge) -> Iterator[Device]:
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME))
    with running(process):
        bridge.status("idle")
        yield Device(process, bridge)


def test_a_task_runs_in_it(device: Device) -> None:
    supervisor, waiting = device.spare()
    job = device.bridge.run("runs_a_command")
    task, command = device.bridge.processes(job)
    assert task.pid == waiting
    files = JobFiles(device.process.state_dir, job, 1)
    assert files.read_runner() == processes.identify(supervisor)
    assert processes.MARK in device.bridge.log(job, "environment")
    os.kill(supervisor, signal.SIGKILL)
    finished = device.bridge.event(job, "finished")
    assert (finished.outcome, finished.reason) == ("failed", "the runner died")
    assert not processes.alive(task)
    assert not processes.alive(command)


def test_it_holds_the_lock_of_its_attempt(device: Device) -> None:
    """Else a second supervisor of the attempt could begin beside it, when its own has died."""
    supervisor, _ = device.spare()
    job = device.bridge.run("runs_a_command")
    task, command = device.bridge.processes(job)
    device.process.kill()
    os.kill(supervisor, signal.SIGKILL)
    with JobFiles(device.process.state_dir, job, 1).lock.open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(task.pid, signal.SIGKILL)
        wait_for(lambda: not processes.alive(task), what="its end")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # though its command has it not, and lives
    assert processes.alive(command)
    processes.kill(command)


def test_without_it_a_task_runs_as_ever(device: Device) -> None:
    """As when the kernel, short of memory, has chosen it."""
    supervisor, waiting = device.spare()
    os.kill(waiting, signal.SIGKILL)
    job = device.bridge.run("quick")
    assert device.bridge.event(job, "finished").outcome == "succeeded"
    wait_for(lambda: not Path(f"/proc/{supervisor}").exists(), what="the end of the supervisor")


def test_its_start_may_be_refused(device: Device) -> None:
    _, waiting = device.spare()
    detail = {"detail": {"reason": "invalid_state", "message": "no", "previous_state": "failed"}}
    device.bridge.overrides.append(lambda request: (409, detail) if request.path.endswith("/run") else None)
    job = device.bridge.run("quick")
    assert device.bridge.event(job, "finished").outcome == "failed"
    assert "hello" not in device.bridge.logs.get(job, b"").decode()
    assert not Path(f"/proc/{waiting}").exists()


def test_what_is_no_task_has_none(device: Device) -> None:
    pytest.importorskip("airflow.sdk.execution_time.connection_test_supervisor", reason="Airflow 3.3 and later")
    bridge = device.bridge
    connection = {"conn_id": "disk", "conn_type": "fs", "extra": '{"path": "/"}'}
    bridge.overrides.append(lambda request: (200, connection) if request.path.endswith("/connection") else None)
    bridge.overrides.append(lambda request: (204, None) if request.method == "PATCH" else None)
    test_id = "01990000-0000-7000-8000-00000000abcd"
    order = {"type": "TestConnection", "connection_test_id": test_id, "connection_id": "disk", "timeout": 60}

    def run() -> None:
        job = bridge.run("", kind="airflow-connection-test", workload=order)
        assert bridge.event(job, "finished").outcome == "succeeded"

    run()
    supervisor, waiting = wait_for(device._found, what="the spare and its process")
    run()
    assert not Path(f"/proc/{waiting}").exists()
    wait_for(lambda: not Path(f"/proc/{supervisor}").exists(), what="the end of the supervisor")


def test_it_ends_with_the_warm_process(device: Device) -> None:
    supervisor, waiting = device.spare()
    device.process.stop()
    for pid in (supervisor, waiting):
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), what="the end of both")


def test_tasks_of_other_files_are_not_forked_from_it(device: Device) -> None:
    """It waits for a task of the file that its nursery has parsed."""
    _, waiting = device.spare()
    dags = device.process.state_dir.parent / "dags"
    (dags / "other.py").write_text(
        (dags / "bench.py").read_text().replace("def bench()", "def other()").replace("\nbench()", "\nother()")
    )
    order = workload("runs_a_command")
    order["ti"]["dag_id"] = "other"
    job = device.bridge.run("runs_a_command", workload=order | {"dag_rel_path": "other.py"})
    task, command = device.bridge.processes(job)
    assert task.pid != waiting
    assert Path(f"/proc/{waiting}").exists()
    processes.kill(command)
    device.bridge.event(job, "finished")


def test_of_its_sockets_none_is_kept_when_the_sdk_has_them() -> None:
    """The SDK closes one end by forgetting it, and waits a minute for the other end's end: the slot would be held."""
    ahead = pytest.importorskip("airflow_mqtt.worker.runner.ahead", reason="Airflow is not installed")
    supervisor = ahead.supervisor
    channel, _other = socket.socketpair()
    made = ahead.Ahead(12345, [socket.socketpair() for _ in range(4)], channel)
    theirs = [one.fileno() for one, _ in made.pairs]
    with made.taken():
        ours = [supervisor.socketpair()[1] for _ in range(4)]
        assert os.fork() == 12345
    assert len({one.fileno() for one in ours}) == 4
    for number in theirs:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
