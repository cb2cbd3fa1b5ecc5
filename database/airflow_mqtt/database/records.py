"""Rows as values, and what a transition changes in one: what decisions are made of. Pure; no SQLAlchemy."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Final, Self, TypeVar, cast

import orjson

from airflow_mqtt.database import labels
from airflow_mqtt.database.labels import Labels
from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.clocks import Clock
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.jobs import TERMINAL, JobEvent, JobState, next_state
from airflow_mqtt.protocol.kinds import Kind
from airflow_mqtt.protocol.messages import MAX_INTEGER, Desired, JobStatus, WorkerInfo, WorkerStatus, understands
from airflow_mqtt.protocol.workers import PLACEABLE, WorkerState

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", bound="Job | Worker")

#: Rows that are remembered as logged.
_REMEMBERED: Final = 1000


#: States of which the executor is told.
REPORTED: Final = frozenset({JobState.RUNNING, *TERMINAL})

_STAMPS: Final = {
    JobState.DISPATCHED: "dispatched_at",
    JobState.ACCEPTED: "accepted_at",
    JobState.RUNNING: "started_at",
    **dict.fromkeys(TERMINAL, "finished_at"),
}

#: A cancellation is due for publication at once.
_UNPUBLISHED: Final = {"published_at": None, "publishes": 0}

#: What a job forgets when it goes back to the queue.
_RELEASED: Final = {
    "worker": None,
    "dispatched_at": None,
    "accepted_at": None,
    "accept_journal": None,
    "accept_seq": None,
    **_UNPUBLISHED,
    "gate_request": None,
    "log_bytes": 0,  # each attempt has a log of its own
    "log_size": 0,
    "log_tail": None,
}


def changes(
    state: JobState, attempt: int, event: JobEvent, *, now: float, reason: str = "", values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the columns that `event` changes in a job seen at (`state`, `attempt`); `values` are further ones.

    Raises `ValueError` when the table has no such transition: callers ask `jobs.settle` or `jobs.next_state` before.
    """
    after = next_state(state, event)
    if after is None:
        raise ValueError(f"no transition from {state} by {event}")
    changed: dict[str, Any] = {"state": after, "reason": reason, **values}
    if after in _STAMPS:
        changed[_STAMPS[after]] = now
    if after is JobState.CANCELLING:
        changed |= _UNPUBLISHED
    if after is JobState.QUEUED:
        changed |= _RELEASED | {"attempt": attempt + 1}
    return changed


@cache
def _layout(cls: Any) -> tuple[Callable[[Any], tuple[Any, ...]], dict[str, int]]:
    """Return what reads all fields of a record at once, and at which place each of them is."""
    names = [one.name for one in fields(cls)]
    return attrgetter(*names), {name: place for place, name in enumerate(names)}


def replaced(record: R, **values: Any) -> R:
    """As `dataclasses.replace`, at half the price: records have many fields, and are copied for each message."""
    made = cast("Any", type(record))
    read, places = _layout(made)
    copied = [*read(record)]
    for name, value in values.items():
        copied[places[name]] = value
    return cast("R", made(*copied))


@dataclass(frozen=True, slots=True)
class Job:
    """A row of `mqtt_job` without its workload, which only the message that gives it to a worker needs.

    `owner` and `report_pending` are the executor's, and not here. The token is shown nowhere.
    """

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
    cancel_reason: str | None
    cancel_by: str
    subject: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    accept_journal: str | None
    accept_seq: int | None
    gate_request: str | None
    api_version: str
    unixname: str | None
    pid: int | None
    final_state: str | None
    exit_code: int | None
    log_bytes: int
    log_stored: int
    log_size: int
    log_tail: int | None
    publishes: int
    published_at: float | None
    queued_at: float
    dispatched_at: float | None
    accepted_at: float | None
    started_at: float | None
    running_since: float | None
    finished_at: float | None
    token: str = field(default="", repr=False)
    labels: Labels = ()
    not_after: float | None = None

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Return the job of a row that has the columns `JOB_COLUMNS` first. `ValueError`: it is none."""
        values = list(row[: len(JOB_COLUMNS)])
        values[_STATE] = JobState(values[_STATE])
        values[_LABELS] = labels.parse(values[_LABELS])
        return cls(*values)

    def after(self, event: JobEvent, *, now: float, reason: str = "", **values: Any) -> Self:
        """Return the job after `event`. As `changes`."""
        return replaced(self, **changes(self.state, self.attempt, event, now=now, reason=reason, values=values))

    @property
    def work(self) -> Kind | None:
        """What kind of work it is; None for one of a version of ours that this one does not know."""
        return kinds.of(self.workload_type)

    @property
    def is_tracked(self) -> bool:
        """Whether the Execution API keeps a state of it as of a task instance."""
        work = self.work
        return work is not None and work.tracked

    @property
    def waits_for_log(self) -> bool:
        """Whether the end of its log is there (from `log_tail` to `log_size`), and its middle not all yet."""
        return self.log_tail is not None and self.log_bytes < self.log_tail

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


JOB_COLUMNS: Final = tuple(column.name for column in fields(Job))
_STATE: Final = JOB_COLUMNS.index("state")
_LABELS: Final = JOB_COLUMNS.index("labels")


def understood(make: Callable[[Any], T], rows: Iterable[Any]) -> list[T]:
    """Return what `make` makes of each of `rows`, without those that are not of this version, or damaged.

    One row must not stop the work for all others. Each is logged once, by its first column.
    """
    found = []
    for row in rows:
        try:
            found.append(make(row))
        except (ValueError, TypeError, PayloadError) as error:
            _log_once(str(row[0]), error)
    return found


_logged: set[str] = set()


def _log_once(name: str, error: Exception) -> None:
    if name not in _logged and len(_logged) < _REMEMBERED:
        _logged.add(name)
        log.error("the row of %r is set aside, since it cannot be understood: %s", name, error)


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
    features: tuple[str, ...] = ()  # as it announced in its last `Born` that was heard; not in the row
    clock: Clock = Clock()
    note: str = ""  # why the leading bridge gives it no jobs

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """Return the worker of a row with the columns `WORKER_COLUMNS`. `ValueError`, `PayloadError`: it is none.

        Numbers that a version before this one took from a device are brought within their bounds.
        """
        values = dict(zip(WORKER_COLUMNS, row, strict=True))
        status, info = orjson.loads(values["status"]), orjson.loads(values["info"])
        return cls(
            name=values["name"],
            desired=_desired(values["desired"], values["revision"]),
            state=WorkerState(values["state"]),
            status=WorkerStatus.stored(status) if status else None,
            info=WorkerInfo.stored(info) if info else None,
            instance=values["instance"],
            connection=min(values["connection"], MAX_INTEGER),
            seen_at=values["seen_at"],
            journal=values["journal"],
            past_journals=tuple(orjson.loads(values["past_journals"])),
            seq=min(values["seq"], MAX_INTEGER),
            birth=min(values["birth"], MAX_INTEGER),
            clock=Clock.of(values["clock_offset"]),
            note=values["note"],
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
            "clock_offset": self.clock.offset if self.clock.heard else None,
            "note": self.note,
        }

    @property
    def queues(self) -> frozenset[str]:
        if self.desired.queues is not None:
            return frozenset(self.desired.queues)
        return frozenset(self.info.queues if self.info else ())

    @property
    def slots(self) -> int:
        return self.status.slots if self.status else 0

    @property
    def may_be_given_jobs(self) -> bool:
        return may_be_given_jobs(self.state, self.note, self.journal, self.info.protocol if self.info else None)


@lru_cache(maxsize=1024)
def _desired(document: str, revision: int) -> Desired:
    """Return what is desired. One value for all workers of which the same is: of most of a fleet nothing ever was."""
    return Desired.stored({**orjson.loads(document), "revision": revision})


def may_be_given_jobs(state: str, note: str, journal: str, protocol: int | None) -> bool:
    """Whether a worker with these columns, and this protocol of its info if it has one, may be given jobs.

    Not before it was introduced, not when that was to a newer bridge which led before this one, and not with a note of
    why not: see `bridge.dispatch.fleet.noted`.
    """
    introduced = journal and protocol is not None and understands(protocol)
    return bool(introduced) and state in PLACEABLE and not note


#: What `Worker.of` reads, in this order.
WORKER_COLUMNS: Final = (
    "name", "desired", "revision", "state", "status", "info", "instance", "connection", "seen_at", "journal",
    "past_journals", "seq", "birth", "clock_offset", "note",
)  # fmt: skip
