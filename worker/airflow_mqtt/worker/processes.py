"""Processes that may have outlived the one that started them: known by id, start time and boot, not by id alone."""

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_mqtt.worker import other_users

PROC = Path("/proc")

#: In the environment of what a task starts: of which attempt it is. No setting, hence the underscore.
MARK = "_AIRFLOW_MQTT_ATTEMPT"

#: How often, and after how many seconds, it is looked whether what was killed is gone, and has started nothing more.
KILL_ROUNDS = 50
KILL_PAUSE = 0.01


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
        line = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return {}
    rest = line.rpartition(")")[2].split()  # the command before it may hold anything, or half a character
    return {"state": rest[0], "parent": int(rest[1]), "session": int(rest[3]), "ticks": int(rest[19])}


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
        _send(process.pid, signal.SIGTERM)


def kill(process: ProcessId) -> None:
    if alive(process):
        _send(process.pid, signal.SIGKILL)


def wake(process: ProcessId) -> None:
    """Let a process that was stopped go on."""
    if alive(process):
        _send(process.pid, signal.SIGCONT)


def adopt_orphans() -> bool:
    """Become the parent of each process below this one that loses its own (prctl(2), PR_SET_CHILD_SUBREAPER).

    Return whether the kernel does that: then who has no living child has no living descendant either.
    """
    return _prctl(36, 1)


def has_living_child() -> bool:
    """Whether a child of this process lives, also where the kernel does not tell (proc(5), task/TID/children).

    One that ends after the list was read may have left us children of its own, which were not in it: what is new is
    looked at too, until nothing is.
    """
    dead: set[str] = set()
    while True:
        try:
            lists = [(task / "children").read_text().split() for task in (PROC / "self" / "task").iterdir()]
        except OSError:
            return True
        new = {pid for pids in lists for pid in pids} - dead
        if not new:
            return False
        if any(_stat(int(pid)).get("state", "X") not in "ZX" for pid in new):
            return True
        dead |= new


def close_memory() -> None:
    """Let no other process of this user read our memory and environment (prctl(2), PR_SET_DUMPABLE; proc(5))."""
    _prctl(4, 0)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends (prctl(2), PR_SET_PDEATHSIG); its own children go on."""
    _prctl(1, signal.SIGKILL)


def _prctl(option: int, value: int) -> bool:
    """Return whether the kernel did it."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  not everywhere

        with contextlib.suppress(OSError, AttributeError):
            return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0)) == 0
    return False


def kill_attempt(
    mark: str, leader: ProcessId | None, *, spare_leader: bool = False, python: str = sys.executable
) -> None:
    """Kill all processes of an attempt, with `spare_leader` but for its supervisor; wait until they are gone.

    A process is of the attempt when it is in a session that the supervisor or another of its processes began, when one
    of them is its parent, or when `MARK` in its environment is `mark`. Each alone misses some: a task runs in a process
    group of its own and `BashOperator` begins a session for its command; what lost its parent has another; and a
    command may be given an environment without the mark. Nothing is found where there is no /proc, but the leader.
    What has become another user's is killed in that user's name, by `python`: see `other_users`.
    """
    spared = {os.getpid()}
    if leader is not None and alive(leader):
        spared.add(leader.pid)
        if not spare_leader:
            _send(leader.pid, signal.SIGSTOP)  # it must not start or report anything while its children end
    for _ in range(KILL_ROUNDS):
        victims = {pid: ticks for pid, ticks in _members(mark, leader).items() if pid not in spared}
        if not victims:
            break
        others = {pid for pid in victims if not _send(pid, signal.SIGKILL)}
        if others and not other_users.kill({pid: victims[pid] for pid in others}, python):
            spared |= others  # there is no way to them
        time.sleep(KILL_PAUSE)
    if leader is not None and not spare_leader and alive(leader):
        _send(leader.pid, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> bool:
    """Return whether we may send it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def _members(mark: str, leader: ProcessId | None) -> dict[int, int]:
    """Return the living processes of an attempt, and when each began."""
    table = _living()
    known = leader if leader is not None and leader.boot == boot_id() else None
    # What carries the mark began after its supervisor: the environments of all others need not be read.
    since = 0 if known is None else known.ticks
    found = {pid for pid, stat in table.items() if stat["ticks"] >= since and _marked(pid, mark)}
    if known is not None:
        holder = table.get(known.pid)
        # While a session has members its id is not used again; a leader that began at another time is somebody else.
        if holder is None or holder["ticks"] == known.ticks:
            found |= {pid for pid, stat in table.items() if known.pid in (pid, stat["session"])}
    while True:
        more = {pid for pid, stat in table.items() if stat["parent"] in found or stat["session"] in found} - found
        if not more:
            return {pid: table[pid]["ticks"] for pid in found}
        found |= more


def _living() -> dict[int, dict[str, Any]]:
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()] if PROC.exists() else []
    table = {pid: _stat(pid) for pid in pids}
    return {pid: stat for pid, stat in table.items() if stat and stat["state"] not in "ZX"}


def _marked(pid: int, mark: str) -> bool:
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return os.fsencode(f"{MARK}={mark}") in environment.split(b"\0")
