"""When to look at what: names in a heap. Pure."""

import heapq
from math import inf
from typing import Final

#: Entries that are not so any more and are kept, beside as many as there are names.
_SPARE: Final = 16


class Deadlines:
    """Names, and when each is to be looked at: at the earliest time for which that was asked.

    One that is looked at too early is put back by whoever looks, so a time that comes later than the known one is left
    alone, and none needs to be taken out. What is held is a constant for each name, whatever is asked for.
    """

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # with entries that are not so any more

    def __len__(self) -> int:
        return len(self._heap)

    def times(self) -> dict[str, float]:
        """Return when each name is to be looked at."""
        return self._at.copy()

    def put(self, name: str, at: float) -> None:
        """Look at `name` at `at`, or before if that is known already."""
        if at >= self._at.get(name, inf):
            return
        self._at[name] = at
        heapq.heappush(self._heap, (at, name))
        if len(self._heap) > _SPARE + 2 * len(self._at):
            self._rebuild()

    def forget(self, name: str) -> None:
        self._at.pop(name, None)

    def take(self, now: float, most: float = inf) -> list[str]:
        """Take out the names that are to be looked at by now, `most` of them at most."""
        found: list[str] = []
        while self._heap and self._heap[0][0] <= now and len(found) < most:
            at, name = heapq.heappop(self._heap)
            if self._at.get(name) == at:
                del self._at[name]
                found.append(name)
        return found

    def bring_forward(self, now: float) -> None:
        """Look at all of them by `now`."""
        for name, at in self._at.items():
            self._at[name] = min(at, now)
        self._rebuild()

    @property
    def next(self) -> float:
        """When something is to be looked at; never, if it is infinite."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else inf

    def _rebuild(self) -> None:
        self._heap = [(at, name) for name, at in self._at.items()]
        heapq.heapify(self._heap)
