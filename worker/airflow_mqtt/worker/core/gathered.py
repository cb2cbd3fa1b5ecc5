"""What tasks have for a monitoring system, until it is sent: bounded, and within a budget of the link. Pure."""

from collections import deque

from airflow_mqtt.protocol.messages import MAX_SHORT_TEXT, MAX_TEXTS, Telemetry

#: Seconds for which the first that comes waits for more, and between two messages.
GATHER = 2.0
INTERVAL = 10.0

#: Bytes a second that the link carries of it in the long run: a message puts off the next one by its own size.
RATE = 1024

#: Bytes of the spans of one message, before they are packed, and of those that wait.
MOST_SPANS = 64 * 1024
MOST_WAITING = 4 * MOST_SPANS

#: Lines that wait.
MOST_LINES = 4 * MAX_TEXTS

NEVER = float("inf")


class Gathered:
    """Lines of StatsD and spans, in their order. What has no room is dropped, and counted in `dropped`."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._spans: deque[bytes] = deque()
        self._size = 0  # of the spans
        self._next_at = 0.0
        self.due = NEVER  # when there is something to take
        self.dropped = 0

    def add_line(self, line: str, now: float) -> None:
        if len(self._lines) < MOST_LINES and 0 < len(line) <= MAX_SHORT_TEXT and "\0" not in line:
            self._lines.append(line)
            self._plan(now)
        else:
            self.dropped += 1

    def add_spans(self, message: bytes, now: float) -> None:
        """Add a message of OTLP. Two of them one after the other are one with the spans of both, as Protobuf has it."""
        if len(message) <= MOST_SPANS and self._size + len(message) <= MOST_WAITING:
            self._spans.append(message)
            self._size += len(message)
            self._plan(now)
        else:
            self.dropped += 1

    def _plan(self, now: float) -> None:
        if self.due == NEVER:
            self.due = max(now + GATHER, self._next_at)

    def take(self, now: float) -> bytes | None:
        """Return the payload that goes out now, if one does."""
        if now < self.due:
            return None
        lines = [self._lines.popleft() for _ in range(min(MAX_TEXTS, len(self._lines)))]
        spans = b""
        while self._spans and len(spans) + len(self._spans[0]) <= MOST_SPANS:
            spans += self._spans.popleft()
        self._size -= len(spans)
        payload = Telemetry.of(lines, spans).encode()
        self._next_at = now + max(INTERVAL, len(payload) / RATE)
        self.due = self._next_at if self._lines or self._spans else NEVER
        return payload
