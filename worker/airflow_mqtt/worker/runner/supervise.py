"""One attempt of one job: the process that runs the Task SDK's supervisor and writes down how it ended."""

import contextlib
import fcntl
import functools
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from airflow_mqtt.protocol.messages import sanitise
from airflow_mqtt.worker import processes, task_log
from airflow_mqtt.worker.job_files import JobFiles
from airflow_mqtt.worker.runner import compat
from airflow_mqtt.worker.runner.transport import WorkerTransport

CALLBACK = "ExecuteCallback"


def main(state_dir: Path, order: dict[str, Any]) -> NoReturn:
    """Run `order` (job, attempt, workload) in this forked process and end it. Never returns."""
    status = 70  # EX_SOFTWARE
    try:
        files = JobFiles(state_dir, order["job"], order["attempt"])
        _detach(files)
        if _first(files):
            me = processes.identify(os.getpid())
            files.write_runner(me)
            processes.adopt_orphans()
            compat.part_from_parent()
            os.environ[processes.MARK] = files.mark
            end_the_rest = functools.partial(processes.kill_attempt, files.mark, me, spare_leader=True)
            compat.hear_of_ends(end_the_rest)
            # What the task has started must not run beside its retry, whatever the exit code: the SDK's process exits 0
            # once it has reported a failure. And at once: the SDK waits a minute for whoever holds its output open.
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


def _detach(files: JobFiles) -> None:
    """Begin a session of our own, and write to a file: the worker may die, its terminal and pipes with it."""
    os.setsid()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(name, signal.SIG_DFL)
    files.directory.mkdir(parents=True, exist_ok=True)
    sink = os.open(files.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    os.close(nothing)


def _first(files: JobFiles) -> bool:
    """Whether no other process runs this attempt.

    A worker that died between asking for a runner and learning of it asks again; the lock, held until this process
    and its task are gone, makes the second one leave.
    """
    lock = os.open(files.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _run(state_dir: Path, order: dict[str, Any], files: JobFiles) -> dict[str, Any]:
    workload = order["workload"]
    transport = WorkerTransport(state_dir, order["job"], order["attempt"], order["max_call_bytes"], key=order["key"])
    try:
        client = compat.make_client(transport)
        if workload.get("type") == CALLBACK:
            return _run_callback(workload, client, files)
        return _result(returned=True, exit_code=compat.run_task(workload, client, files.task_log))
    except BaseException as error:
        traceback.print_exc()
        reason = sanitise(compat.refusal(error) or f"the supervisor failed: {type(error).__name__}: {error}")
        _tell(files, reason, error)
        return _result(returned=False, reason=reason)


def _run_callback(workload: dict[str, Any], client: Any, files: JobFiles) -> dict[str, Any]:
    """Pass the gate with a request of our own, since the SDK makes none for callbacks; then run it."""
    client.patch(f"callbacks/{workload['callback']['id']}/run", content="{}")
    try:
        return _result(returned=True, exit_code=compat.run_callback(workload, client, files.task_log))
    except RuntimeError as error:  # so says the SDK that the callback's own code failed
        return _result(returned=True, exit_code=1, reason=sanitise(str(error)))


def _result(*, returned: bool, exit_code: int | None = None, reason: str = "") -> dict[str, Any]:
    return {"returned": returned, "exit_code": exit_code, "reason": reason}


def _tell(files: JobFiles, reason: str, error: BaseException) -> None:
    """Say it in the task's log, where people look first."""
    files.append_log(task_log.line(time.time(), "error", reason, "airflow_mqtt.runner", error))
