"""Bounds on what peers can make us hold, and on what they can make us log."""

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

#: What `Once` remembers in all, and of one owner. Devices can invent what it is asked about.
_REMEMBERED: Final = 10_000
_REMEMBERED_OF_ONE: Final = 100

#: Lines that we log of one job or worker: in a second, in the long run, and at once.
_LINES: Final = 0.2
_LINES_AT_ONCE: Final = 30


@dataclass(frozen=True, slots=True)
class Bound:
    """At most so many pieces, of so many bytes together."""

    pieces: float = math.inf
    bytes: float = math.inf


class Quota:
    """Counts what is held, against one bound for all of it and one for what is held for each owner.

    The second keeps one owner from taking the room of the others.
    """

    def __init__(self, *, total: Bound = Bound(), each: Bound) -> None:
        self._total = total
        self._each = each
        self._pieces = 0
        self._bytes = 0
        self._of: dict[Hashable, tuple[int, int]] = {}

    def enter(self, owner: Hashable, size: int) -> bool:
        """Count a piece of `size` bytes, if there is room for it; return whether there was."""
        pieces, held = self._of.get(owner, (0, 0))
        if not (_fits(self._total, self._pieces, self._bytes + size) and _fits(self._each, pieces, held + size)):
            return False
        self._of[owner] = (pieces + 1, held + size)
        self._pieces += 1
        self._bytes += size
        return True

    def leave(self, owner: Hashable, size: int) -> None:
        """Take back one `enter` that returned True."""
        pieces, held = self._of[owner]
        self._pieces -= 1
        self._bytes -= size
        if pieces == 1:
            del self._of[owner]
        else:
            self._of[owner] = (pieces - 1, held - size)


def _fits(bound: Bound, pieces: int, size: int) -> bool:
    return pieces < bound.pieces and size <= bound.bytes


class Share:
    """What each owner may use of us: so many `pieces` and bytes a second, and those of `burst` seconds at once.

    Who has used more waits until that is paid for. Owners that owe nothing are forgotten.
    """

    def __init__(self, *, pieces: float, size: float = math.inf, burst: float) -> None:
        self._piece = 1 / pieces
        self._byte = 1 / size
        self._burst = burst
        self._paid_at: OrderedDict[Hashable, float] = OrderedDict()  # when all that an owner has used is paid for

    def use(self, owner: Hashable, now: float, *, pieces: float = 1, size: int = 0) -> None:
        """Count what `owner` uses. Times are of a clock that is never set."""
        cost = pieces * self._piece + size * self._byte
        self._paid_at[owner] = max(now, self._paid_at.get(owner, now)) + cost
        self._paid_at.move_to_end(owner)
        for _ in range(2):  # one comes, up to two go
            oldest, paid_at = next(iter(self._paid_at.items()))
            if paid_at > now:
                break
            del self._paid_at[oldest]
            if not self._paid_at:
                break

    def wait(self, owner: Hashable, now: float) -> float:
        """Return for how many seconds `owner` waits before it uses more."""
        return max(0.0, self._paid_at.get(owner, now) - now - self._burst)


class Recent:
    """The last payloads that were added, as many as fit into one bound for all of them and one for each owner.

    An owner that adds many pushes out its own. Where all together are too many, those go of the owner that has added
    nothing for longest.
    """

    def __init__(self, *, total: Bound, each: Bound) -> None:
        self._largest = min(total.bytes, each.bytes)
        self._each = Quota(each=each)
        self._total = Quota(each=total)
        self._payloads: OrderedDict[Hashable, OrderedDict[Hashable, bytes]] = OrderedDict()

    def get(self, owner: Hashable, key: Hashable) -> bytes | None:
        own = self._payloads.get(owner)
        return None if own is None else own.get(key)

    def add(self, owner: Hashable, key: Hashable, payload: bytes) -> None:
        """Keep the payload of a `key` that has none yet, if it fits into the bounds at all."""
        size = len(payload)
        if size > self._largest:
            return
        if owner in self._payloads:
            self._payloads.move_to_end(owner)
        while not self._each.enter(owner, size):
            self._forget(owner)
        while not self._total.enter(None, size):
            self._forget(next(iter(self._payloads)))
        self._payloads.setdefault(owner, OrderedDict())[key] = payload

    def _forget(self, owner: Hashable) -> None:
        """Forget the oldest of `owner`, which has one."""
        own = self._payloads[owner]
        _, oldest = own.popitem(last=False)
        self._each.leave(owner, len(oldest))
        self._total.leave(None, len(oldest))
        if not own:
            del self._payloads[owner]


class Names:
    """Says whether a name of an owner goes on to where each costs for good: the first so many of an owner, and of all.

    It forgets nothing, since who keeps them there does not either. Of a name it remembers a hash.
    """

    def __init__(self, *, total: float = math.inf, each: float) -> None:
        self._known: set[int] = set()
        self._quota = Quota(total=Bound(total), each=Bound(each))

    def __call__(self, owner: str, name: str) -> bool:
        mark = hash((owner, name))
        if mark in self._known:
            return True
        if not self._quota.enter(owner, 0):
            return False
        self._known.add(mark)
        return True


class Lines:
    """Says whether there is room in our log for one line more of an owner, be that a job or a worker.

    A peer can make us say the same again and again. What is left out is counted, and told from time to time.
    """

    def __init__(self) -> None:
        self._share = Share(pieces=_LINES, burst=_LINES_AT_ONCE / _LINES)
        self.left_out = 0
        self._told = 0

    def __call__(self, owner: str) -> bool:
        now = time.monotonic()
        if self._share.wait(owner, now) > 0:
            self.left_out += 1
            return False
        self._share.use(owner, now)
        return True

    def say_left_out(self) -> None:
        """Log how many lines were left out since the last time, if any were."""
        if self.left_out > self._told:
            log.warning(
                "%d lines are left out here, since they would say of the same jobs or workers what is said above",
                self.left_out - self._told,
            )
            self._told = self.left_out


class Once:
    """Says whether something is to be logged: once for each owner and subject. It forgets nothing, and has an end."""

    def __init__(self) -> None:
        self._said: set[tuple[str, ...]] = set()
        self._quota = Quota(total=Bound(_REMEMBERED), each=Bound(_REMEMBERED_OF_ONE))
        self._full = False

    def __call__(self, owner: str, *subject: str) -> bool:
        if (owner, *subject) in self._said:
            return False
        if self._quota.enter(owner, 0):
            self._said.add((owner, *subject))
            return True
        if not self._full:
            self._full = True
            log.warning(
                "enough of this kind is logged of %r; more of it, and of others that say as much, is not", owner
            )
        return False
