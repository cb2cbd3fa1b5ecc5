"""Time and chance of a simulation: all of it from one seed."""

import heapq
import random
from collections import Counter
from collections.abc import Callable

from airflow_mqtt.protocol.topics import Topics

TOPICS = Topics()
EPOCH_TIME = 1_700_000_000.0


class Simulation:
    """Time and chance. Events are callables; two runs with one seed are the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.faults: Counter[str] = Counter()
        self.trace: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + max(0.0, delay), self._number, action))

    def run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> None:
        while self._events and self._events[0][0] <= end and not done():
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = max(self.now, end) if not done() else self.now

    def chance(self, probability: float, fault: str = "") -> bool:
        hit = self.random.random() < probability
        if hit and fault:
            self.faults[fault] += 1
        return hit

    def note(self, text: str) -> None:
        self.trace.append(f"{self.now:9.3f} {text}")
