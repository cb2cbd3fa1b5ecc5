"""What the status topics say, folded into one picture. Pure: messages and `now` come in."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.jobs import TERMINAL, JobState
from airflow_mqtt.protocol.messages import BridgeStatus, JobStatus, QueueStatus, WorkerStatus
from airflow_mqtt.protocol.topics import Topic, TopicKind, Topics
from airflow_mqtt.protocol.workers import SILENT_AFTER_INTERVALS, WorkerState, derive, observe, wish_of

#: Bytes that a status may unpack to: it has a dozen fields.
MAX_STATUS_BYTES: Final = 16 * 1024

#: Entries of each sort that are kept. What comes beyond is counted.
MAX_ENTRIES: Final = 100_000

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """What a worker said last, of the health of its device too, and when that was by our clock, as far as known."""

    name: str
    status: WorkerStatus
    seen_at: float
    health: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SeenQueue:
    """The figures of a queue."""

    name: str
    status: QueueStatus


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job that has not ended, and since when it is in its state, by our clock."""

    id: str
    status: JobStatus
    since: float


class Picture:
    """The fleet as its status topics show it. `dropped` counts what was not understood, or had no room."""

    def __init__(self, root: str) -> None:
        self.topics = Topics(root)
        self.workers: dict[str, SeenWorker] = {}
        self.queues: dict[str, SeenQueue] = {}
        self.jobs: dict[str, SeenJob] = {}
        self.bridge: BridgeStatus | None = None
        self.ended: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        #: Since when jobs are listened to.
        self.listens_since: float | None = None
        self._heard_until: float | None = None  # while there is no connection: when there was one

    @property
    def is_empty(self) -> bool:
        return not (self.workers or self.queues or self.jobs or self.bridge)

    def connect(self, now: float) -> None:
        """There is a new connection: what is retained comes again. What became of jobs meanwhile does not."""
        self._heard_until = None
        self.listens_since = now
        self.jobs.clear()

    def lose(self, now: float) -> None:
        """There is none any more, so nobody can be heard."""
        if self._heard_until is None:
            self._heard_until = now

    def apply(self, name: str, payload: bytes, *, retained: bool, now: float) -> None:
        """Take a message of the topic `name`, which arrived at `now`."""
        try:
            topic = self.topics.parse(name)
            self._take(topic, payload, retained=retained, now=now)
        except PayloadError:
            self.dropped["malformed"] += 1

    def _take(self, topic: Topic, payload: bytes, *, retained: bool, now: float) -> None:
        match topic.kind:
            case TopicKind.STATUS if not payload:
                self.workers.pop(topic.worker, None)
            case TopicKind.STATUS:
                status = WorkerStatus.from_object(_object(payload))
                self._put(self.workers, topic.worker, self._seen(topic.worker, status, retained=retained, now=now))
            case TopicKind.QUEUE_STATUS if not payload:
                self.queues.pop(topic.queue, None)
            case TopicKind.QUEUE_STATUS:
                figures = QueueStatus.from_object(_object(payload))
                self._put(self.queues, topic.queue, SeenQueue(topic.queue, figures))
            case TopicKind.JOB_STATUS if payload:
                self._take_job(topic.job, JobStatus.from_object(_object(payload)), now)
            case TopicKind.BRIDGE_STATUS:
                self.bridge = BridgeStatus.from_object(_object(payload)) if payload else None

    def _put(self, entries: dict[str, S], key: str, entry: S) -> None:
        if key in entries or len(entries) < MAX_ENTRIES:
            entries[key] = entry
        else:
            self.dropped["no room"] += 1

    def _seen(self, name: str, status: WorkerStatus, *, retained: bool, now: float) -> SeenWorker:
        """What was retained was said when the worker's clock says, but not before we heard it last, nor after now."""
        before = self.workers.get(name)
        seen_at = now if not retained else min(now, max(status.ts, before.seen_at if before else 0.0))
        known = before.health if before and before.status.instance == status.instance else {}
        return SeenWorker(name, status, seen_at, status.health or known)

    def _take_job(self, job: str, status: JobStatus, now: float) -> None:
        before = self.jobs.pop(job, None)
        if status.state in TERMINAL:
            self.ended[status.state] += 1
            return
        is_same = before is not None and _place(before.status) == _place(status)
        self._put(self.jobs, job, SeenJob(job, status, before.since if before and is_same else now))

    def state_of(self, worker: SeenWorker, now: float) -> WorkerState:
        """Return the state of `worker` at `now`, without the wishes of operators that it has not confirmed.

        It is judged as the bridge does: three silent intervals, in the time in which it could have been heard.
        """
        status = worker.status
        until = now if self._heard_until is None else self._heard_until
        silent = until - worker.seen_at > SILENT_AFTER_INTERVALS * max(status.interval, 1.0)
        return derive(
            wish_of(maintenance=status.maintenance or status.own_maintenance, shutdown=False),
            observe(status.state, maintenance=status.maintenance, running=status.running, silent=silent),
        )

    @property
    def running(self) -> int:
        """How many jobs workers hold, by the bridge's count."""
        return sum(queue.status.running for queue in self.queues.values())

    @property
    def held_jobs(self) -> int:
        """How many of these are known by name."""
        return sum(job.status.state != JobState.QUEUED for job in self.jobs.values())


def _object(payload: bytes) -> codec.JsonObject:
    return codec.decode(payload, max_bytes=MAX_STATUS_BYTES)


def _place(status: JobStatus) -> tuple[str, int]:
    return status.state, status.attempt
