"""The jobs of a team, and what happened to each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.database.access import EVERY
from airflow_mqtt.database.documents import read
from airflow_mqtt.database.queries.paging import Found, Page, as_dict, is_sqlite, matches, order_of, page_of
from airflow_mqtt.protocol.jobs import TERMINAL, JobState

_job = tables.job.c
_event = tables.job_event.c

#: What is shown of a job: not its token and its workload, which are most of it.
COLUMNS: Final = (
    _job.id, _job.kind, _job.workload_type, _job.subject, _job.state, _job.attempt, _job.reason, _job.cancel_reason,
    _job.dag_id, _job.run_id, _job.task_id, _job.map_index, _job.try_number, _job.queue, _job.worker, _job.priority,
    _job.slots, _job.labels, _job.not_after, _job.queued_at, _job.dispatched_at, _job.accepted_at, _job.started_at,
    _job.finished_at, _job.final_state,
)  # fmt: skip

_SORTS: Final[dict[str, ColumnElement[Any]]] = {
    name: _job[name] for name in ("queued_at", "state", "queue", "worker", "dag_id")
}
SORTS: Final = tuple(_SORTS)

#: The states of those that have not ended.
LIVING: Final = tuple(state.value for state in JobState if state not in TERMINAL)

#: The newest events of one job that are shown. One that finds no worker may come and go a thousand times.
_EVENTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Jobs:
    """Which of them: in one of `states`; the other words may be patterns."""

    states: Sequence[str] = ()
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    queue: str = ""
    worker: str = ""


def list_jobs(session: Session, team_name: str, wanted: Jobs, page: Page) -> Found:
    """Return a page of jobs."""
    query = select(*COLUMNS).where(*_which(session, team_name, wanted))
    few = _are_held(wanted) or (is_sqlite(session) and _are_part(wanted))
    sorts = {**_SORTS, "queued_at": _job.queued_at + 0} if few else _SORTS
    total, rows = page_of(session, query.order_by(*order_of(page, sorts, _job.id)), page)
    return Found(total, [_shown(row) for row in rows])


def find_job(session: Session, team_name: str, job_id: str) -> dict[str, Any] | None:
    """Return one job; None when there is none of this id."""
    query = select(*COLUMNS).where(_job.id == job_id, _job.team_name == team_name)
    row = session.execute(query).one_or_none()
    return None if row is None else _shown(row)


def events_of(session: Session, job_id: str) -> list[dict[str, Any]]:
    """Return what happened to a job, in order; of very much the end."""
    columns = (_event.at, _event.by, _event.event, _event.before, _event.after, _event.reason, _event.attempt)
    query = select(*columns).where(_event.job_id == job_id).order_by(_event.id.desc()).limit(_EVENTS)
    return [as_dict(row) for row in reversed(session.execute(query).all())]


def _shown(row: Any) -> dict[str, Any]:
    return as_dict(row) | {"labels": read(row.labels)}


def _are_living(wanted: Jobs) -> bool:
    return bool(wanted.states) and not TERMINAL.intersection(wanted.states)


def _have_ended(wanted: Jobs) -> bool:
    return bool(wanted.states) and TERMINAL.issuperset(wanted.states)


def _are_held(wanted: Jobs) -> bool:
    """Whether they are what one worker holds: so few that they are sorted, not sought by their age among all."""
    return _are_living(wanted) and bool(wanted.worker) and EVERY not in wanted.worker


def _are_part(wanted: Jobs) -> bool:
    """Whether SQLite, which does not know how many there are, finds them by an index that has them in another order.

    Those of one state that have ended are in order in theirs; of the history most have succeeded.
    """
    return _are_living(wanted) or (
        _have_ended(wanted) and len(wanted.states) > 1 and JobState.SUCCEEDED not in wanted.states
    )


def _which(session: Session, team_name: str, wanted: Jobs) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [_job.team_name == team_name]
    if wanted.states:
        conditions.append(_job.state.in_(wanted.states))
        if _are_living(wanted):
            conditions.append(_job.finished_at.is_(None))  # the small indexes hold what lives
        elif _have_ended(wanted):
            conditions.append(_job.finished_at.is_not(None))  # and SQLite's, by state, what has ended
    words = {name: getattr(wanted, name) for name in ("dag_id", "run_id", "task_id", "queue", "worker")}
    conditions += [matches(session, _job[name], word) for name, word in words.items() if word]
    return conditions
