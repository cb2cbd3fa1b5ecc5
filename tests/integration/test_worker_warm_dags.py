"""Dag files that are parsed once for many tasks, and those that must not be: real tasks of the Task SDK."""

import os
import signal
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from servers import running, wait_for
from worker_bench import FakeBridge, WorkerProcess, workload

NAME = "edge-1"

#: Appends a line to `parses` at each parse: the process, and what the file says then.
DAG = """
import os
from pathlib import Path
from airflow.sdk import dag, task
{more}
with open({parses!r}, "a") as file:
    print(os.getpid(), {says}, file=file)

@dag(dag_id={dag_id!r}, schedule=None)
def warm():
    @task{options}
    def noop():
        print('parsed by', {says})
        return os.getpid()
    noop()

warm()
"""


class Device:
    """A worker with Dag files of a test."""

    def __init__(self, directory: Path, process: WorkerProcess, bridge: FakeBridge) -> None:
        self.dags = directory / "dags"
        self.process = process
        self.bridge = bridge

    def write(self, name: str, more: str = "", says: str = "'first'", options: str = "") -> None:
        text = DAG.format(more=more, says=says, options=options, parses=str(self._parses(name)), dag_id=name)
        (self.dags / f"{name}.py").write_text(text)

    def _parses(self, name: str) -> Path:
        return self.dags.parent / f"{name}.parses"

    def parses(self, name: str) -> list[str]:
        return self._parses(name).read_text().splitlines()

    def start(self, name: str, path: str = "") -> str:
        order = workload("noop")
        order["ti"]["dag_id"] = name
        return self.bridge.run("noop", workload=order | {"dag_rel_path": path or f"{name}.py"})

    def run(self, name: str, *, times: int = 1, path: str = "") -> list[str]:
        """Run a task `times` times, two at once; return the jobs."""
        jobs = [self.start(name, path) for _ in range(times)]
        for job in jobs:
            assert self.bridge.event(job, "finished").exit_code == 0, self.bridge.logs.get(job)
        return jobs

    @property
    def host_log(self) -> str:
        return (self.process.state_dir / "host.log").read_text()


def _device(directory: Path, broker: servers.Mosquitto, bridge: FakeBridge, **settings: object) -> Iterator[Device]:
    process = WorkerProcess(directory / "worker", broker.url(NAME), slots=8, **settings)
    with running(process):
        bridge.status("idle")
        yield Device(directory / "worker", process, bridge)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """One for all tests here: each has a Dag file of its own."""
    directory = tmp_path_factory.mktemp("device")
    with (
        servers.mosquitto(directory / "broker", accounts=[NAME]) as broker,
        FakeBridge(broker.url("bridge"), NAME) as bridge,
    ):
        yield from _device(directory, broker, bridge)


def test_a_dag_file_is_parsed_once_for_many_tasks(device: Device) -> None:
    device.write("many")
    device.run("many", times=4)
    device.run("many", times=2)
    assert len(device.parses("many")) == 1, device.host_log


def test_a_changed_file_is_seen_with_the_next_task(device: Device) -> None:
    device.write("changed")
    device.run("changed", times=2)
    device.write("changed", says="'second'")
    (job,) = device.run("changed")
    device.bridge.log(job, "parsed by second")
    assert [line.split()[1] for line in device.parses("changed")] == ["first", "second"]


@pytest.mark.parametrize("how", ["module", "file", "directory"])
def test_what_a_file_reads_may_not_have_changed_either(device: Device, how: str) -> None:
    name = f"reads_a_{how}"
    folder = device.dags / f"{name}_parts"
    folder.mkdir()
    part = folder / "part.py"
    part.write_text("WORD = 'one'\n")
    more, says = {
        "module": (f"from {name}_parts.part import WORD", "WORD"),
        "file": (f"WORD = Path({str(part)!r}).read_text()[8:11]", "WORD"),
        "directory": (f"COUNT = len(os.listdir({str(folder)!r}))", "f'count{COUNT}'"),
    }[how]
    device.write(name, more, says)
    device.run(name, times=2)
    device.run(name)
    assert len(device.parses(name)) == 1, device.host_log
    # Of another length: Python itself takes a module that it has compiled before for unchanged when size and second of mtime are.
    part.write_text("WORD = 'two'  # changed\n")
    (folder / "more").touch()
    (job,) = device.run(name)
    device.bridge.log(job, "parsed by " + ("count2" if how == "directory" else "two"))
    assert len(device.parses(name)) == 2


UNFIT = {
    "starts_a_thread": "import threading; threading.Thread(target=print).start()",
    "opens_a_socket": "import socket; socket.socket().close()",
    "leaves_a_file_open": "kept = open(os.devnull, 'w')",
    "starts_a_process": "import subprocess; subprocess.run(['true'])",
    "forks": "os._exit(0) if (pid := os.fork()) == 0 else os.waitpid(pid, 0)",
    "reads_the_context": "from airflow.sdk import get_parsing_context; print(get_parsing_context().dag_id)",
    "asks_for_a_variable": "from airflow.sdk import Variable; print(Variable.get('x', default='none'))",
    "registers_its_end": "import atexit; atexit.register(print)",
    "replaces_functions": "import time; sleep = time.sleep; time.sleep = lambda seconds: sleep(seconds)",
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_each_task_must_do_itself_it_does(device: Device, what: str) -> None:
    """Once ahead, to find that out, and then in each task."""
    device.write(what, UNFIT[what])
    device.run(what, times=2)
    assert len(device.parses(what)) == 3, device.host_log
    assert f"tasks of {what}.py parse it themselves: it " in device.host_log


def test_a_file_that_is_mended_is_kept(device: Device) -> None:
    device.write("mended", "import socket; socket.socket().close()")
    device.run("mended")
    device.write("mended", "# nothing")
    device.run("mended", times=2)
    assert len(device.parses("mended")) == 3


def test_a_file_that_cannot_be_imported_says_so_in_the_tasks_log(device: Device) -> None:
    device.write("broken", "raise ValueError('as planned')")
    job = device.start("broken")
    device.bridge.event(job, "finished")
    device.bridge.log(job, "as planned")
    device.bridge.log(job, "Dag not found during start up")


def test_a_parse_that_ends_its_process_costs_the_task_nothing_else(device: Device) -> None:
    died = device.dags.parent / "died"
    device.write("dies", f"died = Path({str(died)!r})\nif not died.exists():\n    died.touch(); os._exit(7)")
    device.run("dies")
    assert "tasks of dies.py parse it themselves: its parse ended the process" in device.host_log


def test_tasks_go_on_when_their_nursery_is_killed(device: Device) -> None:
    go = device.dags.parent / "go_on"
    device.write("killed", "import time")
    text = (device.dags / "killed.py").read_text()
    wait = f"        print('waiting', flush=True)\n        while not Path({str(go)!r}).exists(): time.sleep(0.05)\n"
    (device.dags / "killed.py").write_text(text.replace("        return os.getpid()", wait))
    job = device.start("killed")
    device.bridge.log(job, "waiting")
    (nursery,) = {int(line.split()[0]) for line in device.parses("killed")}
    os.kill(nursery, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{nursery}").exists(), what="its end")
    go.touch()
    assert device.bridge.event(job, "finished").outcome == "succeeded"
    device.run("killed")
    assert len(device.parses("killed")) == 2


PLUGIN = """
import os
from airflow.plugins_manager import AirflowPlugin
with open({loads!r}, "a") as file:
    print(os.getpid(), file=file)
{more}
class Site(AirflowPlugin):
    name = "site"
"""


def test_plugins_are_loaded_with_the_first_parse_and_when_they_change(
    tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge
) -> None:
    """Each task would load them before it parses. They are read like the Dag's own file."""
    loads = tmp_path / "loads"
    loads.touch()
    plugin = tmp_path / "worker/airflow/plugins/site_plugin.py"
    for device in _device(tmp_path, broker, bridge):
        (plugin.parent / "__pycache__").mkdir(parents=True)  # or Python makes it, and the directory has changed
        counts = []
        for more in ("", "# as before", "import socket; socket.socket().close()"):
            plugin.write_text(PLUGIN.format(loads=str(loads), more=more))
            device.write("plugged")
            device.run("plugged", times=2)
            counts.append(len(loads.read_text().split()))
        assert counts == [1, 2, 5], device.host_log  # the last by each task, and once to find that out
        assert (
            "tasks of plugged.py parse it themselves: a plugin of Airflow is there, and it opens a socket"
            in device.host_log
        )


def test_code_that_runs_in_another_python_is_that_of_the_file(device: Device) -> None:
    """Operators of virtual environments read their function's source when they run."""
    options = f".external_python(python={sys.executable!r}, expect_airflow=False)"
    device.write("elsewhere", options=options)
    text = (device.dags / "elsewhere.py").read_text().replace("        return os.getpid()", "        return 1")
    for word in ("one", "two"):
        (device.dags / "elsewhere.py").write_text(text.replace("'parsed by', 'first'", f"'here is', '{word}'"))
        for job in device.run("elsewhere", times=2):
            device.bridge.log(job, f"here is {word}")
    assert len(device.parses("elsewhere")) == 2


def test_a_task_of_another_user_parses_for_itself(
    tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge
) -> None:
    """The SDK runs sudo for it, which begins a fresh Python (here without becoming anybody)."""
    sudo = tmp_path / "bin/sudo"
    sudo.parent.mkdir()
    sudo.write_text('#!/bin/sh\nshift 4\nexec "$@"\n')
    sudo.chmod(0o755)
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME), slots=2)
    process.env["PATH"] = f"{sudo.parent}:{process.env['PATH']}"
    with running(process):
        bridge.status("idle")
        device = Device(tmp_path / "worker", process, bridge)
        device.write("of_another", options="(run_as_user='somebody-else')")
        device.run("of_another")
        assert len(device.parses("of_another")) == 2, device.host_log


def test_a_zip_file_is_parsed_by_each_task(device: Device) -> None:
    device.write("zipped")
    with zipfile.ZipFile(device.dags / "zipped.zip", "w") as packed:
        packed.write(device.dags / "zipped.py", "zipped.py")
    (device.dags / "zipped.py").unlink()
    device.run("zipped", times=2, path="zipped.zip")
    assert len(device.parses("zipped")) == 2


def test_a_versioned_bundle_is_parsed_by_each_task(device: Device) -> None:
    device.write("versioned")
    for _ in range(2):
        order = workload("noop")
        order["ti"]["dag_id"] = "versioned"
        order |= {"dag_rel_path": "versioned.py", "bundle_info": {"name": "bench", "version": "1"}}
        job = device.bridge.run("noop", workload=order)
        assert device.bridge.event(job, "finished").exit_code == 0
    assert len(device.parses("versioned")) == 2


def test_without_warm_dags_each_task_parses(tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge) -> None:
    for device in _device(tmp_path, broker, bridge, warm_dags="false"):
        device.write("cold")
        device.run("cold", times=3)
        assert len(device.parses("cold")) == 3
