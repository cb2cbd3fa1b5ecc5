"""Finds the jobs that have ended, whoever ended them, and makes a span of each."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Select, and_, func, or_, select

from airflow_mqtt.bridge.telemetry import spans
from airflow_mqtt.bridge.telemetry.spans import Span
from airflow_mqtt.database import tables
from airflow_mqtt.database.engine import Database

#: Seconds between two looks.
INTERVAL: Final = 5.0

#: Seconds for which a job has to have ended: one that ended before another may be committed after it, or by a clock
#: that is behind. And seconds that a new leader looks back, over what the last one may not have told.
LAG: Final = 5.0
BACK: Final = 60.0

#: Jobs of one query, and events of one job.
_BATCH: Final = 100
_EVENTS: Final = 50

_job = tables.job.c
_event = tables.job_event.c

_COLUMNS: Final = (
    _job.id, _job.workload, _job.dag_id, _job.run_id, _job.task_id, _job.map_index, _job.try_number, _job.state,
    _job.attempt, _job.reason, _job.worker, _job.queue, _job.queued_at, _job.finished_at,
)  # fmt: skip


def _history(jobs: list[str]) -> Select[Any]:
    """Return the first events of each of `jobs`. One that was rejected a thousand times leaves room for the others."""
    number = func.row_number().over(partition_by=_event.job_id, order_by=_event.id).label("number")
    events = select(tables.job_event, number).where(_event.job_id.in_(jobs)).subquery()
    return select(events).where(events.c.number <= _EVENTS).order_by(events.c.id)


class JobSpans:
    """Goes through the ended jobs in their order. The place where it is belongs to this leader."""

    def __init__(self, database: Database, add: Callable[[Span], None], now: float) -> None:
        self._database = database
        self._add = add
        self._after: tuple[float, str] = (now - BACK, "")

    async def look(self, now: float) -> None:
        """Make spans of all jobs that have ended since the last look."""
        while True:
            jobs, history = await self._next(now - LAG)
            for job in jobs:
                span = spans.of_job(job, history[job.id])
                if span is not None:
                    self._add(span)
                self._after = (job.finished_at, job.id)
            if len(jobs) < _BATCH:
                return

    async def _next(self, until: float) -> tuple[Sequence[Any], dict[str, list[Any]]]:
        at, id_ = self._after
        behind = or_(_job.finished_at > at, and_(_job.finished_at == at, _job.id > id_))
        mine = and_(_job.team_name == self._database.team_name, _job.finished_at >= at, _job.finished_at <= until)
        query = select(*_COLUMNS).where(mine, behind).order_by(_job.finished_at, _job.id).limit(_BATCH)
        history: dict[str, list[Any]] = defaultdict(list)
        async with self._database.read() as connection:
            jobs = (await connection.execute(query)).all()
            if jobs:
                for row in await connection.execute(_history([job.id for job in jobs])):
                    history[row.job_id].append(row)
        return jobs, history
