"""Processes of tasks that have become another user's (`run_as_user`). Only that user, and root, may kill them.

The Task SDK starts such a task again with `sudo -E -H -u USER PYTHON`. What may be ignored, TERM, `sudo` passes on. To
kill is left to us: the rule in sudoers that lets the SDK begin it lets us end it, in that user's name.
"""

import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path

#: Seconds within which it must be done: the worker waits for it.
TIMEOUT = 5.0

#: Runs as the other user. A process id may be another's by then: when it began is compared first.
_KILL = """
import os, sys
for one in sys.argv[1:]:
    pid, ticks = one.split(":")
    try:
        with open("/proc/" + pid + "/stat", "rb") as file:
            if file.read().rpartition(b")")[2].split()[19] == ticks.encode():
                os.kill(int(pid), 9)
    except OSError:
        pass
"""


def owner(pid: int) -> int | None:
    """Return the user id of a process (proc(5), status); None when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:")), None)


def kill(began: Mapping[int, int], python: str) -> bool:
    """Kill processes of others, each given with its ticks; return whether those could be asked that own them.

    `python` is the interpreter that the rule in sudoers names: that of the tasks.
    """
    of_user: dict[int, list[str]] = {}
    for pid, ticks in began.items():
        if user := owner(pid):  # root's own end when what they have started has
            of_user.setdefault(user, []).append(f"{pid}:{ticks}")
    asked = [_kill_as(user, targets, python) for user, targets in of_user.items()]
    return all(asked)


def _kill_as(user: int, targets: list[str], python: str) -> bool:
    try:
        name = pwd.getpwuid(user).pw_name
        command = ["sudo", "-n", "-u", name, python, "-I", "-S", "-c", _KILL, *targets]
        done = subprocess.run(  # noqa: S603  what is in it is ours
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=TIMEOUT, check=False, cwd="/"
        )
    except (OSError, KeyError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
