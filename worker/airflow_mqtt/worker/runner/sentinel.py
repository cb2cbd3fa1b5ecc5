"""Tells a supervisor of the Task SDK at once that its process has ended.

The supervisor sleeps in its selector until a socket of its process has something, or its next heartbeat is due. The
process closes its sockets a moment before it has ended, and so the supervisor mostly slept on for up to a second: for
that long the job's slot was held, and its end not reported.
"""

import functools
import os
import selectors
from collections.abc import Callable
from typing import Any


class Sentinel:
    """A descriptor that becomes readable when `pid` has ended (pidfd_open(2)); looks like a socket of its process.

    `OSError` where there is no such process any more, or the kernel is older than Linux 5.3.
    """

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def watch(kind: Any, ended: Callable[[], None]) -> None:
    """Let each supervisor of the class `kind` hear at once of its process's end, and call `ended` first.

    It waits for that when the task runs, and when it has killed it: at the latest since Airflow refused its start.
    """
    for name in ("wait", "kill"):
        setattr(kind, name, _wakeful(getattr(kind, name), ended))


def _wakeful(method: Callable[..., Any], ended: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wakeful(supervisor: Any, *arguments: Any, **options: Any) -> Any:
        try:
            sentinel = Sentinel(supervisor.pid)
        except (OSError, AttributeError):
            return method(supervisor, *arguments, **options)  # it sleeps, as it does anywhere else
        try:
            _register(supervisor.selector, sentinel, ended)
            return method(supervisor, *arguments, **options)
        finally:
            sentinel.close()

    return wakeful


def _register(selector: selectors.BaseSelector, sentinel: Sentinel, ended: Callable[[], None]) -> None:
    """Register as `WatchedSubprocess._register_pipe_readers` does: a handler that says whether more is to come."""

    def handle(_: Sentinel) -> bool:
        ended()
        return False

    selector.register(sentinel, selectors.EVENT_READ, (handle, selector.unregister))
