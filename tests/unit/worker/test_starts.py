"""Runners that cannot be started: the job goes back to the queue, and the device says why."""

import errno
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_mqtt.protocol.messages import Event, Run
from airflow_mqtt.worker import processes
from airflow_mqtt.worker import runners as shell
from airflow_mqtt.worker.core.completion import MAX_LAUNCHES
from airflow_mqtt.worker.runner import host
from airflow_mqtt.worker.runners import Ended, Runners

RUN = Run(job="job", attempt=1, kind="airflow", slots=1, workload={})


def _runners(state_dir: Path, python: str, selector: selectors.BaseSelector) -> Runners:
    return Runners(state_dir, python, 60, selector, max_call_bytes=1000)


def _await_end(runners: Runners, selector: selectors.BaseSelector) -> list[Ended]:
    until = time.monotonic() + 60
    while not (ended := runners.take()):
        assert time.monotonic() < until
        for key, mask in selector.select(0.05):
            key.data(mask)
    return ended


@pytest.fixture
def stopped() -> Iterator[subprocess.Popen[bytes]]:
    """A process that was sent SIGSTOP, in a session of its own as a supervisor is."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        yield process
        process.kill()


def test_a_supervisor_that_was_stopped_goes_on_at_the_next_start(tmp_path: Path, stopped) -> None:
    """The worker stops it before it kills its task, and may die in between."""
    with selectors.DefaultSelector() as selector:
        runners = _runners(tmp_path, sys.executable, selector)
        files = runners.files("job", 1)
        files.directory.mkdir(parents=True)
        files.write_runner(processes.identify(stopped.pid))
        assert runners.find("job", 1)[0]
    assert os.WIFCONTINUED(os.waitpid(stopped.pid, os.WCONTINUED)[1])


def test_a_worker_that_stays_warm_starts_another_host_after_a_pause(tmp_path: Path) -> None:
    with selectors.DefaultSelector() as selector:
        runners = Runners(tmp_path, "/nowhere/python", 0, selector, max_call_bytes=1000, keep_warm=True)
        runners.tick(1000.0)
        assert runners.deadline(1000.0) == 1000.0 + shell.WARM_PAUSE
        runners._python = sys.executable
        runners.tick(1000.0 + shell.WARM_PAUSE)
        assert runners._host is not None
        assert runners.deadline(1000.0 + shell.WARM_PAUSE) == float("inf")
        runners.tick(1e6)
        assert runners._host is not None
        runners.close()


# --- the core ---------------------------------------------------------------------------------------------


def _die(device, times: int) -> Event:
    for _ in range(times):
        device.end("a", None)
    return device.reports()[-1]


def test_a_job_whose_runners_die_before_it_begins_is_given_back(device) -> None:
    device.connect()
    device.run("a")
    last = _die(device, MAX_LAUNCHES)
    assert (device.said("a"), last.reason) == (["accepted", "rejected"], "runner")
    assert "a" not in device.core.state.jobs
    device.run("a")  # a copy of the order gets the same answer
    assert (device.reports()[-1].type, device.reports()[-1].reason) == ("rejected", "runner")


def test_a_job_that_may_have_passed_the_gate_is_not_given_back(device) -> None:
    device.connect()
    device.run("a")
    device.call("a", "PATCH", "task-instances/a/run", "{}")
    assert _die(device, MAX_LAUNCHES).type == "finished"


# --- the shell --------------------------------------------------------------------------------------------


def test_an_interpreter_that_is_missing(tmp_path: Path, caplog) -> None:
    with selectors.DefaultSelector() as selector:
        runners = _runners(tmp_path, str(tmp_path / "python"), selector)
        for _ in range(3):
            runners.launch(RUN)
            assert runners.deadline(0.0) == 0.0  # the loop does not sleep on it
            assert runners.take() == [Ended("job", 1, None, 0)]
        runners.close()
    assert len([text for text in caplog.messages if "cannot start a runner" in text]) == 1


def test_a_disk_without_room(tmp_path: Path, monkeypatch, caplog) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with selectors.DefaultSelector() as selector:
        runners = _runners(tmp_path, sys.executable, selector)
        monkeypatch.setattr(Path, "mkdir", fail)
        runners.launch(RUN)
        assert runners.take() == [Ended("job", 1, None, 0)]
    assert "No space left on device" in caplog.text


def test_an_sdk_that_cannot_be_loaded(tmp_path: Path, caplog, monkeypatch) -> None:
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow" / "__init__.py").write_text("raise ImportError('of another version')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with selectors.DefaultSelector() as selector:
        runners = _runners(tmp_path, sys.executable, selector)
        for _ in range(2):
            runners.launch(RUN)
            assert _await_end(runners, selector) == [Ended("job", 1, None, 0)]
        runners.close()
    assert len([text for text in caplog.messages if "of another version" in text]) == 1


def test_a_host_that_died_unnoticed_is_replaced(tmp_path: Path, monkeypatch) -> None:
    """Its job ends without a result, so the core asks once more; that finds no host, and starts one."""

    class Dead:
        def send(self, _order: object) -> None:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        def close(self) -> None:
            pass

    orders = []

    class Living(Dead):
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def send(self, order: object) -> None:
            orders.append(order)

    monkeypatch.setattr(shell, "_Host", Living)
    with selectors.DefaultSelector() as selector:
        runners = _runners(tmp_path, sys.executable, selector)
        runners._host = Dead()
        runners.launch(RUN)
        assert runners.take() == [Ended("job", 1, None, 0)]
        runners.launch(RUN)
        assert [order["job"] for order in orders] == ["job"]


def test_a_host_that_cannot_fork_says_so_and_goes_on(tmp_path: Path, monkeypatch) -> None:
    def fail() -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(os, "fork", fail)
        host.Host(theirs, tmp_path, 0)._start({"job": "job", "attempt": 1})
        assert b'"exited"' in ours.recv(1000)


@pytest.mark.parametrize("closed", [True, False])
def test_a_host_without_a_worker_loads_nothing(closed: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if closed:
            ours.close()
        else:
            ours.sendall(b"order")
        assert host._alone(theirs) is closed
