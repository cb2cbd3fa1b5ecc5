"""What a person should know of a worker, and of a job that waits: for commands, pages, APIs and topics alike. Pure."""

from collections.abc import Collection

from airflow_mqtt.database.labels import Labels, shown
from airflow_mqtt.database.records import Worker
from airflow_mqtt.protocol.clocks import Clock
from airflow_mqtt.protocol.workers import GONE, PLACEABLE


def of_worker(*, note: str, clock_offset: float | None, removal: bool) -> list[str]:
    """Return the notes of a worker with these columns; `note` is what the leading bridge wrote."""
    notes = [note, Clock.of(clock_offset).note, "to be forgotten" if removal else ""]
    return [one for one in notes if one]


def of_wait(queue: str, labels: Labels, slots: int, serving: Collection[Worker], fitting: Collection[Worker]) -> str:
    """Return why a job that asks for `labels` and `slots` waits in its queue.

    `serving` are the workers of the queue that may serve it, `fitting` those of them that have the labels.
    """
    if not serving:
        return f"no worker serves queue {queue!r}"
    if not fitting:
        return f"no worker of queue {queue!r} has {shown(labels)}"
    of_queue = f"of queue {queue!r}{f' with {shown(labels)}' if labels else ''}"
    living = [worker for worker in fitting if worker.state not in GONE]
    if not living:
        return f"nothing is heard of the workers {of_queue}"
    ready = [worker for worker in living if worker.state in PLACEABLE and not worker.note]
    if not ready:
        return f"no worker {of_queue} takes jobs now ({len(living)} are there{_first_note(living)})"
    widest = max(worker.slots for worker in ready)
    if 0 < widest < slots:
        return f"it needs {slots} slots; the largest worker {of_queue} has {widest}"
    return f"no worker {of_queue} has taken it ({len(living)} are there)"


def _first_note(workers: Collection[Worker]) -> str:
    noted = next((worker for worker in workers if worker.note), None)
    return "" if noted is None else f"; {noted.name}: {noted.note}"
