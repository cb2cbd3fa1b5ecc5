"""The process of a task, forked before its task is known.

The SDK's supervisor forks the process of its task and has it wait until Airflow has let the task start. The fork alone
takes milliseconds, and the pages that both write to then are copied. So a spare (`forker`) goes through the first half
of the SDK's own `WatchedSubprocess.start`, up to the fork, while nobody waits. When its order is there, the SDK begins
anew, and finds its sockets made and the process forked.

What a supervisor would have had by then for its task's process to inherit, the process is told over a socket of its
own: the mark of the attempt, and the lock that says that the attempt has a process.
"""

import contextlib
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

from airflow.sdk.execution_time import supervisor

from airflow_mqtt.worker import processes

Pair = tuple[socket.socket, socket.socket]

#: Bytes of a mark, at most.
_MARK_BYTES = 4096


class _Forked(BaseException):
    """Ends the first half of `WatchedSubprocess.start` in the supervisor. `BaseException`: nobody is to catch it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid


@dataclass(slots=True)
class Ahead:
    """A process that waits for its task, and the sockets that the SDK has made for it."""

    pid: int
    pairs: list[Pair]
    channel: socket.socket

    @property
    def waits(self) -> bool:
        """Whether it has not ended: a device that is short of memory may have killed it."""
        try:
            return os.waitpid(self.pid, os.WNOHANG) == (0, 0)
        except ChildProcessError:
            return False

    def drop(self) -> None:
        """End it: what is to be run is no task."""
        with contextlib.suppress(OSError):  # it has ended
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.channel.close()
        for sockets in self.pairs:
            for one in sockets:
                one.close()

    def tell(self, mark: str, lock: int) -> bool:
        """Tell it whose it is, and give it the `lock`; return whether it is there."""
        try:
            socket.send_fds(self.channel, [os.fsencode(mark)], [lock])
        except OSError:
            return False
        return self.waits

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have the SDK's next start of a task, within this, find the process forked."""
        # None is kept: of what the task's process has, the SDK closes one by forgetting it, and waits a minute for its
        # end.
        with _instead(lambda: self.pid, lambda: self.pairs.pop(0)):
            yield


@contextlib.contextmanager
def _instead(fork: Callable[[], int], socketpair: Callable[[], Pair]) -> Iterator[None]:
    """Have the SDK's next start fork, and make its sockets, by these."""
    real = os.fork, supervisor.socketpair

    def once() -> int:
        os.fork, supervisor.socketpair = real
        return fork()

    os.fork, supervisor.socketpair = once, socketpair
    try:
        yield
    finally:
        os.fork, supervisor.socketpair = real


def fork_ahead(channel: socket.socket) -> Ahead | None:
    """Fork the process of a task that is not known yet; None where the SDK does not do it as it is expected to.

    `channel` is what that process must not have of this one's.
    """
    if sys.platform != "linux":
        return None
    _begin_as_the_sdk_does()
    ours, theirs = socket.socketpair()
    pairs: list[Pair] = []
    make = supervisor.socketpair
    run: Callable[[], None] = supervisor._subprocess_main  # noqa: SLF001

    def made() -> Pair:
        pairs.append(make())
        return pairs[-1]

    def forked() -> int:
        pid = os.fork()
        if pid:
            raise _Forked(pid)
        return pid

    def target() -> None:
        channel.close()
        ours.close()
        if _is_told(theirs):
            run()

    with _instead(forked, made), theirs:
        try:
            supervisor.ActivitySubprocess.start(
                what=SimpleNamespace(id=uuid.UUID(int=0)), dag_rel_path="", bundle_info=None, client=None, target=target
            )
        except _Forked as done:
            return Ahead(done.pid, pairs, ours)
        except Exception:  # it is another SDK than is known: each task's process is forked when its turn comes
            ours.close()
    return None


def _begin_as_the_sdk_does() -> None:
    """Do what `supervise_task` does before it forks, and its task's process inherits."""
    getattr(supervisor, "_make_process_nondumpable", lambda: None)()  # 3.3 and later
    with contextlib.suppress(Exception):
        supervisor.ensure_secrets_backend_loaded()
    with contextlib.suppress(ImportError):
        from airflow.sdk._shared.secrets_masker import reset_secrets_masker  # noqa: PLC0415

        reset_secrets_masker()


def _is_told(channel: socket.socket) -> bool:
    """Wait in the task's process for `Ahead.tell`; False when the supervisor has ended without an order."""
    with channel:
        mark, locks, *_ = socket.recv_fds(channel, _MARK_BYTES, 1)
    for lock in locks:  # held until this process has ended, and not by what it starts
        os.set_inheritable(lock, False)
    if mark:
        os.environ[processes.MARK] = os.fsdecode(mark)
    return bool(mark)
