"""A process that forks supervisors, and reaps them: the warm process itself, and each nursery that it has forked.

To fork a process that has the Task SDK loaded takes milliseconds, for its tables of pages alone. So each Forker that
has started a supervisor forks the next one's process ahead: the *spare*, which forks its task's, too (`ahead`), and
waits for its order.
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from airflow_mqtt.worker.frames import Unpacker, pack

CANNOT_FORK = 71  # EX_OSERR

#: Seconds from a start to the fork of the next spare: the task that has begun goes first.
SPARE_AFTER = 1.0

#: A spare or a nursery that does not take an order in this time is ill.
SEND_TIMEOUT = 5.0


class Forker:
    """Obeys the frames that come over `channel`, until its other end closes or, once retired, all children are gone.

    It has one thread and no sockets but socket pairs, so that forking is safe.
    """

    def __init__(self, channel: socket.socket, state_dir: Path) -> None:
        self._channel = channel
        self._state_dir = state_dir
        self._unpacker = Unpacker()
        self._children: dict[int, tuple[str, int]] = {}
        self._spare: tuple[int, socket.socket] | None = None
        self._spare_due: float | None = None
        self._retired = False

    def run(self) -> None:
        wake, alarm = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(alarm, False)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._private = (wake, alarm)
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ, self._hear_orders)
            selector.register(wake, selectors.EVENT_READ, self._reap)
            self._selector = selector
            self._alive = True
            while self._alive and not (self._retired and not self._children):
                self._round()
        if self._spare is not None:
            self._spare[1].close()

    def _round(self) -> None:
        for key, _ in self._selector.select(self._timeout()):
            key.data()
        if self._spare_due is not None and time.monotonic() >= self._spare_due:
            self._spare_due = None
            self._fork_ahead()

    def _timeout(self) -> float | None:
        return None if self._spare_due is None else max(0.0, self._spare_due - time.monotonic())

    def _hear_orders(self) -> None:
        try:
            data = self._channel.recv(262144)
        except ConnectionResetError:
            data = b""
        for order in self._unpacker.feed(data):
            self._obey(order)
        self._alive = bool(data)

    def _obey(self, order: dict[str, Any]) -> None:
        if order["op"] == "retire":
            self._retired = True
        else:
            self._start(order)

    def _start(self, order: dict[str, Any]) -> None:
        pid = self._taken_by_spare(order)
        if pid is None:
            try:
                pid = os.fork()
            except OSError as error:
                print(f"cannot fork: {error}", file=sys.stderr, flush=True)  # noqa: T201  into host.log
                self._report(order["job"], order["attempt"], CANNOT_FORK)
                return
            if pid == 0:
                self._become_supervisor(order)
        self._children[pid] = (order["job"], order["attempt"])
        self._spare_due = time.monotonic() + SPARE_AFTER

    def _fork_ahead(self) -> None:
        if self._spare is not None or self._retired:
            return
        self._spare = self._forked(self._await_order)

    def _forked(self, become: Callable[[socket.socket], None]) -> tuple[int, socket.socket] | None:
        """Fork a process that is what `become` makes of its end of a channel; return it and our end, or None."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                return None
            if pid == 0:
                try:
                    ours.close()
                    self._leave()
                    become(theirs)
                finally:
                    os._exit(0)
        ours.settimeout(SEND_TIMEOUT)
        return pid, ours

    def _await_order(self, channel: socket.socket) -> None:
        """Be the spare: the supervisor of the one order that comes, or of none when the parent ends."""
        ahead = self._rehearse(channel)
        unpacker = Unpacker()
        while data := channel.recv(262144):
            for order in unpacker.feed(data):
                channel.close()
                self._supervise(order, ahead)

    def _taken_by_spare(self, order: dict[str, Any]) -> int | None:
        """Return who it is; None when there is none, or it has ended. What it got in part it does not begin."""
        if self._spare is None:
            return None
        pid, channel = self._spare
        self._spare = None
        with channel:
            try:
                channel.sendall(pack(order))
            except OSError:
                return None
        return pid

    def _become_supervisor(self, order: dict[str, Any]) -> NoReturn:
        self._leave()
        self._supervise(order)

    def _rehearse(self, channel: socket.socket) -> Any:
        from airflow_mqtt.worker.runner import supervise  # noqa: PLC0415  loaded with compat already

        return supervise.rehearse(channel)

    def _supervise(self, order: dict[str, Any], ahead: Any = None) -> NoReturn:
        from airflow_mqtt.worker.runner import supervise  # noqa: PLC0415  loaded with compat already

        supervise.main(self._state_dir, order, ahead)

    def _leave(self) -> None:
        """In a child: close what is the parent's alone."""
        signal.set_wakeup_fd(-1)
        parents = [key.fileobj for key in self._selector.get_map().values()]
        self._selector.close()
        for found in parents:
            if isinstance(found, socket.socket):
                found.close()
        for descriptor in self._private:
            os.close(descriptor)
        if self._spare is not None:
            self._spare[1].close()  # it is to end with its parent, and not with a task

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._private[0], 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._spare is not None and pid == self._spare[0]:
                self._spare[1].close()
                self._spare = None
            if pid in self._children:
                self._report(*self._children.pop(pid), os.waitstatus_to_exitcode(status))

    def _report(self, job: str, attempt: int, status: int) -> None:
        self._send({"op": "exited", "job": job, "attempt": attempt, "status": status})

    def _send(self, frame: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._channel.sendall(pack(frame))
