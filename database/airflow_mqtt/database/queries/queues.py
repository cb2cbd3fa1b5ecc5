"""The queues of a team: what waits in each, who could take it, and why it waits all the same."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from sqlalchemy import Text, func, literal_column, select, union_all
from sqlalchemy.orm import Session

from airflow_mqtt.database import labels, notes, tables
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.documents import read
from airflow_mqtt.database.labels import Label, Labels
from airflow_mqtt.database.ledger import Group
from airflow_mqtt.database.queries.paging import Documents, reading
from airflow_mqtt.database.queries.workers import queues_of, serves
from airflow_mqtt.database.records import may_be_given_jobs, understood
from airflow_mqtt.protocol import PROTOCOL_VERSION
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.workers import GONE

_job = tables.job.c
_worker = tables.worker.c

_COLUMNS: Final = (
    _worker.name, _worker.state, _worker.note, _worker.journal, _worker.status, _worker.info, _worker.desired,
)  # fmt: skip

#: As the words of the indexes have it: no parameter, or SQLite would not know them again.
_NO_LABELS: Final = literal_column("'{}'", Text)


@dataclass(frozen=True, slots=True)
class _Server:
    """A worker as far as a queue is concerned: of ten thousand, `records.Worker` would take a second."""

    name: str
    state: str
    slots: int
    note: str
    may_be_given_jobs: bool
    queues: Sequence[str]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, row: Any) -> "_Server":
        """Return the worker of a row with `_COLUMNS`. `ValueError`, `TypeError`: nobody can read it."""
        status, info, wished = read(row.status), read(row.info), read(row.desired).get("queues")
        protocol = int(info.get("protocol", PROTOCOL_VERSION)) if info else None
        queues = queues_of(info, wished)
        if not all(type(queue) is str for queue in queues):
            raise TypeError("a queue has a name")
        return cls(
            row.name,
            row.state,
            int(status.get("slots", 0)),
            row.note,
            may_be_given_jobs(row.state, row.note, row.journal, protocol),
            queues,
            dict(info.get("labels") or {}),
        )


@dataclass
class _Queue:
    """What is known of one. `waits` are the labels that jobs ask for, each with the most slots that one needs."""

    waiting: int = 0
    oldest_at: float | None = None
    running: int = 0
    free: int = 0
    waits: dict[Labels, int] = field(default_factory=dict)
    serving: list[_Server] = field(default_factory=list)
    unallowed: list[str] = field(default_factory=list)

    def add_waiting(self, row: Any) -> None:
        """Add jobs that ask for the same labels."""
        self.waiting += row.jobs
        self.oldest_at = row.oldest if self.oldest_at is None else min(self.oldest_at, row.oldest)
        with suppress(ValueError):  # nobody can read it: the bridge has set these jobs aside, and says so
            asked = labels.parse(row.labels)
            self.waits[asked] = max(row.slots, self.waits.get(asked, 0))

    def fitting(self, asked: Labels) -> Collection[_Server]:
        """Return the workers that have these labels."""
        if not asked:
            return self.serving
        rarest = min((self._having.get(label, ()) for label in asked), key=len)
        return [one for one in rarest if labels.fit(asked, one.labels)]

    @cached_property
    def _having(self) -> Mapping[Label, Sequence[_Server]]:
        having: defaultdict[Label, list[_Server]] = defaultdict(list)
        for one in self.serving:
            for label in one.labels.items():
                having[label].append(one)
        return having


def list_queues(session: Session, team_name: str, access: Access) -> list[dict[str, Any]]:
    """Return each queue that has jobs or workers. What is free of a worker with several queues counts in each."""
    found: defaultdict[str, _Queue] = defaultdict(_Queue)
    for row in session.execute(_waiting(team_name)):
        found[row.queue].add_waiting(row)
    used: Counter[str] = Counter()
    for queue, worker, running, slots in session.execute(_held(team_name)):
        found[queue].running += running
        used[worker] += slots
    for server in _servers(session, team_name):
        for queue in server.queues:
            if not access.may_serve(server.name, queue):
                found[queue].unallowed.append(server.name)
                continue
            found[queue].serving.append(server)
            if server.may_be_given_jobs:
                found[queue].free += max(0, server.slots - used[server.name])
    return [_shown(name, queue) for name, queue in sorted(found.items())]


def is_served(session: Session, team_name: str, queue: str, access: Access) -> bool:
    """Whether a worker of which something is heard serves a queue, and may."""
    servers = _servers(session, team_name, queue)
    return any(one.state not in GONE and access.may_serve(one.name, queue) for one in servers)


def why_it_waits(session: Session, team_name: str, group: Group, slots: int, access: Access) -> str:
    """Return why a job of `group` waits that needs so many slots."""
    queue, asked = group
    serving = [one for one in _servers(session, team_name, queue) if access.may_serve(one.name, queue)]
    fitting = [one for one in serving if labels.fit(asked, one.labels)]
    return notes.of_wait(queue, asked, slots, serving, fitting)


def note_of_job(session: Session, team_name: str, job: Mapping[str, Any], access: Access) -> str:
    """Return why a job of `jobs.find_job` waits; nothing when it does not."""
    if job["state"] != JobState.QUEUED:
        return ""
    asked = tuple(sorted(job["labels"].items()))
    return why_it_waits(session, team_name, (job["queue"], asked), job["slots"], access)


def _waiting(team_name: str) -> Any:
    """Return (queue, labels, how many jobs, when the first of them was queued, the most slots that one needs).

    Those that ask for no labels are counted in `ix_mqtt_job_waiting` alone.
    """
    waits = (_job.team_name == team_name, _job.finished_at.is_(None), _job.worker.is_(None))
    figures = (
        func.count().label("jobs"),
        func.min(_job.queued_at).label("oldest"),
        func.max(_job.slots).label("slots"),
    )
    plain = select(_job.queue, _NO_LABELS.label("labels"), *figures).where(*waits, _job.labels == _NO_LABELS)
    asking = select(_job.queue, _job.labels, *figures).where(*waits, _job.labels != _NO_LABELS)
    return union_all(plain.group_by(_job.queue), asking.group_by(_job.queue, _job.labels))


def _held(team_name: str) -> Any:
    held = (_job.team_name == team_name, _job.finished_at.is_(None), _job.worker.is_not(None))
    columns = (_job.worker, _job.queue)
    return select(_job.queue, _job.worker, func.count(), func.sum(_job.slots)).where(*held).group_by(*columns)


def _servers(session: Session, team_name: str, queue: str | None = None) -> list[_Server]:
    """Return the workers of a team, or those of them that serve `queue`."""
    query = select(*_COLUMNS).where(_worker.team_name == team_name).order_by(_worker.name)
    if queue is None:
        return understood(_Server.of, session.execute(query))

    def look(documents: Documents) -> list[Any]:
        serving = serves(session, documents, lambda value: value == queue)
        return list(session.execute(query.where(serving)))

    return understood(_Server.of, reading(session, team_name, look))


def _shown(name: str, queue: _Queue) -> dict[str, Any]:
    return {
        "queue": name,
        "waiting": queue.waiting,
        "oldest_at": queue.oldest_at,
        "running": queue.running,
        "workers": sum(one.state not in GONE for one in queue.serving),
        "free": queue.free,
        "note": notes.of_queue(
            name, queue.waits, serving=queue.serving, fitting=queue.fitting, unallowed=lambda: queue.unallowed
        ),
    }
