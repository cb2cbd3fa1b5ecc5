"""The tables that are looked at: their columns, how each sorts, and what its cells show. Pure.

A cell is shown for rows that are on the screen only. To sort, each row gives one key.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from airflow_mqtt.monitor.picture import Picture, SeenJob, SeenQueue, SeenWorker
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.workers import GONE, PLACEABLE, WorkerState

#: How a cell is drawn; the terminal has an attribute for each.
PLAIN, TITLE, HEAD, GOOD, WARN, BAD, DIM = "plain", "title", "head", "good", "warn", "bad", "dim"

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class At:
    """What the cells of a table are made from: the picture, and the time at which it is looked at."""

    picture: Picture
    now: float


@dataclass(frozen=True, slots=True)
class Column:
    """`key` sorts, `show` is the cell's text, `width` its cells; the last column of a table takes what is left."""

    name: str
    width: int
    key: Callable[[At, Any], Any]
    show: Callable[[At, Any], str]
    right: bool = False
    descending: bool = False  # the order that is asked for first


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` are those of a picture, `style` how one is drawn, `words` what a filter looks at."""

    name: str
    columns: tuple[Column, ...]
    sorts_by: str
    rows: Callable[[Picture], Sequence[Any]]
    style: Callable[[At, Any], str]
    words: Callable[[At, Any], str]
    name_of: Callable[[Any], str]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


def duration(seconds: float) -> str:
    """Return a time span as people read it: 12 s, 3:25, 4:02:11, 3 d 04 h."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}:{whole % _MINUTE:02}"
    if whole < _DAY:
        return f"{whole // _HOUR}:{whole // _MINUTE % 60:02}:{whole % _MINUTE:02}"
    return f"{whole // _DAY} d {whole // _HOUR % 24:02} h"


# --- workers ----------------------------------------------------------------------------------------------

#: What needs a person comes first.
_URGENCY: Final = {
    state: number
    for number, state in enumerate(
        (
            WorkerState.UNKNOWN,
            WorkerState.OFFLINE,
            WorkerState.TERMINATING,
            WorkerState.STARTING,
            WorkerState.MAINTENANCE_PENDING,
            WorkerState.MAINTENANCE_MODE,
            WorkerState.OFFLINE_MAINTENANCE,
            WorkerState.RUNNING,
            WorkerState.IDLE,
        )
    )
}


def _state(at: At, row: SeenWorker) -> WorkerState:
    return at.picture.state_of(row, at.now)


def _worker_style(at: At, row: SeenWorker) -> str:
    state = _state(at, row)
    if state in (WorkerState.UNKNOWN, WorkerState.OFFLINE):
        return BAD
    if state not in PLACEABLE:
        return WARN
    return GOOD if state is WorkerState.RUNNING else PLAIN


def _ago(at: At, row: SeenWorker) -> str:
    """A device without a clock says 1970."""
    return duration(at.now - row.seen_at) if row.seen_at > _DAY else "-"


def _used(row: SeenWorker) -> int:
    return row.status.slots - row.status.free


def _reason(at: At, row: SeenWorker) -> str:
    """Why a worker is not there, or has taken itself out of service."""
    return row.status.reason if row.status.own_maintenance or _state(at, row) in GONE else ""


def _figure(name: str, unit: str = "") -> Callable[[At, SeenWorker], str]:
    return lambda _, row: f"{row.health[name]:.0f}{unit}" if name in row.health else "-"


def _known(name: str) -> Callable[[At, SeenWorker], float]:
    """A figure to sort by; what is not known is less than any."""
    return lambda _, row: float(row.health.get(name, -math.inf))


def _memory(_: At, row: SeenWorker) -> float:
    """How much of the memory is used, in percent."""
    return _share(row, "memory_used", "memory_total")


def _disk(_: At, row: SeenWorker) -> float:
    """How much of the disk is free, in percent."""
    return _share(row, "disk_free", "disk_total")


def _share(row: SeenWorker, part: str, whole: str) -> float:
    if part not in row.health or not row.health.get(whole):
        return -math.inf
    return float(100 * row.health[part] / row.health[whole])


def _percent(share: Callable[[At, SeenWorker], float]) -> Callable[[At, SeenWorker], str]:
    return lambda at, row: "-" if (found := share(at, row)) < 0 else f"{found:.0f}%"


WORKERS: Final = Table(
    "workers",
    (
        Column("WORKER", 24, lambda _, row: row.name, lambda _, row: row.name),
        Column(
            "STATE",
            20,
            lambda at, row: _URGENCY.get(_state(at, row), 0),
            lambda at, row: _state(at, row).value,
        ),
        Column("JOBS", 5, lambda _, row: row.status.running, lambda _, row: str(row.status.running), True, True),
        Column("USED", 5, lambda _, row: _used(row), lambda _, row: str(_used(row)), True, True),
        Column("FREE", 5, lambda _, row: row.status.free, lambda _, row: str(row.status.free), True, True),
        Column("SLOTS", 6, lambda _, row: row.status.slots, lambda _, row: str(row.status.slots), True, True),
        Column("SEEN", 9, lambda at, row: at.now - row.seen_at, _ago, True, True),
        Column("CPU", 5, _known("cpu"), _figure("cpu", "%"), True, True),
        Column("MEM", 5, _memory, _percent(_memory), True, True),
        Column("DISK", 5, _disk, _percent(_disk), True),
        Column("TEMP", 6, _known("temperature"), _figure("temperature", " C"), True, True),
        Column("REASON", 10, _reason, _reason),
    ),
    "STATE",
    lambda picture: tuple(picture.workers.values()),
    _worker_style,
    lambda at, row: f"{row.name} {_state(at, row)} {_reason(at, row)}",
    lambda row: str(row.name),
)


# --- queues -----------------------------------------------------------------------------------------------


def _queue_style(_: At, row: SeenQueue) -> str:
    status = row.status
    if status.queued and status.note:
        return BAD
    if status.queued or status.note:
        return WARN
    return GOOD if status.running else PLAIN


def _oldest(_: At, row: SeenQueue) -> str:
    return duration(row.status.oldest_age) if row.status.queued else "-"


QUEUES: Final = Table(
    "queues",
    (
        Column("QUEUE", 24, lambda _, row: row.name, lambda _, row: row.name),
        Column("WAIT", 7, lambda _, row: row.status.queued, lambda _, row: str(row.status.queued), True, True),
        Column(
            "OLDEST",
            9,
            lambda _, row: row.status.oldest_age,
            _oldest,
            True,
            True,
        ),
        Column("RUN", 7, lambda _, row: row.status.running, lambda _, row: str(row.status.running), True, True),
        Column(
            "WORKERS",
            8,
            lambda _, row: row.status.workers_online,
            lambda _, row: str(row.status.workers_online),
            True,
            True,
        ),
        Column("FREE", 7, lambda _, row: row.status.free_slots, lambda _, row: str(row.status.free_slots), True, True),
        Column("NOTE", 20, lambda _, row: row.status.note, lambda _, row: row.status.note),
    ),
    "WAIT",
    lambda picture: tuple(picture.queues.values()),
    _queue_style,
    lambda _, row: f"{row.name} {row.status.note}",
    lambda row: str(row.name),
)


# --- jobs -------------------------------------------------------------------------------------------------


def _job_style(_: At, row: SeenJob) -> str:
    match row.status.state:
        case JobState.RUNNING:
            return GOOD
        case JobState.CANCELLING:
            return WARN
    return PLAIN


def _task(row: SeenJob) -> str:
    status = row.status
    mapped = f"[{status.map_index}]" if status.map_index >= 0 else ""
    return f"{status.dag_id}.{status.task_id}{mapped}" if status.dag_id else row.id


def _tries(_: At, row: SeenJob) -> str:
    return f"{row.status.try_number}/{row.status.attempt}"


JOBS: Final = Table(
    "jobs",
    (
        Column("TASK", 36, lambda _, row: _task(row), lambda _, row: _task(row)),
        Column("STATE", 10, lambda _, row: row.status.state, lambda _, row: row.status.state),
        Column("FOR", 9, lambda at, row: at.now - row.since, lambda at, row: duration(at.now - row.since), True, True),
        Column("WORKER", 20, lambda _, row: row.status.worker or "", lambda _, row: row.status.worker or "-"),
        Column("QUEUE", 14, lambda _, row: row.status.queue, lambda _, row: row.status.queue),
        Column("TRY", 5, lambda _, row: (row.status.try_number, row.status.attempt), _tries, True, True),
        Column("RUN OR REASON", 20, lambda _, row: _run(row), lambda _, row: _run(row)),
    ),
    "FOR",
    lambda picture: tuple(picture.jobs.values()),
    _job_style,
    lambda _, row: f"{_task(row)} {row.status.state} {row.status.worker} {row.status.queue} {_run(row)} {row.id}",
    lambda row: str(row.id),
)


def _run(row: SeenJob) -> str:
    return row.status.reason or row.status.run_id


TABLES: Final = {table.name: table for table in (WORKERS, QUEUES, JOBS)}


def ordered(table: Table, at: At, *, sorts_by: str, descending: bool, wanted: str) -> list[Any]:
    """Return the rows of `table` that hold the words `wanted`, in the order of one column, and then of their names."""
    words = wanted.casefold().split()
    rows = [row for row in table.rows(at.picture) if not words or _holds(table.words(at, row), words)]
    key = table.column(sorts_by).key
    rows.sort(key=table.name_of)
    rows.sort(key=lambda row: key(at, row), reverse=descending)
    return rows


def _holds(text: str, words: list[str]) -> bool:
    folded = text.casefold()
    return all(word in folded for word in words)
