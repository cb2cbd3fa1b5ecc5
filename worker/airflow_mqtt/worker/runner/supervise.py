"""One attempt of one job: the process that runs the Task SDK's supervisor and writes down how it ended."""

import contextlib
import fcntl
import functools
import gc
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.messages import sanitise
from airflow_mqtt.worker import processes, task_log
from airflow_mqtt.worker.job_files import JobFiles
from airflow_mqtt.worker.runner import callback, compat, connection_test, task
from airflow_mqtt.worker.runner.outcome import Outcome
from airflow_mqtt.worker.runner.transport import WorkerTransport

if TYPE_CHECKING:
    from airflow_mqtt.worker.runner.ahead import Ahead  # only `compat` knows the SDK

#: How each kind of work is run. What is of none is tried as a task: it is of a newer site.
_RUN = {kinds.TASK: task.run, kinds.CALLBACK: callback.run, kinds.CONNECTION_TEST: connection_test.run}


def main(state_dir: Path, order: dict[str, Any], ahead: "Ahead | None" = None) -> NoReturn:
    """Run `order` (job, attempt, workload) in this forked process and end it. Never returns.

    `ahead` is a process that waits to be that of a task.
    """
    status = 70  # EX_SOFTWARE
    try:
        files = JobFiles(state_dir, order["job"], order["attempt"])
        _detach(files)
        lock = _lock(files)
        if lock is not None:
            me = processes.identify(os.getpid())
            files.write_runner(me)
            adopts = processes.adopt_orphans()
            compat.part_from_parent()
            os.environ[processes.MARK] = files.mark
            end_the_rest = functools.partial(_end_the_rest, files.mark, me, adopts=adopts)
            compat.hear_of_ends(end_the_rest)
            # What the task has started must not run beside its retry, whatever the exit code: the SDK's process exits 0
            # once it has reported a failure. And at once: the SDK waits a minute for whoever holds its output open.
            with _used(ahead, order, files.mark, lock):
                result = _run(state_dir, order, files)
            end_the_rest()
            files.sync_log()
            files.write_result(result)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def rehearse(channel: socket.socket) -> "Ahead | None":
    """Do in a process that waits for its order over `channel` what a supervisor begins with; see `ahead`.

    Each page that this writes to, for a count of references alone, is copied from the parent's now, and not while
    somebody waits.
    """
    found = None
    with contextlib.suppress(Exception):
        _begin_session()
        processes.adopt_orphans()
        processes.identify(os.getpid())
        compat.part_from_parent()
        found = compat.rehearse(channel)
    gc.collect()
    return found


def _used(
    ahead: "Ahead | None", order: dict[str, Any], mark: str, lock: int
) -> contextlib.AbstractContextManager[None]:
    """Have the task of `order` run in the process that waits, if it is a task; else end that."""
    if ahead is None:
        return contextlib.nullcontext()
    if _kind(order) == kinds.TASK and ahead.tell(mark, lock):
        return ahead.taken()
    ahead.drop()
    return contextlib.nullcontext()


def _end_the_rest(mark: str, me: processes.ProcessId, *, adopts: bool) -> None:
    """Kill what the task has left behind. Mostly that is nothing, which must not cost a look at all processes."""
    if not adopts or processes.has_living_child():
        processes.kill_attempt(mark, me, spare_leader=True)


def _begin_session() -> None:
    """Begin a session of our own, if that is not done: the worker may die, its terminal with it."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(name, signal.SIG_DFL)


def _detach(files: JobFiles) -> None:
    """Depend on nothing of the worker's: neither its terminal nor its pipes."""
    _begin_session()
    files.directory.mkdir(parents=True, exist_ok=True)
    sink = os.open(files.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    os.close(nothing)


def _lock(files: JobFiles) -> int | None:
    """Take the lock of this attempt and return its descriptor; None when another process runs it.

    A worker that died between asking for a runner and learning of it asks again; the lock, held until this process
    and its task are gone, makes the second one leave.
    """
    lock = os.open(files.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return lock


def _kind(order: dict[str, Any]) -> kinds.Kind:
    return kinds.of(order["workload"].get("type")) or kinds.TASK


def _run(state_dir: Path, order: dict[str, Any], files: JobFiles) -> dict[str, Any]:
    workload = order["workload"]
    transport = WorkerTransport(state_dir, order["job"], order["attempt"], order["max_call_bytes"], key=order["key"])
    try:
        client = compat.make_client(transport)
        run = _RUN[_kind(order)]
        return _result(returned=True, outcome=run(workload, client, files.task_log))
    except BaseException as error:
        traceback.print_exc()
        reason = sanitise(compat.refusal(error) or f"the supervisor failed: {type(error).__name__}: {error}")
        _tell(files, reason, error)
        return _result(returned=False, outcome=Outcome(None, reason))


def _result(*, returned: bool, outcome: Outcome) -> dict[str, Any]:
    return {"returned": returned, "exit_code": outcome.exit_code, "reason": outcome.reason}


def _tell(files: JobFiles, reason: str, error: BaseException) -> None:
    """Say it in the task's log, where people look first."""
    files.append_log(task_log.line(time.time(), "error", reason, "airflow_mqtt.runner", error))
