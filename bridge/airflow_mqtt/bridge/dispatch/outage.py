"""For how long a bridge could not hear the fleet: what a worker said meanwhile is not its silence. Pure."""

from dataclasses import dataclass
from typing import Final

#: Seconds between two looks at the clock from which on the process was stopped, its machine slept, or it was set.
GAP: Final = 5.0


@dataclass(slots=True)
class Outage:
    """`at` is when it was looked at the clock last, `unheard` the seconds without hearing that are not excused yet."""

    at: float
    connected: bool = False
    unheard: float = 0.0

    def look(self, now: float) -> None:
        """Look at the clock, as must be done more often than every `GAP` seconds. One set back counts as it is."""
        passed, self.at = now - self.at, now
        if not (self.connected and 0 <= passed < GAP):
            self.unheard += passed

    def connect(self, now: float) -> None:
        """From now on messages arrive."""
        self.look(now)
        self.connected = True

    def lose(self, now: float) -> None:
        """From now on none do."""
        self.look(now)
        self.connected = False
