"""Figures of workers and jobs through Airflow's own metrics, under the names of its Edge provider.

Who has dashboards of `edge_worker.*` keeps them (`airflow.providers.edge3.models.edge_worker.set_metrics`, 5.1). There
the API server says them as each worker calls. Here nobody calls it: one of the schedulers reads the table of workers
every `INTERVAL` seconds, in one query, and each scheduler counts the jobs that it hears of.

What may race: two schedulers that each take themselves for the one, for as long as Airflow believes a dead one to be
running. Gauges are said twice then, and heartbeats counted twice.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from airflow_mqtt.database.records import Worker
from airflow_mqtt.executor import compat
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.workers import GONE, WorkerState

#: Seconds between two looks at the workers.
INTERVAL: Final = 30.0

#: Workers of which figures are said. Each takes seven packets of UDP, and the scheduler waits meanwhile; the bridge's
#: own endpoint has those of any fleet.
MOST_WORKERS: Final = 1_000

#: Characters of all of a worker's queues, in a tag.
_MOST_QUEUES: Final = 1_000

#: What they may not hold, since a device names its queues: StatsD's own signs, by which it would say figures of others.
_NO_TAG: Final = re.compile(r"[^\w.,/ -]")

_MAINTENANCE: Final = frozenset(
    {
        WorkerState.MAINTENANCE_REQUEST,
        WorkerState.MAINTENANCE_PENDING,
        WorkerState.MAINTENANCE_MODE,
        WorkerState.MAINTENANCE_EXIT,
        WorkerState.OFFLINE_MAINTENANCE,
    }
)

#: How Airflow calls what a task without a final state came to.
_ENDS: Final = {JobState.SUCCEEDED.value: "success", JobState.LOST.value: "failed"}

Tags = dict[str, str]


@dataclass(frozen=True, slots=True)
class Gauge:
    """One value of one worker. `old_name` has the worker's name in it, as before Airflow 3.3."""

    name: str
    value: float
    tags: Tags

    @property
    def old_name(self) -> str:
        return f"{self.name}.{self.tags['worker_name']}"


def gauges(worker: Worker, team_name: str) -> Iterator[Gauge]:
    """Return what is said of a worker. Of one that is gone: that it has nothing."""
    tags = {"worker_name": worker.name} | _team(team_name)
    status = None if worker.state in GONE else worker.status
    queues = sorted(worker.queues)
    yield Gauge("edge_worker.status", _level(worker.state), tags)
    yield Gauge("edge_worker.connected", int(worker.state not in GONE), tags)
    yield Gauge("edge_worker.maintenance", int(worker.state in _MAINTENANCE), tags)
    yield Gauge("edge_worker.jobs_active", status.running if status else 0, tags)
    yield Gauge("edge_worker.concurrency", status.slots if status else 0, tags)
    yield Gauge("edge_worker.free_concurrency", status.free if status else -1, tags)
    listed = _NO_TAG.sub("_", ",".join(queues))[:_MOST_QUEUES]
    yield Gauge("edge_worker.num_queues", len(queues), tags | ({"queues": listed} if listed else {}))


def _level(state: WorkerState) -> int:
    """Return how well it is, as a level of Python's logging."""
    if state in GONE:
        return logging.NOTSET
    return logging.WARNING if state in _MAINTENANCE else logging.INFO


def _team(team_name: str) -> Tags:
    return {"team_name": team_name} if team_name else {}


def job_tags(row: Any, team_name: str) -> Tags:
    """Return of which task a job is."""
    return {"dag_id": row.dag_id, "task_id": row.task_id, "queue": row.queue} | _team(team_name)


def final_state(row: Any) -> str:
    """Return Airflow's word for how a job ended: what its API accepted, else what became of the job."""
    return str(row.final_state or _ENDS.get(row.state, row.state))


@dataclass(slots=True)
class EdgeMetrics:
    """Says the figures, to whatever Airflow's `[metrics]` names. `team_name` is that of the executor."""

    team_name: str
    _heard: dict[str, Worker] = field(default_factory=dict)  # as they were at the last look
    _started: set[str] = field(default_factory=set)  # jobs whose start was counted

    def count(self, row: Any, *, ended: bool) -> None:
        """Count what is heard of a task's job. One that is short is heard of once, when it has ended."""
        if row.started_at is not None and row.id not in self._started:
            self._started.add(row.id)
            compat.stats().incr("edge_worker.ti.start", tags=job_tags(row, self.team_name))
        if ended:
            self._started.discard(row.id)
            tags = job_tags(row, self.team_name) | {"state": final_state(row)}
            compat.stats().incr("edge_worker.ti.finish", tags=tags)

    def took(self, seconds: float) -> None:
        """Say how long one `sync` of the executor took."""
        compat.stats().timing("edge_executor.sync.duration", timedelta(seconds=seconds), tags=_team(self.team_name))

    def look(self, workers: Iterable[Worker]) -> None:
        """Say what the workers are now, and how often each was heard since the last look."""
        found = {worker.name: worker for worker in workers}
        for name in self._heard.keys() - found.keys():
            _say(gauges(Worker.unheard(name), self.team_name))
        for worker in found.values():
            _say(gauges(worker, self.team_name))
            if beats := heartbeats(self._heard.get(worker.name), worker):
                tags = {"worker_name": worker.name} | _team(self.team_name)
                compat.stats().incr("edge_worker.heartbeat_count", beats, tags=tags)
        self._heard = found


def heartbeats(before: Worker | None, now: Worker) -> int:
    """Return how many heartbeats there were between two looks: when the last one came is all that the table says."""
    if before is None or now.seen_at <= before.seen_at:
        return 0
    interval = now.status.interval if now.status else INTERVAL
    return max(1, round((now.seen_at - before.seen_at) / max(1.0, interval)))


def _say(said: Iterable[Gauge]) -> None:
    stats = compat.stats()
    for gauge in said:
        stats.gauge(gauge.name, gauge.value, tags=gauge.tags)
        if not compat.NAMES_METRICS_TWICE:
            stats.gauge(gauge.old_name, gauge.value)


def first_of(schedulers: Iterable[str]) -> str:
    """Return the one of several schedulers that speaks of the workers: the oldest. Their ids are numbers, as text."""
    return min(schedulers, key=lambda id_: (len(id_), id_), default="")
