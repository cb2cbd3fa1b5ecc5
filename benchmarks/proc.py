"""What processes cost, from /proc (proc(5))."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")

#: Fields of /proc/PID/stat, counted from the third on.
_PARENT: Final = 1
_SESSION: Final = 3


def processor_seconds(pid: int, *, children: bool = False) -> float:
    """Return the processor time of a process in seconds; with that of its children, ended ones too, if asked for."""
    spent = _stat(pid)
    if not children:
        return (spent[11] + spent[12]) / _TICKS
    total = sum(spent[11:15])
    for child in _children(pid):
        try:
            total += sum(_stat(child)[11:15])
        except OSError:  # it has ended, and is counted by its parent from now on
            continue
    return total / _TICKS


def _stat(pid: int) -> list[int]:
    """The fields of /proc/PID/stat from the third on (proc(5)); that one, a letter, as 0."""
    text = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [0, *map(int, text[1:])]


def _children(pid: int) -> list[int]:
    return [other for other, stat in _all() if stat[_PARENT] == pid]


def _all() -> Iterator[tuple[int, list[int]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), _stat(int(entry.name))
            except OSError:  # it has ended
                continue


def family(leader: int) -> set[int]:
    """Return the processes of the session that `leader` leads, and all that they started, in whatever session it is."""
    everybody = list(_all())
    known = {pid for pid, stat in everybody if stat[_SESSION] == leader}
    while more := {pid for pid, stat in everybody if stat[_PARENT] in known} - known:
        known |= more
    return known


def proportional_mib(pids: set[int]) -> float:
    """Return the proportional memory (PSS) of processes in MiB: what they share with others counts in parts."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return round(total / 1024, 1)


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
