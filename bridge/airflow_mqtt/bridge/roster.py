"""Who serves each queue, counted: workers that are heard, their free slots, and whose clock is off. Pure.

The figures of a queue are published every few seconds. They are kept as they change, since to count ten thousand
workers anew takes a tenth of a second in which nothing else is done.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple


class Entry(NamedTuple):
    """What one worker that is heard counts for, in each of its queues."""

    queues: frozenset[str]
    free: int  # slots
    clock: str  # what a person should know of its clock


@dataclass(slots=True)
class Serving:
    """The workers of one queue that are heard, and the slots that are free with them."""

    online: int = 0
    free: int = 0
    clocks: dict[str, str] = field(default_factory=dict)  # worker -> what a person should know of its clock


_NOBODY: Final = Entry(frozenset(), 0, "")


class Roster:
    """Queues, and who serves them."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._queues: dict[str, Serving] = {}

    def of(self, queue: str) -> Serving:
        return self._queues.get(queue) or Serving()

    def note(self, worker: str, entry: Entry | None) -> None:
        """Count `worker` as `entry` from now on; None: it is not heard."""
        before = self._entries.get(worker)
        if entry == before:
            return
        had, has = before or _NOBODY, entry or _NOBODY
        for queue in had.queues:
            serving = self._queues[queue]
            serving.online -= 1
            serving.free -= had.free
            serving.clocks.pop(worker, None)
            if not serving.online:
                del self._queues[queue]
        for queue in has.queues:
            serving = self._queues.setdefault(queue, Serving())
            serving.online += 1
            serving.free += has.free
            if has.clock:
                serving.clocks[worker] = has.clock
        if entry is None:
            del self._entries[worker]
        else:
            self._entries[worker] = entry
