"""Remembers the processes of a demo that was left running, and stops them by their ids."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from demo.processes import Server, StartError

FILE = "processes.json"

#: Says that a directory is a demo's, and may be emptied by the next one.
MARK = ".airflow-mqtt-demo"


def empty(directory: Path, *, usual: Path) -> None:
    """Make `directory`, without what the last demo left; `StartError` for one that somebody else has put things into.

    The `usual` one is nobody else's.
    """
    if directory != usual and directory.exists() and any(directory.iterdir()) and not (directory / MARK).exists():
        raise StartError(f"{directory} is no demo's: give a --directory that is empty, or not there")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARK).touch()


def started(pid: int) -> str | None:
    """Return when `pid` started (in ticks since boot), which tells it from a later process with its number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def remember(directory: Path, servers: Iterable[Server]) -> None:
    found = [{"name": server.name, "pid": server.pid, "started": started(server.pid)} for server in servers]
    (directory / FILE).write_text(json.dumps(found, indent=1))


def still_running(directory: Path) -> list[tuple[str, int]]:
    """Return (name, pid) of each remembered process that lives."""
    path = directory / FILE
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    return [(item["name"], item["pid"]) for item in found if started(item["pid"]) == item["started"] is not None]


def stop(directory: Path, timeout: float = 60) -> list[str]:
    """Stop what was remembered, the worker and the bridge first; return the names."""
    running = still_running(directory)
    for _, pid in running:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while still_running(directory) and time.monotonic() < deadline:
        time.sleep(0.1)
    for _, pid in still_running(directory):
        os.killpg(pid, signal.SIGKILL)
    (directory / FILE).unlink(missing_ok=True)
    return [name for name, _ in running]
