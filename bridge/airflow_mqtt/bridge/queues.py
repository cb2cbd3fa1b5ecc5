"""The jobs that wait, in the order of placement. Pure."""

from collections.abc import Iterator
from math import inf

from sortedcontainers import SortedList

from airflow_mqtt.database.ledger import Waiting

#: Kind and slots: jobs that are alike to whoever looks for room.
Size = tuple[str, int]


class Queue:
    """The jobs of one group that wait: those of each size in the order of placement."""

    def __init__(self) -> None:
        self.by_size: dict[Size, SortedList] = {}

    def __len__(self) -> int:
        return sum(map(len, self.by_size.values()))

    def add(self, waiting: Waiting) -> None:
        self.by_size.setdefault((waiting.kind, waiting.slots), SortedList()).add(waiting.order)

    def remove(self, waiting: Waiting) -> None:
        size = (waiting.kind, waiting.slots)
        orders = self.by_size[size]
        orders.remove(waiting.order)
        if not orders:
            del self.by_size[size]

    @property
    def oldest(self) -> float | None:
        """When the job was queued that has waited longest."""
        return min((at for orders in self.by_size.values() for at in _oldest_of_each_priority(orders)), default=None)

    @property
    def widest(self) -> int:
        """The most slots that one of the jobs needs."""
        return max((slots for _, slots in self.by_size), default=0)


def _oldest_of_each_priority(orders: SortedList) -> Iterator[float]:
    """Of each priority the first: a queue may be long, and has few of them."""
    position = 0
    while position < len(orders):
        priority, at, _ = orders[position]
        yield at
        position = orders.bisect_left((priority, inf, ""))
