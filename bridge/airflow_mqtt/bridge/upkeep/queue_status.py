"""The retained figures of each queue. Pure."""

from collections import Counter, defaultdict
from typing import Final

from airflow_mqtt.bridge.dispatch.duties import why_it_waits
from airflow_mqtt.bridge.dispatch.placement import may_be_given_jobs
from airflow_mqtt.bridge.living import Living, Queue
from airflow_mqtt.database.labels import Labels
from airflow_mqtt.database.records import Worker
from airflow_mqtt.protocol.messages import QueueStatus
from airflow_mqtt.protocol.workers import GONE

#: Workers that a note names.
_NAMED: Final = 3


def queue_statuses(living: Living, now: float) -> dict[str, QueueStatus]:
    """Return the status of each queue that has jobs or workers.

    `free_slots` of a worker with several queues count in each of them.
    """
    running = Counter(job.queue for job in living.jobs.values())
    waiting: defaultdict[str, dict[Labels, Queue]] = defaultdict(dict)
    for (queue, labels), group in living.queues.items():
        waiting[queue][labels] = group
    names = sorted({*waiting, *living.groups.queues(), *running})
    return {name: _status(living, name, waiting[name], running[name], now) for name in names}


def _status(living: Living, name: str, waiting: dict[Labels, Queue], running: int, now: float) -> QueueStatus:
    workers = [living.workers[worker] for worker in living.groups.members((name, ()))]
    oldest = min((at for group in waiting.values() if (at := group.oldest) is not None), default=None)
    return QueueStatus(
        queued=sum(map(len, waiting.values())),
        running=running,
        oldest_age=0.0 if oldest is None else max(0.0, round(now - oldest, 1)),
        workers_online=sum(worker.state not in GONE for worker in workers),
        free_slots=sum(max(0, living.free(worker.name)) for worker in workers if may_be_given_jobs(worker)),
        note=_note(living, name, waiting) or _clocks(workers),
        ts=now,
    )


def _clocks(workers: list[Worker]) -> str:
    """Say whose clock is far off."""
    off = [worker for worker in workers if worker.state not in GONE and worker.clock.note]
    if not off:
        return ""
    others = f", and {len(off) - 1} more" if len(off) > 1 else ""
    return f"worker {off[0].name}: {off[0].clock.note}{others}"


def _note(living: Living, name: str, waiting: dict[Labels, Queue]) -> str:
    """Say why jobs wait that will not run by themselves: of those that ask for no labels first."""
    for labels in sorted(waiting):
        members = [living.workers[worker] for worker in living.groups.members((name, labels))]
        ready = [worker for worker in members if may_be_given_jobs(worker)]
        if not ready or waiting[labels].widest > max(worker.slots for worker in ready):
            why = why_it_waits(living, (name, labels), waiting[labels].widest)
            return f"jobs wait: {why}{'' if ready else _unallowed(living, name)}"
    return ""


def _unallowed(living: Living, queue: str) -> str:
    """Name a few of the workers that would serve it."""
    names = sorted(name for name, queues in living.unallowed.items() if queue in queues)
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"; not allowed to: {', '.join(names[:_NAMED])}{more} (airflow mqtt allow)"
