"""The retained figures of each queue. Pure."""

from collections.abc import Mapping

from airflow_mqtt.bridge.store import QueueFigures
from airflow_mqtt.database.records import Worker
from airflow_mqtt.protocol.messages import QueueStatus
from airflow_mqtt.protocol.workers import GONE, PLACEABLE

_EMPTY = QueueFigures(queued=0, running=0, oldest=None, widest=0)


def queue_statuses(
    figures: Mapping[str, QueueFigures], workers: Mapping[str, Worker], used: Mapping[str, int], now: float
) -> dict[str, QueueStatus]:
    """Return the status of each queue that has jobs or workers.

    `free_slots` of a worker with several queues count in each of them.
    """
    serving: dict[str, list[Worker]] = {queue: [] for queue in figures}
    for worker in workers.values():  # once: a fleet may have as many queues as devices
        for queue in worker.queues:
            serving.setdefault(queue, []).append(worker)
    return {queue: _status(queue, figures.get(queue, _EMPTY), serving[queue], used, now) for queue in sorted(serving)}


def _status(
    queue: str, figures: QueueFigures, workers: list[Worker], used: Mapping[str, int], now: float
) -> QueueStatus:
    ready = [worker for worker in workers if worker.state in PLACEABLE]
    free = sum(max(0, worker.slots - used.get(worker.name, 0)) for worker in ready)
    return QueueStatus(
        queued=figures.queued,
        running=figures.running,
        oldest_age=0.0 if figures.oldest is None else max(0.0, round(now - figures.oldest, 1)),
        workers_online=sum(worker.state not in GONE for worker in workers),
        free_slots=free,
        note=_note(queue, figures, ready),
        ts=now,
    )


def _note(queue: str, figures: QueueFigures, ready: list[Worker]) -> str:
    """Say why jobs wait that will not run by themselves."""
    if not figures.queued:
        return ""
    if not ready:
        return f"jobs wait and no worker serves queue {queue!r} now"
    widest = max(worker.slots for worker in ready)
    if figures.widest > widest:
        return f"a job needs {figures.widest} slots; the largest worker of this queue has {widest}"
    return ""
