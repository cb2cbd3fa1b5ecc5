"""The seam between the leader's memory and a database: what a batch writes, and what the database says of it.

A `Ledger` has one connection of its own and one user, the leader's writer. Every batch is one transaction that
commits only while the lease has the leader's epoch. The number of statements of a batch does not depend on how much is
in it: lists travel as one JSON document, or as arrays. `postgres` and `sqlite` hold the two forms.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from airflow_mqtt.database import access, labels
from airflow_mqtt.database.access import OPEN, Access
from airflow_mqtt.database.labels import Labels
from airflow_mqtt.database.records import JOB_COLUMNS, REPORTED, Job, Worker
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import Desired

log = logging.getLogger(__name__)

#: Columns that the leader writes at each transition, with their types in both databases. The token has a rule of its
#: own (see `Change.row`), and what is not here is the scheduler's.
WRITTEN: Final[Mapping[str, str]] = {
    "state": "text",
    "attempt": "integer",
    "reason": "text",
    "worker": "text",
    "accept_journal": "text",
    "accept_seq": "bigint",
    "gate_request": "text",
    "api_version": "text",
    "unixname": "text",
    "pid": "integer",
    "final_state": "text",
    "exit_code": "integer",
    "log_bytes": "bigint",
    "log_stored": "bigint",
    "log_size": "bigint",
    "log_tail": "bigint",
    "publishes": "integer",
    "published_at": "double precision",
    "dispatched_at": "double precision",
    "accepted_at": "double precision",
    "started_at": "double precision",
    "running_since": "double precision",
    "finished_at": "double precision",
}

#: What the leader knows of a job that waits in its queue.
WAITING_COLUMNS: Final = (
    "id", "queue", "kind", "slots", "priority", "queued_at", "attempt", "log_stored", "labels", "not_after",
)  # fmt: skip

_LABELS: Final = WAITING_COLUMNS.index("labels")

#: Columns of a worker that the leader writes; `desired`, `revision` and `removal` are the operators'.
OBSERVED_COLUMNS: Final = (
    "state", "status", "info", "instance", "connection", "seen_at", "journal", "past_journals", "seq", "birth",
    "clock_offset", "note",
)  # fmt: skip


#: A queue, and the labels that some of its jobs ask for: they are alike to whoever looks for a worker.
Group = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in its queue, as little of it as placement needs: there may be a hundred thousand."""

    id: str
    queue: str
    kind: str
    slots: int
    priority: int
    queued_at: float
    attempt: int
    log_stored: int = 0
    labels: Labels = ()
    not_after: float | None = None

    @classmethod
    def of(cls, job: Job) -> "Waiting":
        return cls(*(getattr(job, name) for name in WAITING_COLUMNS))

    @classmethod
    def read(cls, row: Sequence[Any]) -> "Waiting":
        """Return the job of a row with the columns `WAITING_COLUMNS`. `ValueError`: it cannot be understood."""
        values = list(row)
        values[_LABELS] = labels.parse(values[_LABELS])
        return cls(*values)

    @property
    def group(self) -> Group:
        special = labels.of_kinds((self.kind,))
        return self.queue, special + self.labels if special else self.labels

    @property
    def order(self) -> tuple[int, float, str]:
        """Highest priority first, then oldest."""
        return -self.priority, self.queued_at, self.id


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as the leader saw it last. A row that is not so any more is not changed."""

    state: JobState
    attempt: int
    cancel_reason: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a batch makes of one job. `fields` holds a value for each column of `WRITTEN`."""

    id: str
    seen: Seen
    fields: Mapping[str, Any]
    token: str | None = None
    token_at: float | None = None

    def row(self) -> dict[str, Any]:
        """Return the document of this change. A token that is null stays as it is: a scheduler may have renewed it."""
        return {
            **self.fields,
            "id": self.id,
            "seen_state": self.seen.state,
            "seen_attempt": self.seen.attempt,
            "seen_cancel": self.seen.cancel_reason,
            "report": self.fields["state"] in REPORTED and self.fields["state"] != self.seen.state,
            "token": self.token,
            "token_at": self.token_at,
        }


@dataclass(frozen=True, slots=True)
class Transition:
    """A row of `mqtt_job_event`."""

    job_id: str
    attempt: int
    at: float
    by: str
    event: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row of `mqtt_job_log`."""

    job_id: str
    attempt: int
    offset: int
    data: bytes


@dataclass(slots=True)
class Writes:
    """All that one batch writes.

    `workers` are written whole, of `positions` (worker -> (seq, seen_at)) only that. `excused` are seconds in which
    nobody could be heard, by which `seen_at` of all workers moves first. `followed` are shutdowns that workers have
    followed: worker -> what was desired of it. That is withdrawn, and comes back as news, if nobody wishes anything
    else meanwhile.
    """

    changes: list[Change] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    positions: dict[str, tuple[int, float]] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    followed: dict[str, Desired] = field(default_factory=dict)
    excused: float = 0.0
    now: float = 0.0

    def __bool__(self) -> bool:
        lists = (self.changes, self.workers, self.positions, self.chunks, self.forgotten, self.followed)
        return any(lists) or bool(self.excused)


@dataclass(frozen=True, slots=True)
class Committed:
    """The batch is in the database. `dispatched` has the rows and workloads of the jobs that a worker was given."""

    dispatched: Mapping[str, tuple[Job, str]]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was written: these jobs are not as they were seen, or somebody holds their rows just now."""

    jobs: frozenset[str]


@dataclass(frozen=True, slots=True)
class News:
    """What others wrote: jobs as they are now, and workers of which something is wished. `more` is left to read.

    `access` is what the site allows, if that has changed.
    """

    jobs: list[Job]
    workers: list[Worker]
    removals: frozenset[str]
    more: bool
    access: Access | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The living, as a new leader reads them."""

    waiting: list[Waiting]
    jobs: list[Job]
    workers: list[Worker]
    removals: frozenset[str]
    access: Access = OPEN


class Ledger(Protocol):
    """What the writer needs of a database. Every method raises `DeposedError` when the lease is another's."""

    async def snapshot(self) -> Snapshot: ...
    async def commit(self, writes: Writes) -> Committed | Conflict: ...
    async def news(self) -> News: ...
    async def jobs(self, ids: Collection[str]) -> list[Job]: ...
    async def workloads(self, ids: Collection[str]) -> dict[str, str]: ...
    async def close(self) -> None: ...


#: Rows of news that are read at a time.
NEWS_LIMIT: Final = 2000

JOB_LIST: Final = ", ".join(JOB_COLUMNS)


def access_of(rows: Sequence[Sequence[Any]]) -> Access:
    """Return what the row of `mqtt_access` (document, revision) allows, if there is one: else nothing is."""
    document, revision = rows[0] if rows else ("{}", 0)
    try:
        return access.parse(document, revision)
    except PayloadError as error:
        log.error("nothing is allowed, since what is cannot be understood: %s", error)
        return Access(revision=revision, listed=True)


def fields_of(job: Job) -> dict[str, Any]:
    """Return the columns of `WRITTEN` of `job`."""
    return {name: getattr(job, name) for name in WRITTEN}
