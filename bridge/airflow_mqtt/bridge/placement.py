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


def offers(workers: Iterable[Worker], used: Mapping[str, int], paused: Mapping[str, float], now: float) -> list[Offer]:
    """Return what each worker that may be given jobs can take.

    `used` is how many slots of it our own rows hold (not what it reports: a report is older than a claim), and
    `paused` until when it is left alone since it rejected a job.
    """
    return [
        Offer(
            worker=worker.name,
            queues=worker.queues,
            kinds=frozenset(worker.info.kinds if worker.info else ()),
            free=worker.slots - used.get(worker.name, 0),
        )
        for worker in workers
        if _may_be_given_jobs(worker) and paused.get(worker.name, 0.0) <= now
    ]


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
