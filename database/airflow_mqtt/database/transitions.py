"""Guarded writes: the only statements that change a job's state.

Each is a compare-and-set on (id, state, attempt), built from the table in `protocol.jobs`. They are plain SQLAlchemy
statements, so that the bridge (asyncio) and the executor (inside the scheduler's own session) share them. Whoever
executes one looks at `rowcount`: 0 means that somebody else moved the job first, which is an ordinary outcome.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Insert, Update, insert, update

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.jobs import TERMINAL, JobEvent, JobState, next_state

#: States of which the executor is told.
REPORTED = frozenset({JobState.RUNNING, *TERMINAL})

_STAMPS = {
    JobState.DISPATCHED: "dispatched_at",
    JobState.ACCEPTED: "accepted_at",
    JobState.RUNNING: "started_at",
    **dict.fromkeys(TERMINAL, "finished_at"),
}

#: A cancellation is due for publication at once.
_UNPUBLISHED = {"published_at": None, "publishes": 0}

#: What a job forgets when it goes back to the queue.
_RELEASED = {
    "worker": None,
    "dispatched_at": None,
    "accepted_at": None,
    "accept_journal": None,
    "accept_seq": None,
    **_UNPUBLISHED,
    "gate_request": None,
    "log_bytes": 0,  # each attempt has a log of its own
}


@dataclass(frozen=True, slots=True)
class Move:
    """One transition, ready to execute: `statement` first; if it changed a row, `record` in the same transaction."""

    job_id: str
    attempt: int
    after: JobState
    statement: Update
    record: Insert


def changes(
    state: JobState, attempt: int, event: JobEvent, *, now: float, reason: str = "", values: dict[str, Any]
) -> dict[str, Any]:
    """Return the columns that `event` changes in a job seen at (`state`, `attempt`); `values` are further ones.

    Raises `ValueError` when the table has no such transition: callers ask `jobs.settle` or `jobs.next_state` before.
    """
    after = next_state(state, event)
    if after is None:
        raise ValueError(f"no transition from {state} by {event}")
    changed: dict[str, Any] = {"state": after.value, "reason": reason, **values}
    if after in _STAMPS:
        changed[_STAMPS[after]] = now
    if after in REPORTED:
        changed["report_pending"] = True
    if after is JobState.CANCELLING:
        changed |= _UNPUBLISHED
    if after is JobState.QUEUED:
        changed |= _RELEASED | {"attempt": attempt + 1}
    return changed


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
    """Return the compare-and-set that applies `event` to a job seen at (`state`, `attempt`). As `changes`."""
    changed = changes(state, attempt, event, now=now, reason=reason, values=values)
    after = JobState(changed["state"])
    statement = (
        update(tables.job)
        .where(
            tables.job.c.id == job_id,
            tables.job.c.state == state.value,
            tables.job.c.attempt == attempt,
        )
        .values(**changed)
    )
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
    return Move(job_id, attempt, after, statement, record)


def creation(values: dict[str, Any], *, now: float, by: str) -> tuple[Insert, Insert]:
    """Return the statements that make a job (`values`: columns of `mqtt_job` but its state) and its first event."""
    row = {**values, "state": JobState.QUEUED.value, "attempt": 1, "queued_at": now}
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
