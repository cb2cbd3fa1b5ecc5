"""Which job goes to which worker. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from airflow_mqtt.bridge.values import Job, Worker
from airflow_mqtt.protocol.messages import understands
from airflow_mqtt.protocol.workers import PLACEABLE


@dataclass(slots=True)
class Offer:
    """What a worker can take now."""

    worker: str
    queues: frozenset[str]
    kinds: frozenset[str]
    free: int

    def takes(self, job: Job) -> bool:
        return job.slots <= self.free and job.queue in self.queues and job.kind in self.kinds


#: Seconds for which a worker that rejected a job is given no other: it and we count differently just now.
REJECT_PAUSE = 5.0


def offers(
    workers: Iterable[Worker], used: Mapping[str, int], rejected: Mapping[str, float], now: float
) -> list[Offer]:
    """Return what each worker that may be given jobs can take.

    `used` is how many slots of it our own rows hold (not what it reports: a report is older than a claim), and
    `rejected` when it rejected a job last.
    """
    return [
        Offer(
            worker=worker.name,
            queues=worker.queues,
            kinds=frozenset(worker.info.kinds if worker.info else ()),
            free=worker.slots - used.get(worker.name, 0),
        )
        for worker in workers
        if _may_be_given_jobs(worker) and not _is_left_alone(rejected.get(worker.name), now)
    ]


def _is_left_alone(rejected_at: float | None, now: float) -> bool:
    """A clock that was set back does not make it longer."""
    return rejected_at is not None and 0 <= now - rejected_at < REJECT_PAUSE


def _may_be_given_jobs(worker: Worker) -> bool:
    """Not before it was introduced, and not when that was to a newer bridge which led before this one."""
    introduced = worker.journal and worker.info is not None and understands(worker.info.protocol)
    return bool(introduced) and worker.state in PLACEABLE


def place(queued: Sequence[Job], offered: Sequence[Offer]) -> list[tuple[Job, str]]:
    """Return which of `queued` goes to which worker.

    Highest priority first, then oldest. A job goes to the worker with the most free slots, and to any of those that
    have as many, so that load spreads; one that fits nowhere does not hold up those behind it.
    """
    placed = []
    for job in sorted(queued, key=lambda job: (-job.priority, job.queued_at, job.id)):
        able = [offer for offer in offered if offer.takes(job)]
        if not able:
            continue
        most = max(offer.free for offer in able)
        freest = [offer for offer in able if offer.free == most]
        best = freest[crc32(job.id.encode()) % len(freest)]
        best.free -= job.slots
        placed.append((job, best.worker))
    return placed
