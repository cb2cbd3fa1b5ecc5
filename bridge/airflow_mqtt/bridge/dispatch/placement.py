"""Which job goes to which worker. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from airflow_mqtt.database.records import Job, Worker
from airflow_mqtt.protocol.messages import understands
from airflow_mqtt.protocol.workers import PLACEABLE

#: (kind, free slots) -> queues in which a job of that kind may have so many slots, and no more.
Room = Mapping[tuple[str, int], Collection[str]]


def placement_order(job: Job) -> tuple[int, float, str]:
    """Highest priority first, then oldest."""
    return -job.priority, job.queued_at, job.id


@dataclass(slots=True)
class Offer:
    """What a worker can take now."""

    worker: str
    queues: frozenset[str]
    kinds: frozenset[str]
    free: int

    def takes(self, job: Job) -> bool:
        """Whether it can take a job of one of its queues."""
        return job.slots <= self.free and job.kind in self.kinds


@dataclass(frozen=True, slots=True)
class Pause:
    """A worker is left alone `since` a time, for so many `seconds`."""

    since: float
    seconds: float

    def lasts(self, now: float) -> bool:
        """A clock that was set back does not make it longer."""
        return 0 <= now - self.since < self.seconds


def after_rejection(now: float) -> Pause:
    """A worker that rejected a job: it and we count differently just now."""
    return Pause(now, 5.0)


def after_silence(before: Pause | None, now: float) -> Pause:
    """A worker that lives and does not answer its orders: longer each time, or its free slots would get them all."""
    return Pause(now, 10.0 if before is None else min(600.0, 2 * before.seconds))


def offers(workers: Iterable[Worker], used: Mapping[str, int], pauses: Mapping[str, Pause], now: float) -> list[Offer]:
    """Return what each worker that may be given jobs can take.

    `used` is how many slots of it our own rows hold (not what it reports: a report is older than a claim), and
    `pauses` holds those that are left alone for a while.
    """
    return [
        Offer(
            worker=worker.name,
            queues=worker.queues,
            kinds=frozenset(worker.info.kinds if worker.info else ()),
            free=worker.slots - used.get(worker.name, 0),
        )
        for worker in workers
        if _may_be_given_jobs(worker) and not (worker.name in pauses and pauses[worker.name].lasts(now))
    ]


def _may_be_given_jobs(worker: Worker) -> bool:
    """Not before it was introduced, and not when that was to a newer bridge which led before this one."""
    introduced = worker.journal and worker.info is not None and understands(worker.info.protocol)
    return bool(introduced) and worker.state in PLACEABLE


def room(offered: Iterable[Offer]) -> Room:
    """Return what can be placed at all: of each kind and queue as many slots as its freest worker has."""
    widest: dict[tuple[str, str], int] = {}
    for offer in offered:
        for kind in offer.kinds:
            for queue in offer.queues:
                widest[kind, queue] = max(offer.free, widest.get((kind, queue), 0))
    found = defaultdict(list)
    for (kind, queue), free in widest.items():
        if free > 0:
            found[kind, free].append(queue)
    return found


def place(queued: Sequence[Job], offered: Sequence[Offer]) -> list[tuple[Job, str]]:
    """Return which of `queued` goes to which worker.

    Highest priority first, then oldest. A job goes to the worker with the most free slots, and to any of those that
    have as many, so that load spreads; one that fits nowhere does not hold up those behind it.
    """
    placed = []
    serving: dict[str, list[Offer]] = defaultdict(list)
    for offer in offered:
        for queue in offer.queues:
            serving[queue].append(offer)
    for job in sorted(queued, key=placement_order):
        able = [offer for offer in serving.get(job.queue, ()) if offer.takes(job)]
        if not able:
            continue
        most = max(offer.free for offer in able)
        freest = [offer for offer in able if offer.free == most]
        best = freest[crc32(job.id.encode()) % len(freest)]
        best.free -= job.slots
        placed.append((job, best.worker))
    return placed
