"""Processes that may have outlived the one that started them: known by id, start time and boot, not by id alone."""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process as the kernel knows it: ids are used again, and start over at each boot."""

    pid: int
    ticks: int  # since boot, when it began; 0 where there is no /proc
    boot: str


def boot_id() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def identify(pid: int) -> ProcessId:
    return ProcessId(pid, int(_stat(pid).get("ticks", 0)), boot_id())


def _stat(pid: int) -> dict[str, Any]:
    """Return fields of /proc/PID/stat (proc(5)); empty when the process is gone."""
    try:
        line = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return {}
    rest = line.rpartition(")")[2].split()  # the command before it may hold anything
    return {"state": rest[0], "session": int(rest[3]), "ticks": int(rest[19])}


def alive(process: ProcessId) -> bool:
    """Whether `process` still runs. One that only waits to be reaped does not."""
    if process.boot != boot_id():
        return False
    stat = _stat(process.pid)
    if not PROC.exists():
        return _exists(process.pid)
    return bool(stat) and stat["state"] not in "ZX" and stat["ticks"] == process.ticks


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def terminate(process: ProcessId) -> None:
    if alive(process):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGTERM)


def kill_session(leader: ProcessId, *, spare_leader: bool = False) -> None:
    """Kill every process of the session that `leader` began, but for itself with `spare_leader`.

    A task runs in a process group of its own (`airflow.sdk.execution_time.supervisor`, `new_process_group`), so
    killing the supervisor's group would leave it.
    """
    if leader.boot != boot_id():
        return
    stat = _stat(leader.pid)
    if stat and stat["ticks"] != leader.ticks:
        return  # the id is somebody else's by now
    for pid in [*_session_members(leader.pid), *(() if spare_leader else (leader.pid,))]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _session_members(session: int) -> list[int]:
    entries = PROC.iterdir() if PROC.exists() else ()
    pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    return [pid for pid in pids if pid != session and _stat(pid).get("session") == session]
