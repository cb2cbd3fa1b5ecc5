"""How often a leader may lose its connection before somebody else shall lead. Pure."""

from collections import deque
from typing import Final

from airflow_mqtt.database.errors import DeposedError

#: So many connections that were made may be lost in so many seconds. One that another client took over counts twice:
#: somebody comes with our client id, and will again.
LOSSES: Final = 6
PERIOD: Final = 60.0


class ThrownOffError(DeposedError):
    """A bridge cannot keep its connection. Its lease is still its own, to be given back."""


class Losses:
    """The connections that were lost lately, by the monotonic clock."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=LOSSES)

    def add(self, now: float, *, taken_over: bool) -> None:
        """Count a connection. Raises `ThrownOffError` when it was one too many."""
        self._at.extend([now] * (2 if taken_over else 1))
        if len(self._at) == LOSSES and now - self._at[0] <= PERIOD:
            why = "another client comes with our client id" if taken_over else "the broker, or the way to it, ends them"
            raise ThrownOffError(
                f"the lease is given up, since this bridge lost one connection after another within {PERIOD:g} s: {why}"
            )
