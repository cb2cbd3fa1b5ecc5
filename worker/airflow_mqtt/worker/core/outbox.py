"""Numbered events that wait for the bridge's commit."""

from dataclasses import dataclass, field

#: How many unacknowledged events may be under way. More wait, so that a long outage does not flood the link.
WINDOW = 500

#: An acknowledgement that brings nothing new may mean a gap at the bridge: send again, but not more often than this.
GAP_PAUSE = 2.0


@dataclass(slots=True)
class Outbox:
    """Events by number. `last` is the highest number given out, `acked` the highest acknowledged."""

    last: int = 0
    acked: int = 0
    sent: int = 0
    progress_at: float = 0.0
    events: dict[int, bytes] = field(default_factory=dict)

    def add(self, payload: bytes) -> None:
        self.last += 1
        self.events[self.last] = payload

    def acknowledge(self, seq: int, now: float) -> bool:
        """Drop what is acknowledged; whether that was anything."""
        if not self.acked < seq <= self.last:
            if self.acked == seq < self.sent and now - self.progress_at >= GAP_PAUSE:
                self.rewind(now)
            return False
        for number in range(self.acked + 1, seq + 1):
            self.events.pop(number, None)
        self.acked = seq
        self.sent = max(self.sent, seq)
        self.progress_at = now
        return True

    def rewind(self, now: float) -> None:
        """Send all that is unacknowledged once more."""
        self.sent = self.acked
        self.progress_at = now

    def to_send(self, now: float) -> list[bytes]:
        """Return what may be sent now, and count it as sent."""
        upto = min(self.last, self.acked + WINDOW)
        if upto <= self.sent:
            return []
        if self.sent == self.acked:
            self.progress_at = now
        found = [self.events[number] for number in range(self.sent + 1, upto + 1)]
        self.sent = upto
        return found

    @property
    def sendable(self) -> bool:
        """Whether something may be sent now."""
        return min(self.last, self.acked + WINDOW) > self.sent

    @property
    def is_full(self) -> bool:
        """Whether events wait that may not be sent yet."""
        return self.last > self.acked + WINDOW

    @property
    def waiting(self) -> bool:
        """Whether something was sent and not acknowledged."""
        return self.sent > self.acked
