"""Lines for a terminal of a given size, of a picture and a view. Pure.

A line is a tuple of spans, each a text and the style it is drawn in. Lines are exactly as wide as the screen, and as
many as it has. What is not on the screen is not made.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from airflow_mqtt.config.printing import plain
from airflow_mqtt.monitor.cells import cut, fit, width
from airflow_mqtt.monitor.keys import KEYS, View
from airflow_mqtt.monitor.picture import Picture
from airflow_mqtt.monitor.tables import (
    BAD,
    DIM,
    GOOD,
    HEAD,
    PLAIN,
    TABLES,
    TITLE,
    WARN,
    At,
    Column,
    Table,
    duration,
    ordered,
)
from airflow_mqtt.protocol.messages import BridgeState
from airflow_mqtt.protocol.workers import WorkerState

Span = tuple[str, str]
Line = tuple[Span, ...]

#: Lines above the rows of a table: five, and its head.
_ABOVE: Final = 6

#: Cells of a text in `--once`, where nothing else bounds it.
_LONGEST: Final = 200

#: What the help says of what is missing.
_UNKNOWN: Final = (
    "A job is listed from its first change after this began: its status is not retained.",
    "How many wait and run is always whole: the bridge counts them.",
)

_HINT: Final = "w workers  u queues  j jobs  / filter  < > sort  r reverse  h help  q quit"

_COUNTED: Final = (
    (WorkerState.RUNNING, GOOD),
    (WorkerState.IDLE, PLAIN),
    (WorkerState.STARTING, PLAIN),
    (WorkerState.TERMINATING, WARN),
    (WorkerState.MAINTENANCE_PENDING, WARN),
    (WorkerState.MAINTENANCE_MODE, WARN),
    (WorkerState.OFFLINE_MAINTENANCE, WARN),
    (WorkerState.OFFLINE, BAD),
    (WorkerState.UNKNOWN, BAD),
)


@dataclass(frozen=True, slots=True)
class Where:
    """What a picture is of: the broker and the root of the topics, and why there is no connection, if there is none."""

    broker: str
    root: str
    trouble: str = ""


def draw(
    picture: Picture, view: View, where: Where, *, columns: int, lines: int, now: float
) -> tuple[list[Line], View]:
    """Return `lines` lines of `columns` cells, and the view as it fits them."""
    at = At(picture, now)
    if view.shows_help:
        return _filled(_help(), columns, lines), view
    table = TABLES[view.table]
    rows = ordered(table, at, sorts_by=view.order.column, descending=view.order.descending, wanted=view.wanted)
    view = view.fitted(len(rows), max(1, lines - _ABOVE))
    shown = rows[view.first : view.first + view.page]
    drawn = [
        *_summary(at, where),
        _words(picture, view, where),
        _head(table, view, columns),
        *(_row(table, at, row, columns) for row in shown),
    ]
    return _filled(drawn, columns, lines), view


def once(picture: Picture, where: Where, view: View, tables: Iterable[str], *, now: float) -> list[str]:
    """Return all of it as plain lines, as long as what is in them."""
    at = At(picture, now)
    lines = ["".join(text for text, _ in line).rstrip() for line in _summary(at, where)]
    lines += [plain(text) for text in filter(None, [_missing(picture, where)])]
    for name in tables:
        table, order = TABLES[name], view.orders.get(name)
        column = table.column(order.column if order else table.sorts_by)
        descending = order.descending if order else column.descending
        rows = ordered(table, at, sorts_by=column.name, descending=descending, wanted=view.wanted)
        lines += ["", *filter(None, [_known(picture) if table is TABLES["jobs"] else ""]), *_listed(table, at, rows)]
    return lines


def _listed(table: Table, at: At, rows: Sequence[Any]) -> list[str]:
    cells = [[column.name for column in table.columns]]
    cells += [[cut(column.show(at, row), _LONGEST) for column in table.columns] for row in rows]
    widths = [max(width(row[number]) for row in cells) for number in range(len(table.columns))]
    return [
        "  ".join(
            fit(text, size, right=column.right) for text, size, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()
        for row in cells
    ]


# --- the lines above --------------------------------------------------------------------------------------


def _summary(at: At, where: Where) -> list[Line]:
    clock = time.strftime("%H:%M:%S", time.localtime(at.now))
    return [
        (("airflow-mqtt top", TITLE), (f" - {clock}  {where.broker}  {where.root}", PLAIN)),
        _bridge(at.picture),
        _workers(at),
        _queues(at),
    ]


def _bridge(picture: Picture) -> Line:
    bridge = picture.bridge
    if bridge is None:
        return (("Bridge:  ", TITLE), ("none has said anything", WARN))
    if bridge.state != BridgeState.LEADING:
        return (("Bridge:  ", TITLE), (f"nobody leads; the last was {bridge.instance}", BAD))
    version = f", version {bridge.version}" if bridge.version else ""
    return (("Bridge:  ", TITLE), (f"{bridge.instance} leads, epoch {bridge.epoch}{version}", PLAIN))


def _workers(at: At) -> Line:
    counts = dict.fromkeys((state for state, _ in _COUNTED), 0)
    slots = free = 0
    for worker in at.picture.workers.values():
        state = at.picture.state_of(worker, at.now)
        counts[state] = counts.get(state, 0) + 1
        slots += worker.status.slots
        free += worker.status.free
    spans: list[Span] = [("Workers: ", TITLE), (f"{len(at.picture.workers)} total", PLAIN)]
    spans += [(f", {counts[state]} {state}", style) for state, style in _COUNTED if counts[state]]
    return (*spans, (f"   slots {slots}, used {slots - free}, free {free}", PLAIN))


def _queues(at: At) -> Line:
    statuses = [queue.status for queue in at.picture.queues.values()]
    waiting = sum(status.queued for status in statuses)
    oldest = max((status.oldest_age for status in statuses if status.queued), default=0.0)
    spans: list[Span] = [("Jobs:    ", TITLE), (f"{at.picture.running} with workers, ", PLAIN)]
    spans.append((f"{waiting} wait", WARN if waiting else PLAIN))
    if waiting:
        spans.append((f" (the oldest {duration(oldest)})", PLAIN))
    spans.append((f" in {len(statuses)} queues", PLAIN))
    ended = ", ".join(f"{count} {state}" for state, count in sorted(at.picture.ended.items()))
    return (*spans, (f"   ended: {ended}" if ended else "", PLAIN))


def _words(picture: Picture, view: View, where: Where) -> Line:
    """The line between: what is typed, else what is wrong, else what is shown."""
    if view.typed is not None:
        return (("/", TITLE), (plain(view.typed), PLAIN), ("_", DIM))
    if missing := _missing(picture, where):
        return ((missing, BAD),)
    spans: list[Span] = []
    if view.wanted:
        spans.append((f"{view.rows} hold {plain(view.wanted)!r} (Esc: all)  ", WARN))
    if view.table == "jobs" and (known := _known(picture)):
        spans.append((f"{known}  ", WARN))
    if picture.dropped:
        said = ", ".join(f"{count} {why}" for why, count in sorted(picture.dropped.items()))
        spans.append((f"left out: {said}  ", WARN))
    first = f"{view.table} {view.first + 1}-{min(view.rows, view.first + view.page)} of {view.rows}"
    return (*spans, (f"{first if view.rows else view.table + ': none'}  {_HINT}", DIM))


def _known(picture: Picture) -> str:
    """Say how many of the jobs that workers hold are known, if not all: the status of a job is not retained."""
    if picture.listens_since is None or picture.held_jobs >= picture.running:
        return ""
    since = time.strftime("%H:%M:%S", time.localtime(picture.listens_since))
    return f"known are {picture.held_jobs} of {picture.running}: those that moved since {since}"


def _missing(picture: Picture, where: Where) -> str:
    if where.trouble:
        return where.trouble
    if picture.is_empty and picture.listens_since is not None:
        return (
            f"nothing has come on {picture.topics.base}/+/+/status: either nobody is there, or --root is another's, or"
            " this account may not read it (mosquitto/acl, user monitor)"
        )
    return ""


# --- rows -------------------------------------------------------------------------------------------------


def _head(table: Table, view: View, columns: int) -> Line:
    arrow = "v" if view.order.descending else "^"
    texts = [name + arrow if name == view.order.column else name for name in (column.name for column in table.columns)]
    return ((_cells(table.columns, texts, columns), HEAD),)


def _row(table: Table, at: At, row: Any, columns: int) -> Line:
    texts = [column.show(at, row) for column in table.columns]
    return ((_cells(table.columns, texts, columns), table.style(at, row)),)


def _cells(columns: Sequence[Column], texts: Sequence[str], room: int) -> str:
    """Return `texts` side by side in `room` cells; what has no room is left out, and the last takes the rest."""
    parts: list[str] = []
    for number, (column, text) in enumerate(zip(columns, texts, strict=True)):
        size = room if number + 1 == len(columns) else min(column.width, room)
        parts.append(fit(text, size, right=column.right))
        room -= size + 1
        if room <= 0:
            break
    return " ".join(parts)


def _help() -> list[Line]:
    lines: list[Line] = [(("airflow-mqtt top", TITLE), (": what the status topics of the fleet say", PLAIN)), ()]
    for key in KEYS:
        names = " ".join("space" if name == " " else name for name in key.keys)
        lines.append(((f"  {names:<12}", TITLE), (key.help, PLAIN)))
    lines += [(), *(((text, PLAIN),) for text in _UNKNOWN)]
    return [*lines, (), (("any key goes back", DIM),)]


def _filled(drawn: Sequence[Line], columns: int, lines: int) -> list[Line]:
    """Return exactly `lines` lines of exactly `columns` cells."""
    filled = [_across(line, columns) for line in drawn[:lines]]
    return filled + [_across((), columns)] * (lines - len(filled))


def _across(line: Line, columns: int) -> Line:
    spans: list[Span] = []
    room = columns
    for text, style in line:
        shown = cut(text, room)
        spans.append((shown, style))
        room -= width(shown)
    return (*spans, (" " * room, spans[-1][1] if spans else PLAIN))
