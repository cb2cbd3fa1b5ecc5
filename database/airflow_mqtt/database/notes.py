"""What a person should know of a worker, and of a job that waits: for commands, pages, APIs and topics alike. Pure."""

from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

from airflow_mqtt.database.labels import Labels, shown
from airflow_mqtt.protocol.clocks import Clock
from airflow_mqtt.protocol.workers import GONE

#: Workers that a note names.
_NAMED: Final = 3


class Server(Protocol):
    """A worker of a queue, as far as a note speaks of it: `records.Worker`, or what a query has found of one."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def note(self) -> str: ...
    @property
    def may_be_given_jobs(self) -> bool: ...


def of_worker(*, note: str, clock_offset: float | None, removal: bool) -> list[str]:
    """Return the notes of a worker with these columns; `note` is what the leading bridge wrote."""
    notes = [note, Clock.of(clock_offset).note, "to be forgotten" if removal else ""]
    return [one for one in notes if one]


def of_queue(
    queue: str,
    waiting: Mapping[Labels, int],
    *,
    serving: Collection[Server],
    fitting: Callable[[Labels], Collection[Server]],
    unallowed: Callable[[], Collection[str]],
) -> str:
    """Return why jobs of a queue wait that will not run by themselves, of those that ask for no labels first.

    `waiting` are the labels that they ask for, each with the most slots that one of them needs. `serving` are the
    workers that may serve the queue, `fitting` says which of them have labels, and `unallowed` names those that would
    serve it.
    """
    for labels, slots in sorted(waiting.items()):
        able = fitting(labels)
        ready = [worker.slots for worker in able if worker.may_be_given_jobs]
        if not ready or slots > max(ready):
            why = of_wait(queue, labels, slots, serving, able)
            return f"jobs wait: {why}{'' if ready else _unallowed(unallowed())}"
    return ""


def of_wait(queue: str, labels: Labels, slots: int, serving: Collection[Server], fitting: Collection[Server]) -> str:
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
    ready = [worker for worker in living if worker.may_be_given_jobs]
    if not ready:
        return f"no worker {of_queue} takes jobs now ({len(living)} are there{_first_note(living)})"
    widest = max(worker.slots for worker in ready)
    if 0 < widest < slots:
        return f"it needs {slots} slots; the largest worker {of_queue} has {widest}"
    return f"no worker {of_queue} has taken it ({len(living)} are there)"


def _first_note(workers: Collection[Server]) -> str:
    noted = next((worker for worker in workers if worker.note), None)
    return "" if noted is None else f"; {noted.name}: {noted.note}"


def _unallowed(names: Collection[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"; not allowed to: {', '.join(sorted(names)[:_NAMED])}{more} (airflow mqtt allow)"
