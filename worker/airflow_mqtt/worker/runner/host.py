"""The warm process: it has the Task SDK loaded, and forks a supervisor for each job.

`python -m airflow_mqtt.worker.runner.host FD STATE_DIR`, started by the worker. It has one thread and no sockets
but its end of a socket pair (FD), so that forking is safe. When the worker is gone it ends; its children go on.

Frames in: `{"op": "start", "job", "attempt", "workload", "max_call_bytes", "key"}`. Frames out:
`{"op": "ready"}`, `{"op": "exited", "job", "attempt", "status"}`, `{"op": "unusable", "reason"}`.
"""

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from airflow_mqtt.worker.frames import Unpacker, pack

CANNOT_FORK = 71  # EX_OSERR


def main(arguments: list[str]) -> int:
    channel = socket.socket(fileno=int(arguments[0]))
    state_dir = Path(arguments[1])
    os.environ.setdefault("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "1")  # so that a cancel is heard soon
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the worker
    if _alone(channel):
        return 0
    try:
        load()
    except Exception as error:
        channel.sendall(pack({"op": "unusable", "reason": f"{type(error).__name__}: {error}"}))
        return 1
    channel.sendall(pack({"op": "ready"}))
    Host(channel, state_dir).run()
    return 0


def _alone(channel: socket.socket) -> bool:
    """Whether the worker is gone already: what is loaded next takes 120 MB and seconds."""
    try:
        return not channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def load() -> None:
    gc.disable()
    from airflow_mqtt.worker.runner import compat, supervise  # noqa: F401, PLC0415  they load the Task SDK

    compat.warm_up()
    gc.enable()
    gc.collect()
    gc.freeze()  # what is loaded stays shared with the children: a collection would touch, and copy, each page


class Host:
    """Forks and reaps."""

    def __init__(self, channel: socket.socket, state_dir: Path) -> None:
        self._channel = channel
        self._state_dir = state_dir
        self._unpacker = Unpacker()
        self._children: dict[int, tuple[str, int]] = {}

    def run(self) -> None:
        """Serve until the worker closes its end."""
        wake, alarm = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(alarm, False)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._private = (wake, alarm)
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            self._selector = selector
            while self._serve(wake):
                pass

    def _serve(self, wake: int) -> bool:
        for key, _ in self._selector.select():
            if key.fd == wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
                self._reap()
            elif not self._obey():
                return False
        return True

    def _obey(self) -> bool:
        try:
            data = self._channel.recv(262144)
        except ConnectionResetError:
            return False
        for order in self._unpacker.feed(data):
            self._start(order)
        return bool(data)

    def _start(self, order: dict[str, Any]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            print(f"cannot fork: {error}", file=sys.stderr, flush=True)  # noqa: T201  into host.log
            self._report(order["job"], order["attempt"], CANNOT_FORK)
            return
        if pid == 0:
            self._become_supervisor(order)
        self._children[pid] = (order["job"], order["attempt"])

    def _become_supervisor(self, order: dict[str, Any]) -> NoReturn:
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._channel.close()
        for descriptor in self._private:
            os.close(descriptor)
        from airflow_mqtt.worker.runner import supervise  # noqa: PLC0415  loaded with compat already

        supervise.main(self._state_dir, order)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                self._report(*self._children.pop(pid), os.waitstatus_to_exitcode(status))

    def _report(self, job: str, attempt: int, status: int) -> None:
        with contextlib.suppress(OSError):
            self._channel.sendall(pack({"op": "exited", "job": job, "attempt": attempt, "status": status}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
