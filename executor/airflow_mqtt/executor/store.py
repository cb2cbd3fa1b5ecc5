"""The executor's reads and writes of our tables, each in a session that it is given."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import CursorResult, Update, and_, func, or_, select, union, update
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.database.transitions import creation, move
from airflow_mqtt.executor.core import Subject
from airflow_mqtt.protocol.jobs import TERMINAL, JobEvent, JobState, next_state

#: A row of a select, with an attribute for each of its columns. SQLAlchemy 2.0 and 2.1 type rows differently.
Record = Any

_job = tables.job.c

#: Rows of one pass, so that a burst does not hold up the scheduler's loop. What is left comes with the next.
BATCH: Final = 1000

#: States in which a job has not passed the start gate.
NOT_STARTED: Final = (JobState.QUEUED, JobState.DISPATCHED, JobState.ACCEPTED)

#: States in which its requests may pass the gateway.
STARTED: Final = (JobState.RUNNING, JobState.CANCELLING)

#: A cancel loses the race against the bridge at most this often: no job has more states ahead of it.
_TRIES: Final = 4

_REPORT_COLUMNS: Final = (
    _job.id,
    _job.workload_type,
    _job.subject,
    _job.dag_id,
    _job.run_id,
    _job.task_id,
    _job.map_index,
    _job.try_number,
    _job.state,
    _job.reason,
    _job.final_state,
)


def changed(session: Session, statement: Update) -> int:
    """Execute `statement` and return how many rows it changed."""
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount


def create(session: Session, row: dict[str, Any], *, now: float, by: str) -> None:
    """Add a job and its first event, and tell the bridge on commit."""
    for statement in creation(row, now=now, by=by):
        session.execute(statement)
    notify(session, row["team_name"])


def notify(session: Session, team_name: str) -> None:
    """Wake the bridge when this session commits. Elsewhere than on PostgreSQL it looks for itself."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_notify(tables.NOTIFY_CHANNEL, team_name)))


def relatives(session: Session, job_id: str | None, subject: str) -> Sequence[Record]:
    """Return (id, state, attempt) of the jobs of `subject`, and of the one called `job_id`."""
    same = _job.subject == subject
    statement = select(_job.id, _job.state, _job.attempt)
    return session.execute(statement.where(or_(same, _job.id == job_id) if job_id else same)).all()


def existing(session: Session, job_ids: Collection[str]) -> set[str]:
    """Return those of `job_ids` that are in the table."""
    return set(session.scalars(select(_job.id).where(_job.id.in_(job_ids))))


def pending(session: Session, owner: str, team_name: str, unsure: Collection[str]) -> Sequence[Record]:
    """Return the jobs of which this scheduler has to hear something.

    `unsure` are those of a pass whose commit was not answered: they come first and alone, marked as heard or not,
    since nothing was said of them. Another scheduler that has adopted one in the meantime hears of it instead.
    """
    which = _job.id.in_(unsure) if unsure else _job.report_pending
    statement = select(*_REPORT_COLUMNS).where(_job.owner == owner, _job.team_name == team_name, which)
    return session.execute(statement.limit(BATCH)).all()


def clear_pending(session: Session, owner: str, rows: Sequence[Record]) -> set[str]:
    """Mark `rows` as heard and return the ids of those that `owner` may speak of.

    The others have moved on since they were read, and are read again, or another scheduler has adopted them.
    """
    by_state: dict[str, list[str]] = {}
    for row in rows:
        by_state.setdefault(row.state, []).append(row.id)
    cleared: set[str] = set()
    for state, ids in by_state.items():
        seen = update(tables.job).where(_job.id.in_(ids), _job.state == state, _job.owner == owner)
        cleared |= set(session.scalars(seen.values(report_pending=False).returning(_job.id)))
    return cleared


def by_id(session: Session, job_ids: Collection[str], team_name: str) -> dict[str, Record]:
    """Return job id -> row of those of `job_ids` that exist."""
    statement = select(*_REPORT_COLUMNS).where(_job.id.in_(job_ids), _job.team_name == team_name)
    return {row.id: row for row in session.execute(statement)}


def adopt(session: Session, job_ids: Collection[str], owner: str) -> None:
    """Make `owner` hear of these jobs, beginning with where they are now."""
    statement = update(tables.job).where(_job.id.in_(job_ids))
    session.execute(statement.values(owner=owner, report_pending=_job.state.in_(_reported())))


def _reported() -> list[str]:
    return [state.value for state in (JobState.RUNNING, *TERMINAL)]


def ownerless_callbacks(session: Session, living: Collection[str], team_name: str) -> Sequence[Record]:
    """Return callbacks whose scheduler is not among `living` and of which somebody has yet to hear the end."""
    ownerless = (
        select(_job.id, _job.subject, _job.owner)
        .where(_job.workload_type == Subject.CALLBACK.value, _job.team_name == team_name)
        .where(_job.owner.not_in(living))
    )
    # Not one condition with OR: for that, SQLite without statistics reads all jobs of the team.
    halves = union(ownerless.where(_job.report_pending), ownerless.where(_job.finished_at.is_(None)))
    return session.execute(halves.limit(BATCH)).all()


def take_over(session: Session, job_id: str, before: str, owner: str) -> bool:
    """Make `owner` hear of a job that was heard of by `before`; False when another scheduler was first."""
    statement = update(tables.job).where(_job.id == job_id, _job.owner == before)
    values = {"owner": owner, "report_pending": _job.state.in_(_reported())}
    return changed(session, statement.values(**values)) == 1


def cancel(session: Session, job: Record, *, now: float, by: str, reason: str) -> JobState | None:
    """End one job (a row with id, state, attempt), and return the state it is in then; None when it had ended."""
    for _ in range(_TRIES):
        state = JobState(job.state)
        if next_state(state, JobEvent.CANCEL) is None:
            return None if state in TERMINAL else state
        step = move(job.id, state, job.attempt, JobEvent.CANCEL, now=now, by=by, reason=reason)
        if changed(session, step.statement):
            session.execute(step.record)
            return step.after
        statement = select(_job.id, _job.state, _job.attempt).where(_job.id == job.id)
        again = session.execute(statement).one_or_none()
        if again is None:
            return None
        job = again
    raise RuntimeError(f"job {job.id} moved {_TRIES} times while it was being cancelled")


def aging_tokens(
    session: Session,
    owner: str,
    team_name: str,
    *,
    living: Collection[str],
    waiting_before: float,
    started_before: float,
) -> Sequence[Record]:
    """Return jobs whose token is older than it should get, the oldest first.

    Those of `owner`, and those whose scheduler is not among `living`: nobody adopts a job of a task that an operator
    has ended, and its last request needs a token too. The two limits are times since the epoch, for jobs that wait
    and for jobs that have started.
    """
    others = set(living) - {owner}
    old = or_(
        and_(_job.state.in_([state.value for state in NOT_STARTED]), _job.token_at < waiting_before),
        and_(_job.state.in_([state.value for state in STARTED]), _job.token_at < started_before),
    )
    statement = (
        select(_job.id, _job.subject, _job.state, _job.token_at)
        .where(_job.owner.not_in(others), _job.team_name == team_name, _job.finished_at.is_(None), old)
        # The same order for all who renew, so that two of them cannot wait for each other's rows.
        .order_by(_job.token_at, _job.id)
        .limit(BATCH)
    )
    return session.execute(statement).all()


def renew_token(session: Session, row: Record, token: str, now: float) -> bool:
    """Replace the token of `row`; False when the bridge or another scheduler was first, or the job moved."""
    statement = update(tables.job).where(_job.id == row.id, _job.state == row.state, _job.token_at == row.token_at)
    return changed(session, statement.values(token=token, token_at=now)) == 1
