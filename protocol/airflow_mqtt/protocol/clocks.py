"""How far a device's clock is from the site's, and times that are put right by it. Pure.

Many boards have no battery: until somebody tells them, it is 1970 there, or the day on which their image was made.
Airflow counts `retry_delay` and reschedules from the times that a task says. So the bridge corrects these in the calls
that it forwards. Log lines keep the device's time.

A message that says when it was made shows the difference of the two clocks plus the time that it was under way. That
time is never negative: the least of what was seen lately is nearest to the difference.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Self

import orjson

#: Seconds of one window. The least of this and the one before counts: a clock that was set is noticed after two.
WINDOW: Final = 300.0

#: A clock that was set back is noticed earlier: when so many differences agree to this many seconds, each heard at
#: least `APART` seconds after the one before. What was held up on its way comes all at once, or with different ones.
AGREEING: Final = 3
AGREEMENT: Final = 2.0
APART: Final = 10.0

#: Differences up to this many seconds are left alone: NTP does not do better everywhere, and links are slow.
TOLERANCE: Final = 2.0

#: Beyond this many seconds a person is told.
NOTEWORTHY: Final = 60.0


@dataclass(frozen=True, slots=True)
class Clock:
    """What is known of a device's clock. `offset` is by how many seconds it is behind ours; ahead is negative."""

    offset: float = 0.0
    heard: bool = False
    since: float = 0.0  # when this window began
    least: float = 0.0  # of this window
    last: float = 0.0  # a difference, when it was heard, and how many in a row agree with it
    last_at: float = 0.0
    agreeing: int = 0

    @classmethod
    def of(cls, offset: float | None) -> Self:
        """Return what is known by an earlier leader's word."""
        return cls() if offset is None else cls(offset=offset, heard=True, least=offset)

    def hear(self, sent: float, now: float) -> "Clock":
        """Return the clock after a message that was made at `sent`, by the device's clock, and came at `now`."""
        seen = now - sent
        if not self.heard:
            return replace(self, offset=seen, heard=True, since=now, least=seen, last=seen, last_at=now, agreeing=1)
        if abs(seen - self.last) > AGREEMENT:
            last, last_at, agreeing = seen, now, 1
        elif now - self.last_at >= APART:
            last, last_at, agreeing = seen, now, self.agreeing + 1
        else:
            last, last_at, agreeing = self.last, self.last_at, self.agreeing
        since, least, offset = self.since, min(self.least, seen), min(self.offset, seen)
        if agreeing >= AGREEING and seen - offset > AGREEMENT:
            since, least, offset = now, seen, seen
        elif not 0 <= now - self.since < WINDOW:  # a new one; of the one before, its least still counts
            since, least, offset = now, seen, least
        return Clock(offset, True, since, least, last, last_at, agreeing)

    @property
    def correction(self) -> float:
        """Seconds to add to the device's times; 0 within the tolerance."""
        return self.offset if self.heard and abs(self.offset) > TOLERANCE else 0.0

    @property
    def note(self) -> str:
        """What a person should know of it; nothing when it is about right."""
        if not self.heard or abs(self.offset) < NOTEWORTHY:
            return ""
        return f"its clock is {timedelta(seconds=round(abs(self.offset)))} {'behind' if self.offset > 0 else 'ahead'}"


def corrected(body: Mapping[str, Any], names: Iterable[str], seconds: float) -> dict[str, Any]:
    """Return those of the fields `names` of `body` that hold a time, moved by `seconds`."""
    if not seconds:
        return {}
    moved = {name: _moved(body.get(name), seconds) for name in names}
    return {name: value for name, value in moved.items() if value is not None}


def answered(text: str, names: Iterable[str], seconds: float) -> str:
    """Return the JSON `text` of an answer with the times in it moved: its fields `names`, or itself (an empty name)."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    if isinstance(value, dict):
        moved = corrected(value, names, seconds)
        return orjson.dumps(value | moved).decode() if moved else text
    whole = _moved(value, seconds) if "" in names else None
    return text if whole is None else orjson.dumps(whole).decode()


def _moved(value: Any, seconds: float) -> str | None:
    """Return the time in `value` (ISO 8601, as JSON has it) moved by `seconds`; None when it is none."""
    if not isinstance(value, str):
        return None
    try:
        return (datetime.fromisoformat(value) + timedelta(seconds=seconds)).isoformat()
    except (ValueError, OverflowError):
        return None
