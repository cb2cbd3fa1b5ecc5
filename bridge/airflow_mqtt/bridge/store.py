"""The queries, as methods of one transaction. No decisions here: `dispatcher` and `gateway` make those."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Select, Table, and_, case, delete, func, insert, or_, select, union, update
from sqlalchemy.ext.asyncio import AsyncConnection

from airflow_mqtt.bridge.dispatch.placement import Room, placement_order
from airflow_mqtt.database import tables, transitions
from airflow_mqtt.database.records import JOB_SELECTION, Job, Worker, understood
from airflow_mqtt.protocol.jobs import HELD, JobEvent, JobState

_JOB = tables.job.c

#: `tables.LIVES`: beside the states that are wanted, what lets a database look among the living jobs only.
_LIVES = _JOB.finished_at.is_(None)

#: PostgreSQL takes at most 32,767 parameters in a statement.
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Counts of one queue's jobs. `oldest` is when the oldest queued one was committed, `widest` its most slots."""

    queued: int
    running: int
    oldest: float | None
    widest: int


class Tx(Protocol):
    """What the decisions need of a transaction; the simulation has one in memory."""

    async def jobs(self, ids: Collection[str]) -> dict[str, Job]: ...
    async def jobs_of(self, worker: str) -> list[Job]: ...
    async def due(self, gone: Collection[str]) -> list[Job]: ...
    async def queued(self, room: Room, limit: int) -> list[Job]: ...
    async def used_slots(self) -> dict[str, int]: ...
    async def workloads(self, ids: Collection[str]) -> dict[str, str]: ...
    async def move(
        self, job: Job, event: JobEvent, *, now: float, by: str, reason: str = "", **values: Any
    ) -> Job | None: ...
    async def published(self, ids: Collection[str], now: float) -> None: ...
    async def workers(self, names: Collection[str] | None = None) -> dict[str, Worker]: ...
    async def save_worker(self, worker: Worker) -> None: ...
    async def save_worker_state(self, worker: Worker) -> None: ...
    async def last_heard(self) -> float | None: ...
    async def forgive(self, seconds: float, now: float) -> None: ...
    async def append_log(self, job: Job, offset: int, data: bytes, end: int) -> bool: ...


class SqlTx:
    """`Tx` over SQLAlchemy."""

    def __init__(self, connection: AsyncConnection, team_name: str) -> None:
        self._connection = connection
        self._team = team_name

    async def _select_jobs(self, *where: Any, limit: int | None = None, order: Iterable[Any] = ()) -> list[Job]:
        query = select(*JOB_SELECTION).where(_JOB.team_name == self._team, *where).order_by(*order).limit(limit)
        return understood(Job.of, await self._connection.execute(query))

    async def jobs(self, ids: Collection[str]) -> dict[str, Job]:
        found: dict[str, Job] = {}
        for chunk in _chunks(ids):
            found |= {job.id: job for job in await self._select_jobs(_JOB.id.in_(chunk))}
        return found

    async def jobs_of(self, worker: str) -> list[Job]:
        """The jobs that `worker` holds."""
        return await self._select_jobs(_LIVES, _JOB.worker == worker, _JOB.state.in_(_values(HELD)))

    async def due(self, gone: Collection[str]) -> list[Job]:
        """The jobs to which time may have done something: `gone` names the workers that are not heard of."""
        waiting = _JOB.state.in_(_values((JobState.DISPATCHED, JobState.CANCELLING)))
        started = _JOB.state.in_(_values((JobState.ACCEPTED, JobState.RUNNING)))
        found = await self._select_jobs(_LIVES, waiting)
        for chunk in _chunks(gone):
            found += await self._select_jobs(_LIVES, and_(started, _JOB.worker.in_(chunk)))
        return found

    async def queued(self, room: Room, limit: int) -> list[Job]:
        """The first `limit` queued jobs for which there is `room`, in the order of placement.

        What fits nowhere is not read: it would stay at the top, and hold up all else.
        """
        found: list[Job] = []
        for (kind, slots), queues in room.items():
            for chunk in _chunks(queues):
                found += await self._select_jobs(
                    _LIVES,
                    _JOB.state == JobState.QUEUED.value,
                    and_(_JOB.queue.in_(chunk), _JOB.kind == kind, _JOB.slots <= slots),
                    limit=limit,
                    order=(_JOB.priority.desc(), _JOB.queued_at, _JOB.id),
                )
        return sorted(found, key=placement_order)[:limit]

    async def used_slots(self) -> dict[str, int]:
        query = (
            select(_JOB.worker, func.sum(_JOB.slots))
            .where(_LIVES, _JOB.team_name == self._team, _JOB.state.in_(_values(HELD)))
            .group_by(_JOB.worker)
        )
        return {row[0]: int(row[1]) for row in await self._connection.execute(query)}

    async def workloads(self, ids: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for chunk in _chunks(ids):
            query = select(_JOB.id, _JOB.workload).where(_JOB.id.in_(chunk))
            found |= {row.id: row.workload for row in await self._connection.execute(query)}
        return found

    async def move(
        self, job: Job, event: JobEvent, *, now: float, by: str, reason: str = "", **values: Any
    ) -> Job | None:
        """Apply `event` to `job` by compare-and-set and return the job after it; None when somebody was faster."""
        step = transitions.move(job.id, job.state, job.attempt, event, now=now, by=by, reason=reason, **values)
        if (await self._connection.execute(step.statement)).rowcount != 1:
            return None
        await self._connection.execute(step.record)
        return (await self.jobs([job.id]))[job.id]

    async def published(self, ids: Collection[str], now: float) -> None:
        """Note that orders of these jobs are being published (once more)."""
        for chunk in _chunks(ids):
            statement = (
                update(tables.job)
                .where(_JOB.id.in_(chunk), _JOB.state.in_(_values(HELD)))
                .values(published_at=now, publishes=_JOB.publishes + 1)
            )
            await self._connection.execute(statement)

    async def workers(self, names: Collection[str] | None = None) -> dict[str, Worker]:
        """The workers called `names`, or all."""
        column = tables.worker.c
        query = select(tables.worker).where(column.team_name == self._team)
        if names is not None:
            query = query.where(column.name.in_(list(names)))
        return {worker.name: worker for worker in understood(Worker.of, await self._connection.execute(query))}

    async def save_worker(self, worker: Worker) -> None:
        column = tables.worker.c
        values = worker.observed_columns()
        statement = (
            update(tables.worker).where(column.team_name == self._team, column.name == worker.name).values(**values)
        )
        if (await self._connection.execute(statement)).rowcount == 0:
            row = {"team_name": self._team, "name": worker.name, **values}
            await self._connection.execute(insert(tables.worker).values(**row))

    async def save_worker_state(self, worker: Worker) -> None:
        """Write the derived state alone: position and the like are written where messages are heard."""
        column = tables.worker.c
        statement = (
            update(tables.worker)
            .where(column.team_name == self._team, column.name == worker.name)
            .values(state=worker.state.value)
        )
        await self._connection.execute(statement)

    async def last_heard(self) -> float | None:
        """When any worker was heard last; None when none ever was."""
        column = tables.worker.c
        query = select(func.max(column.seen_at)).where(column.team_name == self._team, column.seen_at > 0)
        last: float | None = await self._connection.scalar(query)
        return last

    async def forgive(self, seconds: float, now: float) -> None:
        """Count `seconds` as if they had not passed since any worker was heard: nobody could be."""
        column = tables.worker.c
        later = column.seen_at + seconds
        statement = (
            update(tables.worker)
            .where(column.team_name == self._team, column.seen_at > 0)
            .values(seen_at=case((later < now, later), else_=now))
        )
        await self._connection.execute(statement)

    async def append_log(self, job: Job, offset: int, data: bytes, end: int) -> bool:
        """Store `data` at `offset`, and that the log now reaches to `end`; False when it no longer fits there."""
        statement = (
            update(tables.job)
            .where(_JOB.id == job.id, _JOB.attempt == job.attempt, _JOB.log_bytes == job.log_bytes)
            .values(log_bytes=end)
        )
        if (await self._connection.execute(statement)).rowcount != 1:
            return False
        if data:
            row = {"job_id": job.id, "attempt": job.attempt, "offset": offset, "data": data}
            await self._connection.execute(insert(tables.job_log).values(**row))
        return True

    async def journal_of(self, worker: str) -> str | None:
        """The journal with which a worker introduced itself last."""
        column = tables.worker.c
        query = select(column.journal).where(column.team_name == self._team, column.name == worker)
        journal: str | None = await self._connection.scalar(query)
        return journal

    # --- the gateway's ------------------------------------------------------------------------------------

    async def token(self, job_id: str) -> str | None:
        token: str | None = await self._connection.scalar(select(_JOB.token).where(_JOB.id == job_id))
        return token

    async def set_token(self, job: Job, token: str, now: float) -> None:
        statement = (
            update(tables.job).where(_JOB.id == job.id, _JOB.attempt == job.attempt).values(token=token, token_at=now)
        )
        await self._connection.execute(statement)

    async def set_running_since(self, job: Job, now: float) -> None:
        """Note that Airflow accepted the start. Not a transition: the gate made that before Airflow was asked."""
        statement = (
            update(tables.job)
            .where(_JOB.id == job.id, _JOB.attempt == job.attempt)
            .where(_JOB.state.in_(_values((JobState.RUNNING, JobState.CANCELLING))))
            .values(running_since=now)
        )
        await self._connection.execute(statement)

    async def set_final_state(self, job: Job, final_state: str) -> None:
        """Note what the Execution API accepted as the end of the task. Not a transition: `finished` makes that."""
        statement = (
            update(tables.job)
            .where(_JOB.id == job.id, _JOB.attempt == job.attempt)
            .where(_JOB.state.in_(_values((JobState.RUNNING, JobState.CANCELLING))))
            .values(final_state=final_state)
        )
        await self._connection.execute(statement)

    async def running_tasks(self) -> list[tuple[Job, str]]:
        """The tasks that Airflow must hear of, with their tokens: it has accepted their start, and not their end."""
        query = select(*JOB_SELECTION, _JOB.token).where(
            _LIVES,
            _JOB.team_name == self._team,
            _JOB.state == JobState.RUNNING.value,
            _JOB.workload_type == "ExecuteTask",
            _JOB.running_since.is_not(None),
            _JOB.final_state.is_(None),
        )
        rows = await self._connection.execute(query)
        return [(Job.of(row), row.token) for row in rows]

    # --- figures ------------------------------------------------------------------------------------------

    async def queue_figures(self) -> dict[str, QueueFigures]:
        is_queued = _JOB.state == JobState.QUEUED.value
        query = (
            select(
                _JOB.queue,
                func.count().filter(is_queued).label("queued"),
                func.count().filter(~is_queued).label("held"),
                func.min(_JOB.queued_at).filter(is_queued).label("oldest"),
                func.max(_JOB.slots).filter(is_queued).label("widest"),
            )
            .where(_LIVES, _JOB.team_name == self._team, _JOB.state.in_(_values((JobState.QUEUED, *HELD))))
            .group_by(_JOB.queue)
        )
        return {
            row.queue: QueueFigures(row.queued, row.held, row.oldest, row.widest or 0)
            for row in await self._connection.execute(query)
        }

    # --- retention ----------------------------------------------------------------------------------------

    async def forget_jobs(self, *, before: float, unheard_before: float, limit: int) -> int:
        """Delete up to `limit` jobs that ended before `before`, with their events and logs; return how many.

        One of which a scheduler has yet to hear stays until it ended before `unheard_before`. Only an ended job
        has `finished_at`. The jobs go first: who appends a log or an event holds the row of its job, so nothing
        is added behind our back.
        """
        heard = or_(_JOB.report_pending.is_(False), _JOB.finished_at < unheard_before)
        query = (
            select(_JOB.id)
            .where(_JOB.team_name == self._team, _JOB.finished_at < before, heard)
            .order_by(_JOB.finished_at)
            .limit(limit)
            .with_for_update(skip_locked=True)  # who holds one now may wait for another: never wait for them
        )
        ids = list((await self._connection.execute(query)).scalars())
        for chunk in _chunks(ids):
            await self._connection.execute(delete(tables.job).where(_JOB.id.in_(chunk)))
            await self._forget_belongings(chunk)
        return len(ids)

    async def forget_orphans(self, after: str, limit: int) -> str:
        """Delete the events and logs that belong to no job, among `limit` job ids that come next after `after`.

        Returns the last id that was looked at, from which to go on; empty at the end of both tables. Order and
        comparison are the database's: its collation need not be Python's.
        """
        pages = [_owners(table, after, limit).subquery() for table in (tables.job_log, tables.job_event)]
        query = union(*(select(page.c.job_id) for page in pages)).order_by("job_id").limit(limit)
        seen = list((await self._connection.execute(query)).scalars())
        known = (await self._connection.execute(select(_JOB.id).where(_JOB.id.in_(seen)))).scalars()
        for chunk in _chunks(set(seen) - set(known)):
            await self._forget_belongings(chunk)
        return seen[-1] if len(seen) == limit else ""

    async def _forget_belongings(self, ids: list[str]) -> None:
        await self._connection.execute(delete(tables.job_event).where(tables.job_event.c.job_id.in_(ids)))
        await self._connection.execute(delete(tables.job_log).where(tables.job_log.c.job_id.in_(ids)))


def _owners(table: Table, after: str, limit: int) -> Select[tuple[str]]:
    """The first `limit` job ids after `after` of which `table` has rows."""
    owner = table.c.job_id
    return select(owner).where(owner > after).group_by(owner).order_by(owner).limit(limit)


def _values(states: Iterable[JobState]) -> list[str]:
    return [state.value for state in states]


def _chunks(items: Collection[str]) -> list[list[str]]:
    ordered = list(items)
    return [ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK)]
