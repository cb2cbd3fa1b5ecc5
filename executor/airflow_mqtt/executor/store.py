"""The executor's reads and writes of our tables, each in a session that it is given."""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Executable, Select, and_, func, not_, or_, select, union, update
from sqlalchemy.orm import Session

from airflow_mqtt.database import labels, tables
from airflow_mqtt.database.operations import UNSTARTED, changed, notify
from airflow_mqtt.database.queries import queues
from airflow_mqtt.database.queries.paging import among
from airflow_mqtt.database.records import WORKER_COLUMNS, Worker, understood
from airflow_mqtt.database.transitions import creation, move
from airflow_mqtt.executor import fleet
from airflow_mqtt.protocol.jobs import TERMINAL, JobEvent, JobState
from airflow_mqtt.protocol.kinds import CALLBACK, KINDS

#: A row of a select, with an attribute for each of its columns. SQLAlchemy 2.0 and 2.1 type rows differently.
Record = Any

_job = tables.job.c
_worker = tables.worker.c

#: Rows of one pass, so that a burst does not hold up the scheduler's loop. What is left comes with the next.
BATCH: Final = 1000

#: States in which its requests may pass the gateway.
STARTED: Final = (JobState.RUNNING, JobState.CANCELLING)

#: What Airflow does not adopt when its scheduler dies.
_IS_UNTRACKED: Final = _job.workload_type.in_([kind.workload for kind in KINDS if not kind.tracked])

_UNTRACKED_HAS_ENDED: Final = and_(_IS_UNTRACKED, _job.finished_at.is_not(None))

_WORKER: Final = tuple(_worker[name] for name in WORKER_COLUMNS)


class JobReport(NamedTuple):
    """Columns of a job of which the scheduler may have to hear: for that, a `Record` is slow to read."""

    id: str
    workload_type: str
    subject: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str
    reason: str
    final_state: str | None
    queue: str
    started_at: float | None


_REPORT_COLUMNS: Final = tuple(_job[name] for name in JobReport._fields)


def create(session: Session, row: dict[str, Any], *, now: float, by: str) -> None:
    """Add a job and its first event, and tell the bridge on commit."""
    for statement in creation(row, now=now, by=by):
        session.execute(statement)
    notify(session, row["team_name"])


def fail(session: Session, job_id: str, *, now: float, by: str, reason: str) -> None:
    """End a job of which nothing can be run, in the transaction that has made it."""
    step = move(job_id, JobState.QUEUED, 1, JobEvent.FAIL, now=now, by=by, reason=reason)
    session.execute(step.statement)
    session.execute(step.record)


def jobs_of_subject(session: Session, job_id: str | None, subject: str) -> Sequence[Record]:
    """Return (id, state, team_name) of the jobs of `subject` that live, and of the one called `job_id` in any case.

    A task instance may have thousands that have ended: a sensor that is rescheduled makes one with each look.
    """
    columns = (_job.id, _job.state, _job.team_name)
    living = select(*columns).where(_job.subject == subject, _job.finished_at.is_(None))
    if job_id is None:
        return session.execute(living).all()
    # Not one condition with OR: each half has an index of its own.
    return session.execute(union(living, select(*columns).where(_job.id == job_id))).all()


def why_it_waits(session: Session, job_id: str, now: float) -> str:
    """Return, as the end of a sentence, for how long a job has waited and for what; nothing when it has begun.

    The scheduler revokes what has been queued for longer than `task_queued_timeout`, and says so nowhere else.
    """
    columns = (_job.state, _job.queue, _job.labels, _job.slots, _job.queued_at, _job.worker, _job.team_name)
    job = session.execute(select(*columns).where(_job.id == job_id)).one()
    if job.state not in UNSTARTED:
        return ""
    waited = f", since it had not begun after {max(0.0, now - job.queued_at):.0f} s ([scheduler] task_queued_timeout)"
    if job.state != JobState.QUEUED:
        return f"{waited}: worker {job.worker} has it and has not begun it"
    access = fleet.enforced(session, job.team_name)
    why = queues.why_it_waits(session, job.team_name, (job.queue, labels.parse(job.labels)), job.slots, access)
    return f"{waited}: {why}"


def workers(session: Session, team_name: str, most: int) -> list[Worker]:
    """Return the workers of a team, the first `most` of them by name."""
    query = select(*_WORKER).where(_worker.team_name == team_name).order_by(_worker.name).limit(most)
    return understood(Worker.of, (tuple(row) for row in session.execute(query)))


def existing(session: Session, job_ids: Collection[str]) -> set[str]:
    """Return those of `job_ids` that are in the table."""
    return set(session.scalars(select(_job.id).where(among(session, _job.id, job_ids))))


def take_reports(
    session: Session, owner: str, team_name: str, *, unsure: Collection[str], told: Collection[str]
) -> list[JobReport]:
    """Return the jobs of which this scheduler has to hear something, and mark them as heard.

    A row that the bridge is writing at this moment is left for the next pass, so that neither waits for the other.
    Ends of what Airflow does not track are left too, but those that were `told`: see `untracked_ends`. `unsure` are
    those of a pass whose commit was not answered: they come first and alone, marked as heard or not, since nothing was
    said of them.
    Another scheduler that has adopted one in the meantime hears of it instead.
    """
    mine = (_job.owner == owner, _job.team_name == team_name)
    if unsure:
        which = and_(*mine, _job.id.in_(unsure))
    else:
        heard_now = or_(not_(_UNTRACKED_HAS_ENDED), _job.id.in_(told))
        waiting = select(_job.id).where(*mine, _job.report_pending, heard_now)
        if session.scalar(waiting.limit(1)) is None:
            return []  # an UPDATE takes SQLite's one lock for writers, also when it changes nothing
        which = _job.id.in_(_batch(session, waiting))
    taken = update(tables.job).where(which).values(report_pending=False).returning(*_REPORT_COLUMNS)
    return _job_reports(session, taken)


def _job_reports(session: Session, statement: Executable) -> list[JobReport]:
    return [*map(JobReport._make, session.execute(statement).all())]


def _batch(session: Session, jobs: Select[Any]) -> Select[Any]:
    limited = jobs.limit(BATCH).with_for_update(skip_locked=True)
    # PostgreSQL runs a CTE once, where it may run a subquery for each row. Python's sqlite3 begins no transaction for a
    # statement that opens with WITH, and so would commit it at once.
    named = limited.cte() if session.get_bind().dialect.name == "postgresql" else limited.subquery()
    return select(named.c.id)


def untracked_ends(session: Session, owner: str, team_name: str, told: Collection[str]) -> list[JobReport]:
    """Return the jobs of this scheduler that Airflow does not track, whose end has to be heard and was not `told`.

    They stay to be heard.
    """
    mine = (_job.owner == owner, _job.team_name == team_name)
    waiting = select(*_REPORT_COLUMNS).where(*mine, _job.report_pending, _UNTRACKED_HAS_ENDED, _job.id.not_in(told))
    return _job_reports(session, waiting.limit(BATCH))


def by_id(session: Session, job_ids: Collection[str], team_name: str) -> dict[str, JobReport]:
    """Return job id -> row of those of `job_ids` that exist."""
    statement = select(*_REPORT_COLUMNS).where(_job.id.in_(job_ids), _job.team_name == team_name)
    return {row.id: row for row in _job_reports(session, statement)}


def adopt(session: Session, job_ids: Collection[str], owner: str) -> None:
    """Make `owner` hear of these jobs, beginning with where they are now."""
    statement = update(tables.job).where(_job.id.in_(job_ids))
    session.execute(statement.values(owner=owner, report_pending=_job.state.in_(_reported())))


def _reported() -> list[str]:
    return [state.value for state in (JobState.RUNNING, *TERMINAL)]


def last_queue(session: Session, team_name: str, dag_id: str, run_id: str) -> str | None:
    """Return the queue to which a task of this run went last, or else one of a late run of the Dag.

    It looks at a part of what is there, in the order of the index: a run may have many jobs, a Dag many runs.
    """
    of_dag = select(_job.queue, _job.queued_at).where(_job.dag_id == dag_id, _job.team_name == team_name)
    for some in (of_dag.where(_job.run_id == run_id).order_by(_job.task_id), of_dag.order_by(_job.run_id.desc())):
        found = some.limit(BATCH).subquery()
        queue: str | None = session.scalar(select(found.c.queue).order_by(found.c.queued_at.desc()).limit(1))
        if queue is not None:
            return queue
    return None


def waiting(session: Session, team_name: str, before: float) -> dict[str, int]:
    """Return queue -> how many jobs have waited in it since `before`."""
    statement = (
        select(_job.queue, func.count())
        .where(_job.team_name == team_name, _job.finished_at.is_(None), _job.state == JobState.QUEUED.value)
        .where(_job.queued_at < before)
        .group_by(_job.queue)
    )
    return dict(session.execute(statement).tuples().all())


def unstarted_callbacks(session: Session, team_name: str, before: float) -> Sequence[Record]:
    """Return (id, queue) of callbacks that were queued before `before` and have not started, the oldest first."""
    statement = (
        select(_job.id, _job.queue)
        .where(_job.workload_type == CALLBACK.workload, _job.team_name == team_name, _job.finished_at.is_(None))
        .where(_job.state.in_([state.value for state in UNSTARTED]), _job.queued_at < before)
        .order_by(_job.queued_at, _job.id)
        .limit(BATCH)
    )
    return session.execute(statement).all()


def ownerless(session: Session, living: Collection[str], team_name: str) -> Sequence[Record]:
    """Return jobs that nobody adopts, whose scheduler is not among `living`, and whose end has yet to be heard."""
    ownerless = (
        select(_job.id, _job.workload_type, _job.subject, _job.owner)
        .where(_IS_UNTRACKED, _job.team_name == team_name)
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
        and_(_job.state.in_([state.value for state in UNSTARTED]), _job.token_at < waiting_before),
        and_(_job.state.in_([state.value for state in STARTED]), _job.token_at < started_before),
    )
    statement = (
        select(_job.id, _job.workload_type, _job.subject, _job.state, _job.token_at)
        .where(_job.owner.not_in(others), _job.team_name == team_name, _job.finished_at.is_(None), old)
        # The same order for all who renew, so that two of them cannot wait for each other's rows.
        .order_by(_job.token_at, _job.id)
        .limit(BATCH)
    )
    return session.execute(statement).all()


def renew_token(session: Session, row: Record, token: str, now: float) -> bool:
    """Replace the token of `row`; False when the bridge or another scheduler was first, or the job moved.

    It is news: the leading bridge goes on with the token that it has in memory until it has read this one.
    """
    statement = update(tables.job).where(_job.id == row.id, _job.state == row.state, _job.token_at == row.token_at)
    return changed(session, statement.values(token=token, token_at=now, news=True)) == 1
