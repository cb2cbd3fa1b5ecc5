"""Which jobs and acts are of long ago, and what goes with them: for the bridge's `retention`, and `airflow mqtt purge`.

The jobs go first: who appends a log or an event holds the row of its job, so nothing is added behind our back.
"""

from typing import Any, Final

from sqlalchemy import ColumnElement, Delete, Select, delete, func, or_, select
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.database.operations import changed

_job = tables.job.c
_act = tables.act.c

#: Jobs of one transaction, with all that belongs to them, and acts of one. It holds SQLite's only lock for some 10 ms.
BATCH: Final = 500

#: A job whose end no scheduler has heard yet stays for at least so many seconds, whatever was asked for.
UNHEARD: Final = 30 * 86400.0


def ended(team_name: str, *, before: float, unheard_before: float) -> Select[Any]:
    """Return the query of up to `BATCH` jobs that ended before `before`, and locks them.

    One of which a scheduler has yet to hear stays until it ended before `unheard_before`.
    """
    query = select(_job.id).where(*_which(team_name, before, unheard_before)).order_by(_job.finished_at).limit(BATCH)
    return query.with_for_update(skip_locked=True)  # who holds one now may wait for another: never wait for them


def deletions(job_ids: list[str]) -> tuple[Delete, ...]:
    """Return the statements that delete jobs with all that belongs to them."""
    return (delete(tables.job).where(_job.id.in_(job_ids)), *belongings(job_ids))


def belongings(job_ids: list[str]) -> tuple[Delete, ...]:
    """Return the statements that delete the events and logs of jobs."""
    return tuple(delete(table).where(table.c.job_id.in_(job_ids)) for table in (tables.job_event, tables.job_log))


def count(session: Session, team_name: str, *, before: float, now: float) -> tuple[int, int]:
    """Return how many jobs `delete_jobs` would delete in all, and how many acts `delete_acts`."""
    jobs = select(func.count()).select_from(tables.job).where(*_which(team_name, before, min(before, now - UNHEARD)))
    acts = select(func.count()).select_from(tables.act).where(_act.team_name == team_name, _act.at < before)
    return session.scalar(jobs) or 0, session.scalar(acts) or 0


def delete_jobs(session: Session, team_name: str, *, before: float, now: float) -> int:
    """Delete a batch of jobs that ended before `before`; return how many."""
    ids = list(session.scalars(ended(team_name, before=before, unheard_before=min(before, now - UNHEARD))))
    for statement in deletions(ids) if ids else ():
        session.execute(statement)
    return len(ids)


def delete_acts(session: Session, team_name: str, before: float) -> int:
    """Delete a batch of the record of acts of before `before`; return how many."""
    return changed(session, old_acts(team_name, before))


def old_acts(team_name: str, before: float) -> Delete:
    """Return the statement that deletes up to `BATCH` acts of before `before`, the oldest first."""
    oldest = select(_act.id).where(_act.team_name == team_name, _act.at < before).order_by(_act.at).limit(BATCH)
    return delete(tables.act).where(_act.id.in_(oldest))


def _which(team_name: str, before: float, unheard_before: float) -> tuple[ColumnElement[bool], ...]:
    """Only an ended job has `finished_at`."""
    heard: Any = or_(_job.report_pending.is_(False), _job.finished_at < unheard_before)
    return (_job.team_name == team_name, _job.finished_at < before, heard)
