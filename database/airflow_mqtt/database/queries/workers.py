"""The workers of a team: as they were heard last, and what is wished of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    JSON,
    ColumnElement,
    FromClause,
    Select,
    String,
    case,
    cast,
    func,
    literal,
    select,
)
from sqlalchemy.orm import Session

from airflow_mqtt.database import desired, notes, tables
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.documents import is_damaged, sound
from airflow_mqtt.database.queries.paging import (
    Documents,
    Found,
    Page,
    has_label,
    is_sqlite,
    items_of,
    matches,
    number_in,
    order_of,
    page_of,
    reading,
    text_in,
)
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Desired
from airflow_mqtt.protocol.workers import GONE

_worker = tables.worker.c
_job = tables.job.c

SORTS: Final = ("name", "state", "seen_at", "free", "running", "version")

_COLUMNS: Final = (
    _worker.name, _worker.team_name, _worker.state, _worker.status, _worker.info, _worker.desired, _worker.revision,
    _worker.removal, _worker.seen_at, _worker.clock_offset, _worker.note,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workers:
    """Which of them. `name` and `queue` may be patterns; a worker has one of `states`, and all `labels`."""

    name: str = ""
    states: Sequence[str] = ()
    queue: str = ""
    labels: Sequence[str] = ()


def list_workers(session: Session, team_name: str, wanted: Workers, page: Page, access: Access) -> Found:
    """Return a page of workers. `access` is what the bridge goes by: it says which queues they may not serve."""

    def look(documents: Documents) -> tuple[int, Sequence[Any]]:
        query = select(*_COLUMNS, *_held()).where(*_which(session, documents, team_name, wanted))
        return page_of(session, query.order_by(*order_of(page, _sorts(session, documents), _worker.name)), page)

    total, rows = reading(session, team_name, look)
    return Found(total, [_shown(row, access) for row in rows])


def names_of(session: Session, team_name: str, wanted: Workers) -> list[str]:
    """Return the names of all of them."""

    def look(documents: Documents) -> list[str]:
        which = _which(session, documents, team_name, wanted)
        return list(session.scalars(select(_worker.name).where(*which).order_by(_worker.name)))

    return reading(session, team_name, look)


def find_worker(session: Session, team_name: str, name: str, access: Access) -> dict[str, Any] | None:
    """Return one worker; None when there is none of this name."""
    query = select(*_COLUMNS, *_held()).where(_worker.team_name == team_name, _worker.name == name)
    row = session.execute(query).one_or_none()
    return None if row is None else _shown(row, access)


def held_jobs(session: Session, team_name: str, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return (name, state, how many jobs it holds) of those of these workers that are there."""
    running, _ = _held()
    query = select(_worker.name, _worker.state, running).where(_worker.team_name == team_name, _worker.name.in_(names))
    return [tuple(row) for row in session.execute(query.order_by(_worker.name))]


# --- which, and in which order ----------------------------------------------------------------------------------


def _which(session: Session, documents: Documents, team_name: str, wanted: Workers) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [_worker.team_name == team_name]
    if wanted.name:
        conditions.append(matches(session, _worker.name, wanted.name))
    if wanted.states:
        conditions.append(_worker.state.in_(wanted.states))
    if wanted.queue:
        conditions.append(serves(session, documents, lambda queue: matches(session, queue, wanted.queue)))
    conditions += [has_label(session, documents.info, label) for label in wanted.labels]
    return conditions


def serves(
    session: Session, documents: Documents, which: Callable[[ColumnElement[Any]], ColumnElement[bool]]
) -> ColumnElement[bool]:
    """Whether a worker serves a queue for which `which` holds."""
    served, queue = _served_queues(session, documents)
    return select(queue).select_from(served).where(which(queue)).exists()


def _served_queues(session: Session, documents: Documents) -> tuple[FromClause, ColumnElement[Any]]:
    """Return the queues of a worker's row as a table that has one column: those wished, or else its own."""
    of_row = (documents.desired, documents.info)
    if is_sqlite(session):
        each_list = [
            (func.json_type(document, "$.queues") == "array", func.json_extract(document, "$.queues"))
            for document in of_row
        ]
        return items_of(session, case(*each_list, else_="[]"), "served")
    said = [func.json_extract_path(cast(document, JSON), "queues", type_=JSON) for document in of_row]
    lists = case(*((func.json_typeof(each) == "array", each) for each in said), else_=cast(literal("[]", String), JSON))
    return items_of(session, lists, "served")


def _slots(session: Session, documents: Documents) -> ColumnElement[Any]:
    """Return how many slots a worker has, as it said last."""
    said = (number_in(session, document, "slots") for document in (documents.status, documents.info))
    return func.coalesce(*said, 0)


def _free_slots(session: Session, documents: Documents) -> ColumnElement[Any]:
    """Return how many slots of a worker are free: by our own rows, since its last word may be older than a claim."""
    _, used = _held()
    return case((_worker.state.in_([state.value for state in GONE]), 0), else_=_slots(session, documents) - used)


def _held() -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return how many jobs a worker holds, and how many slots they take."""
    held: Select[Any] = select().where(
        _job.team_name == _worker.team_name,
        _job.finished_at.is_(None),
        _job.worker.is_not(None),
        _job.worker == _worker.name,
    )
    count = held.add_columns(func.count()).select_from(tables.job).correlate(tables.worker).scalar_subquery()
    slots = held.add_columns(func.coalesce(func.sum(_job.slots), 0)).correlate(tables.worker).scalar_subquery()
    return count.label("running"), slots.label("used")


def _sorts(session: Session, documents: Documents) -> dict[str, ColumnElement[Any]]:
    running, _ = _held()
    return {
        "name": _worker.name,
        "state": _worker.state,
        "seen_at": _worker.seen_at,
        "free": _free_slots(session, documents),
        "running": running,
        "version": func.coalesce(text_in(session, documents.info, "version"), ""),
    }


# --- as it is shown ---------------------------------------------------------------------------------------------


def _shown(row: Any, access: Access) -> dict[str, Any]:
    status, info = sound(row.status), sound(row.info)
    wished, trouble = _wished(row)
    queues = queues_of(info, wished.queues)
    slots = status.get("slots", info.get("slots", 0))
    said = notes.of_worker(note=row.note, clock_offset=row.clock_offset, removal=row.removal)
    return {
        "name": row.name,
        "team_name": row.team_name,
        "state": row.state,
        "maintenance": wished.maintenance,
        "shutdown": wished.shutdown,
        "removal": row.removal,
        "revision": row.revision,
        "comment": wished.comment,
        "notes": [*filter(None, [trouble, _damage(row)]), *said],
        "queues": queues,
        "not_allowed": [queue for queue in queues if not access.may_serve(row.name, queue)],
        "slots": slots,
        "used": int(row.used),
        "free": 0 if row.state in GONE else max(0, slots - int(row.used)),
        "running": row.running,
        "version": info.get("version", ""),
        "labels": info.get("labels") or {},
        "platform": info.get("platform") or {},
        "kinds": info.get("kinds") or [],
        "seen_at": row.seen_at,
        "clock_offset": row.clock_offset,
        "reason": status.get("reason", ""),
        "own_maintenance": status.get("own_maintenance", False),
        "health": status.get("health") or {},
    }


def queues_of(info: Mapping[str, Any], wished: Sequence[str] | None) -> list[str]:
    """Return the queues that a worker serves: those `wished` of it, or else those of its info."""
    return list((info.get("queues") or ()) if wished is None else wished)


def _wished(row: Any) -> tuple[Desired, str]:
    """Return what is wished, and what is wrong with it."""
    try:
        return desired.parse(row.desired, row.revision), ""
    except PayloadError as error:
        return Desired(revision=row.revision), str(error)


def _damage(row: Any) -> str:
    """Return what cannot be read of a row, beside what is wished."""
    damaged = [name for name in ("status", "info") if is_damaged(getattr(row, name))]
    return f"its row is damaged: {' and '.join(damaged)} cannot be read" if damaged else ""
