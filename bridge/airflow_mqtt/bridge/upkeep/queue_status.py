"""The retained figures of each queue. Pure."""

from collections import Counter, defaultdict

from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.queues import Queue
from airflow_mqtt.bridge.roster import Serving
from airflow_mqtt.database import notes
from airflow_mqtt.database.labels import Labels
from airflow_mqtt.protocol.messages import QueueStatus


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
    serving = living.roster.of(name)
    oldest = min((at for group in waiting.values() if (at := group.oldest) is not None), default=None)
    return QueueStatus(
        queued=sum(map(len, waiting.values())),
        running=running,
        oldest_age=0.0 if oldest is None else max(0.0, round(now - oldest, 1)),
        workers_online=serving.online,
        free_slots=serving.free,
        note=(_note(living, name, waiting) if waiting else "") or _clocks(serving),
        ts=now,
    )


def _clocks(serving: Serving) -> str:
    """Say whose clock is far off, of workers that are heard."""
    if not serving.clocks:
        return ""
    name, note = min(serving.clocks.items())
    others = f", and {len(serving.clocks) - 1} more" if len(serving.clocks) > 1 else ""
    return f"worker {name}: {note}{others}"


def _note(living: Living, name: str, waiting: dict[Labels, Queue]) -> str:
    """Say why jobs wait that will not run by themselves."""
    return notes.of_queue(
        name,
        {labels: group.widest for labels, group in waiting.items()},
        serving=living.members((name, ())),
        fitting=lambda labels: living.members((name, labels)),
        unallowed=lambda: [worker for worker, queues in living.unallowed.items() if name in queues],
    )
