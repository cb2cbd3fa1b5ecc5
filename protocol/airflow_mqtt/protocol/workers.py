"""The states of a worker, derived from what is wished of it and what is seen of it.

The words are those of Airflow's Edge provider (`EdgeWorkerState`), so that operators find what they know. There
a worker's state mixes wishes with facts; here a wish (`Wish`) and an observation (`Observation`) are two things,
and `TABLE` says what an operator reads.
"""

from enum import StrEnum
from typing import Final


class WorkerState(StrEnum):
    """What an operator reads."""

    STARTING = "starting"  # connected, not ready for jobs yet
    IDLE = "idle"  # ready, nothing runs
    RUNNING = "running"  # ready, something runs
    TERMINATING = "terminating"  # drains, then stops
    OFFLINE = "offline"  # said goodbye, or its will was published
    UNKNOWN = "unknown"  # silent for three heartbeat intervals, will or not
    MAINTENANCE_REQUEST = "maintenance request"  # wished, not yet confirmed
    MAINTENANCE_PENDING = "maintenance pending"  # takes no more jobs, some still run
    MAINTENANCE_MODE = "maintenance mode"  # takes no jobs, none run
    MAINTENANCE_EXIT = "maintenance exit"  # no longer wished, not yet confirmed
    OFFLINE_MAINTENANCE = "offline maintenance"  # offline, and in maintenance when it comes back
    SHUTDOWN_REQUEST = "shutdown request"  # wished, not yet confirmed


class Wish(StrEnum):
    """What an operator wants of a worker."""

    WORK = "work"
    MAINTENANCE = "maintenance"
    SHUTDOWN = "shutdown"


class Observation(StrEnum):
    """What is seen of a worker."""

    STARTING = "starting"
    IDLE = "idle"
    RUNNING = "running"
    IDLE_IN_MAINTENANCE = "idle in maintenance"
    RUNNING_IN_MAINTENANCE = "running in maintenance"
    TERMINATING = "terminating"
    OFFLINE = "offline"
    SILENT = "silent"


O = Observation  # noqa: E741
W = WorkerState

#: (wish, observation) -> state; every combination is listed.
TABLE: Final[dict[tuple[Wish, Observation], WorkerState]] = {
    (Wish.WORK, O.STARTING): W.STARTING,
    (Wish.WORK, O.IDLE): W.IDLE,
    (Wish.WORK, O.RUNNING): W.RUNNING,
    (Wish.WORK, O.IDLE_IN_MAINTENANCE): W.MAINTENANCE_EXIT,
    (Wish.WORK, O.RUNNING_IN_MAINTENANCE): W.MAINTENANCE_EXIT,
    (Wish.WORK, O.TERMINATING): W.TERMINATING,
    (Wish.WORK, O.OFFLINE): W.OFFLINE,
    (Wish.WORK, O.SILENT): W.UNKNOWN,
    (Wish.MAINTENANCE, O.STARTING): W.MAINTENANCE_REQUEST,
    (Wish.MAINTENANCE, O.IDLE): W.MAINTENANCE_REQUEST,
    (Wish.MAINTENANCE, O.RUNNING): W.MAINTENANCE_REQUEST,
    (Wish.MAINTENANCE, O.IDLE_IN_MAINTENANCE): W.MAINTENANCE_MODE,
    (Wish.MAINTENANCE, O.RUNNING_IN_MAINTENANCE): W.MAINTENANCE_PENDING,
    (Wish.MAINTENANCE, O.TERMINATING): W.TERMINATING,
    (Wish.MAINTENANCE, O.OFFLINE): W.OFFLINE_MAINTENANCE,
    (Wish.MAINTENANCE, O.SILENT): W.UNKNOWN,
    (Wish.SHUTDOWN, O.STARTING): W.SHUTDOWN_REQUEST,
    (Wish.SHUTDOWN, O.IDLE): W.SHUTDOWN_REQUEST,
    (Wish.SHUTDOWN, O.RUNNING): W.SHUTDOWN_REQUEST,
    (Wish.SHUTDOWN, O.IDLE_IN_MAINTENANCE): W.SHUTDOWN_REQUEST,
    (Wish.SHUTDOWN, O.RUNNING_IN_MAINTENANCE): W.SHUTDOWN_REQUEST,
    (Wish.SHUTDOWN, O.TERMINATING): W.TERMINATING,
    (Wish.SHUTDOWN, O.OFFLINE): W.OFFLINE,
    (Wish.SHUTDOWN, O.SILENT): W.UNKNOWN,
}

#: States in which a worker is given jobs.
PLACEABLE: Final = frozenset({W.IDLE, W.RUNNING})

#: States in which nothing is heard of a worker.
GONE: Final = frozenset({W.OFFLINE, W.OFFLINE_MAINTENANCE, W.UNKNOWN})

#: A worker silent for this many heartbeat intervals is unknown, will or not.
SILENT_AFTER_INTERVALS: Final = 3


def wish_of(*, maintenance: bool, shutdown: bool) -> Wish:
    """Return the one wish that counts: a shutdown goes before maintenance."""
    if shutdown:
        return Wish.SHUTDOWN
    return Wish.MAINTENANCE if maintenance else Wish.WORK


def observe(reported: str, *, maintenance: bool, running: int, silent: bool) -> Observation:
    """Return what is seen of a worker.

    `reported` is the `state` of its last status (`messages.WorkerStatus`), `maintenance` whether it says that it
    takes no jobs, `running` how many jobs it says it runs, `silent` whether that status is too old to count.
    """
    if reported == Observation.OFFLINE:
        return Observation.OFFLINE
    if silent:
        return Observation.SILENT
    if reported in (Observation.STARTING, Observation.TERMINATING):
        return Observation(reported)
    if maintenance:
        return Observation.RUNNING_IN_MAINTENANCE if running else Observation.IDLE_IN_MAINTENANCE
    return Observation.RUNNING if running else Observation.IDLE


def derive(wish: Wish, observation: Observation) -> WorkerState:
    """Return the state that an operator reads."""
    return TABLE[wish, observation]


def table() -> str:
    """Return `TABLE` as Markdown; `docs/explanation/states.md` embeds it."""
    lines = ["| seen \\ wished | " + " | ".join(Wish) + " |", "|---" * (len(Wish) + 1) + "|"]
    lines += [f"| {seen} | " + " | ".join(TABLE[wish, seen] for wish in Wish) + " |" for seen in Observation]
    return "\n".join(lines) + "\n"
