"""Which job goes to which worker. Pure."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from airflow_mqtt.bridge.draft import Draft
    from airflow_mqtt.bridge.living import Living, Offer
    from airflow_mqtt.bridge.queues import Size
    from airflow_mqtt.database.ledger import Group

#: Jobs that are placed in one batch; the next follows at once.
BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Pause:
    """A worker is left alone `since` a time, for so many `seconds`."""

    since: float
    seconds: float

    @property
    def ends(self) -> float:
        return self.since + self.seconds

    def lasts(self, now: float) -> bool:
        """A clock that was set back does not make it longer."""
        return self.since <= now < self.ends


def after_rejection(now: float) -> Pause:
    """A worker that rejected a job: it and we count differently just now."""
    return Pause(now, 5.0)


def after_silence(before: Pause | None, now: float) -> Pause:
    """A worker that lives and does not answer its orders: longer each time, or its free slots would get them all."""
    return Pause(now, 10.0 if before is None else min(600.0, 2 * before.seconds))


def place(draft: "Draft", *, by: str) -> None:
    """Give jobs that wait to workers that have room.

    Highest priority first, then oldest, over all groups in which something has changed. A job goes to the worker of its
    group (its queue, and the labels that it asks for) with the most free slots, in turn between those that have as
    many, so that load spreads. One that fits nowhere does not hold up those behind it: jobs of its group and size are
    looked at again when something changes. It costs what is placed, however many wait and however large the fleet is.
    """
    living = draft.living
    room = _Room(draft)
    draft.looked_at = set(living.stirred)
    placed = 0
    heads = [head for group in draft.looked_at for head in _heads(living, group)]
    heapq.heapify(heads)
    while heads and placed < BATCH:
        head = heads[0]
        id_ = head.order[2]
        if id_ not in draft.skip and id_ not in draft.jobs:
            worker = room.take(head.group, head.size)
            if worker is None:
                heapq.heappop(heads)
                continue
            draft.give(living.waiting[id_], worker, by=by)
            placed += 1
        if head.advance():
            heapq.heapreplace(heads, head)
        else:
            heapq.heappop(heads)
    room.give_back()
    draft.looked_at -= {head.group for head in heads}


@dataclass(slots=True)
class _Head:
    """The next job of one size in one group, and those that follow."""

    order: tuple[int, float, str]
    group: "Group"
    size: "Size"
    following: Iterator[tuple[int, float, str]]

    def __lt__(self, other: "_Head") -> bool:
        return self.order < other.order

    def advance(self) -> bool:
        """Go on to the job that follows; False when there is none."""
        after = next(self.following, None)
        if after is not None:
            self.order = after
        return after is not None


def _heads(living: "Living", group: "Group") -> Iterator[_Head]:
    waiting = living.queues.get(group)
    for size, orders in waiting.by_size.items() if waiting else ():
        following = iter(orders)
        yield _Head(next(following), group, size, following)


class _Room:
    """What workers can take, while one batch takes it."""

    def __init__(self, draft: "Draft") -> None:
        self._draft = draft
        self._taken: dict[str, int] = {}
        self._popped: dict[str, None] = {}

    def take(self, group: "Group", size: "Size") -> str | None:
        """Return the freest worker of `group` that has room for a job of this size, with that room taken."""
        kind, slots = size
        passed_over: list[Offer] = []
        offers, found = self._draft.living.offers(group), None
        while offers and found is None:
            minus_free, number, name = heapq.heappop(offers)
            free = self._free(name)
            if free <= 0 or not self._draft.living.can_take(name, group, self._draft.now):
                continue
            if free != -minus_free:  # fewer since: it comes again behind those that have more
                if free < -minus_free:
                    heapq.heappush(offers, (-free, number, name))
                continue
            if slots > free:
                passed_over.append((minus_free, number, name))
                break  # nobody has more
            worker = self._draft.worker(name)
            if worker.info is None or kind not in worker.info.kinds:
                passed_over.append((minus_free, number, name))
                continue
            found = name
        for offer in passed_over:
            heapq.heappush(offers, offer)
        if found is not None:
            self._taken[found] = self._taken.get(found, 0) + slots
            self._popped[found] = None
            self._offer_rest(group, found)
        return found

    def _free(self, name: str) -> int:
        return self._draft.living.free(name) - self._taken.get(name, 0)

    def _offer_rest(self, group: "Group", name: str) -> None:
        """Behind those that have as much."""
        rest = self._free(name)
        if rest > 0:
            heapq.heappush(self._draft.living.offers(group), (-rest, self._draft.living.next_number(), name))

    def give_back(self) -> None:
        """Offer what the batch has not got yet: if it does not commit, all is as it was; else memory says so anew."""
        for name in self._popped:
            self._draft.living.offer(name)
