"""The retained figures of each queue. Pure."""

from collections import Counter
from typing import Final

from airflow_mqtt.bridge.living import Living, Queue
from airflow_mqtt.database.records import Worker
from airflow_mqtt.protocol.messages import QueueStatus
from airflow_mqtt.protocol.workers import GONE, PLACEABLE

#: Workers that a note names.
_NAMED: Final = 3


def queue_statuses(living: Living, now: float) -> dict[str, QueueStatus]:
    """Return the status of each queue that has jobs or workers.

    `free_slots` of a worker with several queues count in each of them.
    """
    running = Counter(job.queue for job in living.jobs.values())
    names = sorted({*living.queues, *living.serving, *running})
    return {name: _status(living, name, running[name], now) for name in names}


def _status(living: Living, name: str, running: int, now: float) -> QueueStatus:
    waiting = living.queues.get(name) or Queue()
    workers = [living.workers[worker] for worker in living.serving.get(name, ())]
    ready = [worker for worker in workers if worker.state in PLACEABLE]
    oldest = waiting.oldest
    return QueueStatus(
        queued=len(waiting),
        running=running,
        oldest_age=0.0 if oldest is None else max(0.0, round(now - oldest, 1)),
        workers_online=sum(worker.state not in GONE for worker in workers),
        free_slots=sum(max(0, living.free(worker.name)) for worker in ready),
        note=_note(living, name, waiting, ready) or _clocks(workers),
        ts=now,
    )


def _clocks(workers: list[Worker]) -> str:
    """Say whose clock is far off."""
    off = [worker for worker in workers if worker.state not in GONE and worker.clock.note]
    if not off:
        return ""
    others = f", and {len(off) - 1} more" if len(off) > 1 else ""
    return f"worker {off[0].name}: {off[0].clock.note}{others}"


def _note(living: Living, name: str, waiting: Queue, ready: list[Worker]) -> str:
    """Say why jobs wait that will not run by themselves."""
    if not waiting.by_size:
        return ""
    if not ready:
        return f"jobs wait and no worker serves queue {name!r} now{_unallowed(living, name)}"
    widest = max(worker.slots for worker in ready)
    if waiting.widest > widest:
        return f"a job needs {waiting.widest} slots; the largest worker of this queue has {widest}"
    return ""


def _unallowed(living: Living, queue: str) -> str:
    """Name a few of the workers that would serve it."""
    names = sorted(name for name, queues in living.unallowed.items() if queue in queues)
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"; not allowed to: {', '.join(names[:_NAMED])}{more} (airflow mqtt allow)"
