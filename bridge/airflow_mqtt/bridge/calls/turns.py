"""Fair turns: so many at a time, a part of them for one owner."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lets `total` in at a time, `each` of one owner. Those that wait come in turn, owner by owner."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._inside: Counter[str] = Counter()
        self._count = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn of `owner`, and have it as long as the body lasts."""
        await self._enter(owner)
        try:
            yield
        finally:
            self._leave(owner)

    async def _enter(self, owner: str) -> None:
        if self._count < self._total and self._inside[owner] < self._each and owner not in self._waiting:
            self._let_in(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._give_up(owner, turn)
            else:  # it came, and nobody takes it
                self._leave(owner)
            raise

    def _let_in(self, owner: str) -> None:
        self._count += 1
        self._inside[owner] += 1

    def _give_up(self, owner: str, turn: "asyncio.Future[None]") -> None:
        own = self._waiting[owner]
        own.remove(turn)
        if not own:
            del self._waiting[owner]

    def _leave(self, owner: str) -> None:
        self._count -= 1
        self._inside[owner] -= 1
        if not self._inside[owner]:
            del self._inside[owner]
        if self._count < self._total and (following := self._next()) is not None:
            own = self._waiting[following]
            turn = own.popleft()
            if own:
                self._waiting.move_to_end(following)
            else:
                del self._waiting[following]
            self._let_in(following)
            turn.set_result(None)

    def _next(self) -> str | None:
        """The owner that has waited longest of those that may have one more."""
        return next((owner for owner in self._waiting if self._inside[owner] < self._each), None)
