"""What waits for a round of the writer: scripts in the order in which they came, and those that were put off.

What is put off keeps all else of its worker behind it, so that the messages of one worker stay in their order.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_mqtt.bridge.dispatch.reports import Heard
from airflow_mqtt.bridge.draft import Draft


class Future(Protocol):
    """As much of `asyncio.Future` as is needed here."""

    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...
    def done(self) -> bool: ...
    def __await__(self) -> Any: ...


Script = Callable[[Draft], Any]


@dataclass(eq=False, slots=True)
class Work:
    """One script, for whom it is, and who waits for its result."""

    worker: str
    script: Script
    heard: Heard | None = None
    future: Future | None = None
    result: Any = None


class Backlog:
    """Work that waits."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()
        self._put_off: list[Work] = []
        self._put_off_until = 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._put_off)

    @property
    def is_ready(self) -> bool:
        """Whether something waits for nothing but a round."""
        return bool(self._waiting)

    @property
    def put_off_until(self) -> float | None:
        """When what was put off waits no longer; None when nothing was."""
        return self._put_off_until if self._put_off else None

    def add(self, work: Work) -> None:
        self._waiting.append(work)

    def put_back(self, work: Iterable[Work]) -> None:
        """Let `work`, which was taken, wait again before all else."""
        self._waiting.extendleft(reversed([*work]))

    def put_off(self, work: list[Work], until: float, *, first: bool = False) -> None:
        """Let `work`, and all that was put off before, wait until then; `first`: before that."""
        self._put_off = work + self._put_off if first else self._put_off + work
        self._put_off_until = until

    def turn_back(self, now: float) -> None:
        """The clock was set back to `now`: what was put off waits no longer."""
        self._put_off_until = min(self._put_off_until, now)

    def take(self, now: float, most: int) -> list[Work]:
        """Return what a round at `now` is to do: about `most`, and what was put off, if its time has come."""
        work: list[Work] = []
        if self._put_off and now >= self._put_off_until:
            work, self._put_off = self._put_off, []
        blocked = {one.worker for one in self._put_off}
        while self._waiting and len(work) < most:
            one = self._waiting.popleft()
            (self._put_off if one.worker in blocked else work).append(one)
        return work
