"""Guarded writes of those who do not lead: schedulers and operators, each in a session of its own.

The leading bridge alone moves a job that a worker holds. Others make jobs, end one that still waits in its queue, and
wish for the end of any other; `operations.cancel` chooses. Each statement sets `news`, by which the leader finds the
row. Each is a compare-and-set: whoever executes one looks at `rowcount`, and 0 means that somebody else moved the job
first, which is an ordinary outcome.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Insert, Update, insert, update

from airflow_mqtt.database import tables
from airflow_mqtt.database.records import REPORTED, changes
from airflow_mqtt.protocol.jobs import TERMINAL, JobEvent, JobState

_job = tables.job.c


@dataclass(frozen=True, slots=True)
class Move:
    """One transition, ready to execute: `statement` first; if it changed a row, `record` in the same transaction."""

    job_id: str
    attempt: int
    after: JobState
    statement: Update
    record: Insert


def move(
    job_id: str,
    state: JobState,
    attempt: int,
    event: JobEvent,
    *,
    now: float,
    by: str,
    reason: str = "",
    **values: Any,
) -> Move:
    """Return the compare-and-set that applies `event` to a job seen at (`state`, `attempt`). As `records.changes`."""
    changed = changes(state, attempt, event, now=now, reason=reason, values=values)
    after: JobState = changed["state"]
    row = {**changed, "state": after.value, "news": True}
    if after in REPORTED:
        row["report_pending"] = True
    if after in TERMINAL:
        row["token"] = ""  # nobody calls for it any more
    statement = update(tables.job).where(_job.id == job_id, _job.state == state.value, _job.attempt == attempt)
    record = insert(tables.job_event).values(
        job_id=job_id,
        attempt=attempt,
        at=now,
        by=by,
        event=event.value,
        before=state.value,
        after=after.value,
        reason=reason,
    )
    return Move(job_id, attempt, after, statement.values(**row), record)


def wish_for_end(job_id: str, state: JobState, attempt: int, *, by: str, reason: str) -> Update:
    """Return the compare-and-set by which somebody wishes that a job seen at (`state`, `attempt`) ends.

    The leader carries it out. Nothing that it does to the job commits before it has seen the wish, so one that was
    wished away before it started never starts. The first wish stands: its reason is the one that is told.
    """
    unwished = _job.cancel_reason.is_(None)
    seen = update(tables.job).where(_job.id == job_id, _job.state == state.value, _job.attempt == attempt, unwished)
    return seen.values(cancel_reason=reason, cancel_by=by, news=True)


def creation(values: dict[str, Any], *, now: float, by: str) -> tuple[Insert, Insert]:
    """Return the statements that make a job (`values`: columns of `mqtt_job` but its state) and its first event."""
    row = {**values, "state": JobState.QUEUED.value, "attempt": 1, "queued_at": now, "news": True}
    record = insert(tables.job_event).values(
        job_id=values["id"],
        attempt=1,
        at=now,
        by=by,
        event="queue",
        before=None,
        after=JobState.QUEUED.value,
        reason="",
    )
    return insert(tables.job).values(**row), record
