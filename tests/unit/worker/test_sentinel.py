"""A supervisor wakes when its process ends, whatever it sleeps for."""

import os
import selectors
import signal

import pytest

from airflow_mqtt.worker.runner import sentinel

if not hasattr(os, "pidfd_open"):
    pytest.skip("the system has no pidfd_open", allow_module_level=True)


class Supervisor:
    """Sleeps and handles what comes as `airflow.sdk.execution_time.supervisor.WatchedSubprocess` does."""

    def __init__(self, pid: int, patience: float) -> None:
        self.pid = pid
        self.selector = selectors.DefaultSelector()
        self.patience = patience
        self.handled = 0

    def wait(self) -> int:
        for key, _ in self.selector.select(self.patience):
            handler, on_close = key.data
            assert not handler(key.fileobj)
            on_close(key.fileobj)
            key.fileobj.close()
            self.handled += 1
        self.selector.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) if self.handled else -99

    def kill(self, number: int) -> int:
        os.kill(self.pid, number)
        return Supervisor.wait(self)


@pytest.fixture
def watched():
    seen = []
    kind = type("Watched", (Supervisor,), {})
    sentinel.watch(kind, lambda: seen.append("ended"))
    return kind, seen


def test_it_wakes(watched):
    kind, seen = watched
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reading, 1)
        os._exit(7)
    os.write(writing, b"x")
    supervisor = kind(pid, 60.0)
    assert supervisor.wait() == 7
    assert (supervisor.handled, seen) == (1, ["ended"])
    os.close(reading)
    os.close(writing)


def test_it_wakes_when_it_has_killed_its_process(watched):
    """Also where nothing else tells: all sockets of the process may have been heard of before it has ended."""
    kind, seen = watched
    pid = os.fork()
    if pid == 0:
        signal.pause()
    supervisor = kind(pid, 60.0)
    assert supervisor.kill(signal.SIGKILL) == -signal.SIGKILL
    assert (supervisor.handled, seen) == (1, ["ended"])


def test_one_whose_process_was_reaped_before_sleeps_as_ever(watched):
    kind, seen = watched
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert kind(pid, 0.0).wait() == -99
    assert seen == []


def test_a_kernel_without_it_changes_nothing(watched, monkeypatch):
    def missing(_pid):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    kind, seen = watched
    assert kind(os.getpid(), 0.0).wait() == -99
    assert seen == []
