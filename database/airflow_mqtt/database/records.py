"""Rows as values: what the bridge's decisions are made of."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Final, Self, TypeVar

import orjson

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import Desired, JobStatus, WorkerInfo, WorkerStatus
from airflow_mqtt.protocol.workers import WorkerState

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Rows that are remembered as logged.
_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class Job:
    """A row of `mqtt_job` without its workload and token, which only two places need."""

    id: str
    kind: str
    workload_type: str
    queue: str
    priority: int
    slots: int
    state: JobState
    attempt: int
    reason: str
    worker: str | None
    subject: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    accept_journal: str | None
    accept_seq: int | None
    gate_request: str | None
    pid: int | None
    final_state: str | None
    log_bytes: int
    publishes: int
    published_at: float | None
    queued_at: float
    started_at: float | None
    running_since: float | None

    @classmethod
    def of(cls, row: Any) -> Self:
        values = {name: getattr(row, name) for name in JOB_COLUMNS}
        return cls(**(values | {"state": JobState(values["state"])}))

    @property
    def is_task(self) -> bool:
        """Whether the Execution API keeps a state of it. Callbacks (`ExecuteCallback`) have none there."""
        return self.workload_type == "ExecuteTask"

    def status(self, now: float) -> JobStatus:
        return JobStatus(
            state=self.state.value,
            attempt=self.attempt,
            worker=self.worker,
            queue=self.queue,
            reason=self.reason[:1000],
            dag_id=self.dag_id,
            run_id=self.run_id,
            task_id=self.task_id,
            map_index=self.map_index,
            try_number=self.try_number,
            ts=now,
        )


def understood(make: Callable[[Any], T], rows: Iterable[Any]) -> list[T]:
    """Return what `make` makes of each of `rows`, without those that are not of this version, or damaged.

    One row must not stop the work for all others. Each is logged once.
    """
    found = []
    for row in rows:
        try:
            found.append(make(row))
        except (ValueError, TypeError, PayloadError) as error:
            _log_once(getattr(row, "name", None) or row.id, error)
    return found


_logged: set[str] = set()


def _log_once(name: str, error: Exception) -> None:
    if name not in _logged and len(_logged) < _REMEMBERED:
        _logged.add(name)
        log.error("the row of %r is set aside, since it cannot be understood: %s", name, error)


JOB_COLUMNS = tuple(field.name for field in fields(Job))
JOB_SELECTION = tuple(tables.job.c[name] for name in JOB_COLUMNS)


@dataclass(frozen=True, slots=True)
class Worker:
    """A row of `mqtt_worker`. `status` and `info` are None until the worker has sent one."""

    name: str
    desired: Desired
    state: WorkerState
    status: WorkerStatus | None
    info: WorkerInfo | None
    instance: str
    connection: int
    seen_at: float
    journal: str
    past_journals: tuple[str, ...]
    seq: int
    birth: int

    @classmethod
    def of(cls, row: Any) -> Self:
        status, info = orjson.loads(row.status), orjson.loads(row.info)
        return cls(
            name=row.name,
            desired=Desired.from_object({**orjson.loads(row.desired), "revision": row.revision}),
            state=WorkerState(row.state),
            status=WorkerStatus.from_object(status) if status else None,
            info=WorkerInfo.from_object(info) if info else None,
            instance=row.instance,
            connection=row.connection,
            seen_at=row.seen_at,
            journal=row.journal,
            past_journals=tuple(orjson.loads(row.past_journals)),
            seq=row.seq,
            birth=row.birth,
        )

    @classmethod
    def unheard(cls, name: str) -> Self:
        """A worker of which nothing counts yet."""
        return cls(
            name=name,
            desired=Desired(revision=0),
            state=WorkerState.UNKNOWN,
            status=None,
            info=None,
            instance="",
            connection=0,
            seen_at=0.0,
            journal="",
            past_journals=(),
            seq=0,
            birth=0,
        )

    def observed_columns(self) -> dict[str, Any]:
        """The columns that the bridge writes. The wishes are the operator's: the bridge only reads them."""
        return {
            "state": self.state.value,
            "status": "{}" if self.status is None else orjson.dumps(self.status).decode(),
            "info": "{}" if self.info is None else orjson.dumps(self.info).decode(),
            "instance": self.instance,
            "connection": self.connection,
            "seen_at": self.seen_at,
            "journal": self.journal,
            "past_journals": orjson.dumps(self.past_journals).decode(),
            "seq": self.seq,
            "birth": self.birth,
        }

    @property
    def queues(self) -> frozenset[str]:
        if self.desired.queues is not None:
            return frozenset(self.desired.queues)
        return frozenset(self.info.queues if self.info else ())

    @property
    def slots(self) -> int:
        return self.status.slots if self.status else 0
