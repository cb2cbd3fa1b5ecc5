"""Tasks as another user, by sudo as it is: a worker that is not root, with the rule of `run-a-worker.md`.

Worker and task are users that every Debian has. The rule and a way to the interpreter for both are made in a mount
namespace of the worker's own, so that nothing of this machine is changed.
"""

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import servers
from airflow_mqtt.worker import other_users, processes
from airflow_mqtt.worker.job_files import JobFiles
from servers import missing, running, wait_for
from worker_bench import FakeBridge, WorkerProcess, workload

NAME = "edge-1"
WORKER, TASK = "daemon", "nobody"
ROOT = Path(__file__).parents[2]
RULE = (ROOT / "docs/how-to/run-a-worker.md").read_text()

DAG = """
import getpass, os, signal, subprocess, time
from pathlib import Path
from airflow.sdk import dag, task

@dag(schedule=None)
def another():
    @task(run_as_user={user!r})
    def looks_around():
        seen = dict(user=os.geteuid(), home=os.environ["HOME"])
        for path in {closed!r}:
            seen[path] = os.access(path, os.R_OK)
        print("seen", seen, "end", flush=True)
        return seen["user"]

    @task(run_as_user={user!r})
    def leaves_children():
        quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={{}})
        found = [subprocess.Popen(["sleep", "600"], start_new_session=own, **quiet).pid for own in (True, False)]
        print("children", *found, "end", flush=True)

    @task(run_as_user={user!r})
    def goes_when_it_is_told():
        print("children", os.getpid(), "end", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: (print("was told", flush=True), os._exit(3)))
        time.sleep(600)

    @task(run_as_user={user!r})
    def takes_no_notice():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print("children", os.getpid(), child.pid, "end", flush=True)
        time.sleep(600)

    goes_when_it_is_told.override(task_id="names_nobody", run_as_user=None)()
    looks_around(), leaves_children(), goes_when_it_is_told(), takes_no_notice()

another()
"""


def _way_to(paths: list[Path], aside: Path) -> list[str]:
    """Return commands that let everybody go to `paths`, as far as a folder above them is closed: it is put `aside`."""
    commands = []
    closed = {next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None) for path in paths}
    for folder in sorted(closed - {None}):
        commands += [f"mount --bind {folder} {aside}", f"mount -t tmpfs -o mode=755 tmpfs {folder}"]
        for path in (one for one in paths if folder in one.parents):
            commands += [f"mkdir -p {path}", f"mount --bind {aside}/{path.relative_to(folder)} {path}"]
        commands.append(f"umount {aside}")
    return commands


class Device:
    """A worker of the user `WORKER`, on whose Dags' tasks are `TASK`'s."""

    def __init__(self, url: str, *, rule: bool = True, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="airflow-mqtt-users-"))
        self.folder.chmod(0o755)
        self.worker = WorkerProcess(self.folder / "worker", url, slots=4, kill_grace=3, drain_timeout=2)
        closed = [str(self.worker.state_dir / name) for name in ("journal.sqlite", "worker.sock", "jobs")]
        dag = self.worker.state_dir.parent / "dags/another.py"
        dag.write_text(DAG.format(user=TASK, closed=closed))
        self.worker.command = [*self._prefix(rule=rule), *self.worker.command]
        self.worker.env |= {"HOME": str(self.folder), "USER": WORKER, "LOGNAME": WORKER} | environment
        shutil.chown(self.worker.state_dir.parent, WORKER)

    def _prefix(self, *, rule: bool) -> list[str]:
        sudoers, aside = self.folder / "sudoers", self.folder / "aside"
        aside.mkdir()
        lines = re.search(r"^ *(airflow-mqtt ALL=.*)$", RULE, re.MULTILINE)[1]
        for name, ours in (("airflow-mqtt ALL", f"{WORKER} ALL"), ("sensors", TASK)):
            lines = lines.replace(name, ours)
        lines = lines.replace("/opt/airflow-mqtt/bin/python", sys.executable)
        sudoers.write_text(lines + "\n" if rule else "")
        sudoers.chmod(0o440)
        steps = [
            "set -e",
            *_way_to([Path(sys.base_prefix).resolve(), Path(sys.prefix), ROOT], aside),
            f"mount --bind {shlex.quote(str(sudoers))} /etc/sudoers",
            f'exec setpriv --reuid={WORKER} --regid={WORKER} --clear-groups -- "$@"',
        ]
        return ["unshare", "--mount", "sh", "-c", "\n".join(steps), "sh"]

    def run(self, bridge: FakeBridge, task: str) -> str:
        order = workload(task)
        order["ti"]["dag_id"] = "another"
        return bridge.run(task, workload=order | {"dag_rel_path": "another.py"})


@contextmanager
def made(broker: servers.Mosquitto, bridge: FakeBridge, **options: Any) -> Iterator[Device]:
    device = Device(broker.url(NAME), **options)
    try:
        with running(device.worker):
            bridge.status("idle", timeout=30)
            yield device
    finally:
        print(device.worker.tail())
        shutil.rmtree(device.folder, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def means() -> None:
    """What these tests need."""
    if os.geteuid() != 0 or not all(shutil.which(program) for program in ("sudo", "unshare", "setpriv")):
        missing("a worker of another user needs root, sudo and util-linux")
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        missing(f"no mount namespace can be made here: {probe.stderr.strip()}")
    # Users who cannot write compiled modules beside ours would compile Airflow for each task.
    load = "from airflow_mqtt.worker.runner import host; host.load(); import airflow.sdk.execution_time.task_runner"
    subprocess.run([sys.executable, "-c", load], check=True, capture_output=True, cwd=ROOT)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, means: None) -> Iterator[tuple[Device, FakeBridge]]:
    """One worker for most tests here."""
    directory = tmp_path_factory.mktemp("device")
    with (
        servers.mosquitto(directory / "broker", accounts=[NAME]) as broker,
        FakeBridge(broker.url("bridge"), NAME) as bridge,
        made(broker, bridge) as device,
    ):
        yield device, bridge


def test_a_task_runs_as_the_user_that_it_names(parts: tuple[Device, FakeBridge]) -> None:
    ours, bridge = parts
    job = ours.run(bridge, "looks_around")
    log = bridge.log(job, " end")
    assert bridge.event(job, "finished").exit_code == 0, log
    seen = re.search(r"seen (\{.*?\}) end", log)[1]
    assert f"'user': {pwd.getpwnam(TASK).pw_uid}" in seen
    assert pwd.getpwnam(WORKER).pw_uid == other_users.owner(ours.worker.pid)
    assert "True" not in seen  # neither the journal nor the socket nor other jobs
    assert "POST return_value" in bridge.calls(job)


def test_what_such_a_task_started_ends_with_it(parts: tuple[Device, FakeBridge]) -> None:
    """Before: the worker may not signal another user's processes, and they lived on beside the next try."""
    device, bridge = parts
    job = device.run(bridge, "leaves_children")
    children = bridge.children(job)
    assert [other_users.owner(child.pid) for child in children] in ([pwd.getpwnam(TASK).pw_uid] * 2, [None] * 2)
    assert bridge.event(job, "finished").exit_code == 0
    assert [child for child in children if processes.alive(child)] == []


@pytest.mark.parametrize("task", ["goes_when_it_is_told", "takes_no_notice"])
def test_such_a_task_can_be_cancelled(parts: tuple[Device, FakeBridge], task: str) -> None:
    """By the SDK's TERM, which `sudo` passes on, or by ours. Before: what took no notice of it went on."""
    device, bridge = parts
    job = device.run(bridge, task)
    children = bridge.children(job)
    assert all(processes.alive(child) for child in children)
    bridge.cancel(job)
    bridge.event(job, "cancelled", timeout=60)
    assert [child for child in children if processes.alive(child)] == []
    log = bridge.log(job, "Task killed!")
    assert ("was told" in log) == (task == "goes_when_it_is_told")


def test_the_task_of_a_supervisor_that_died_ends_too(parts: tuple[Device, FakeBridge]) -> None:
    ours, bridge = parts
    job = ours.run(bridge, "takes_no_notice")
    children = bridge.children(job)
    os.kill(JobFiles(ours.worker.state_dir, job, 1).read_runner().pid, signal.SIGKILL)
    assert bridge.event(job, "finished").reason == "the runner died"
    wait_for(lambda: not any(map(processes.alive, children)), what="the end of the task and its child")


def test_a_site_may_give_all_tasks_another_user(broker: servers.Mosquitto, bridge: FakeBridge) -> None:
    """And a drain tells them and ends them, as it does all others."""
    with made(broker, bridge, AIRFLOW__CORE__DEFAULT_IMPERSONATION=TASK) as device:
        job = device.run(bridge, "names_nobody")
        (task,) = bridge.children(job)
        assert other_users.owner(task.pid) == pwd.getpwnam(TASK).pw_uid
        os.kill(device.worker.pid, signal.SIGTERM)
        bridge.log(job, "was told")
        assert device.worker.wait() == 0
        assert not processes.alive(task)


def test_without_the_rule_the_tasks_log_says_so(broker: servers.Mosquitto, bridge: FakeBridge) -> None:
    with made(broker, bridge, rule=False) as device:
        job = device.run(bridge, "looks_around")
        bridge.event(job, "finished")
        assert "seen" not in bridge.log(job, "sudo: ")
