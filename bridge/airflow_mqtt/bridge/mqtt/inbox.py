"""From the wire to values: what does not decode is counted, logged once per sender and kind, and dropped."""

import logging
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from airflow_mqtt.bridge.bounds import Bound, Once, Room
from airflow_mqtt.bridge.dispatcher import Heard
from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import BridgeStatus, LogChunk, Request, WorkerInfo, WorkerStatus, decode_report
from airflow_mqtt.protocol.topics import Topic, TopicKind, Topics

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024

#: Messages that wait to be applied: in all, and of one worker. Its own window is 500 events, and 128 KiB of each log.
_WAITING: Final = Bound(50_000, 64 * _MIB)
_WAITING_OF_A_WORKER: Final = Bound(10_000, 16 * _MIB)


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a worker, as it arrived: `size` is that of its text in bytes."""

    worker: str
    request: Request
    size: int = 0


@dataclass(frozen=True, slots=True)
class Echo:
    """Our own message, back from the broker."""


@dataclass(frozen=True, slots=True)
class Other:
    """The status of the bridge, as the broker shows it to everybody."""

    status: BridgeStatus


Message = Heard | Call | Echo | Other


class Intake:
    """Decodes what the broker delivers. `dropped` counts what was not taken, by kind of topic or by why."""

    def __init__(self, topics: Topics, max_message_bytes: int) -> None:
        self._topics = topics
        self._max = max_message_bytes
        self._max_unpacked = codec.unpacked_limit(max_message_bytes)
        self._unsaid = Once()
        self._counted: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def take(self, topic: str, payload: bytes, *, retained: bool) -> Message | None:
        """Return what the message says, or None."""
        sender, kind = "", "topic"
        try:
            parsed = self._topics.parse(topic)
            sender, kind = parsed.worker, parsed.kind.value
            if len(payload) > self._max:
                raise PayloadError(f"{len(payload)} bytes are over max_message_bytes ({self._max})")
            return _decoded(parsed, codec.unpack(payload, max_bytes=self._max_unpacked), retained)
        except PayloadError as error:
            self._drop(sender, kind, topic, error)
            return None

    def _drop(self, sender: str, kind: str, topic: str, error: PayloadError) -> None:
        self.dropped[kind] += 1
        if self._unsaid(sender, kind):
            log.warning("dropped a message on %.200r (logged once per sender and kind): %s", topic, error)

    def say_dropped(self) -> None:
        """Log how many messages were dropped since the last time, if any were."""
        fresh = self.dropped - self._counted
        if fresh:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(fresh.items()))
            log.warning("dropped %d messages more, %d in all: %s", fresh.total(), self.dropped.total(), kinds)
        self._counted = self.dropped.copy()


class Backlog:
    """What was heard and waits to be applied. What there is no room for is dropped: its worker sends it again."""

    def __init__(self, dropped: Counter[str]) -> None:
        self._room = Room(total=_WAITING, each=_WAITING_OF_A_WORKER)
        self._heard: deque[Heard] = deque()
        self._dropped = dropped

    def __len__(self) -> int:
        return len(self._heard)

    def add(self, heard: Heard) -> None:
        if self._room.enter(heard.worker, heard.size):
            self._heard.append(heard)
        else:
            self._dropped["no room"] += 1

    def take(self, count: int) -> list[Heard]:
        """Return the first `count`, which wait no more."""
        taken = [self._heard.popleft() for _ in range(min(count, len(self._heard)))]
        for heard in taken:
            self._room.leave(heard.worker, heard.size)
        return taken


def _decoded(topic: Topic, plain: bytes, retained: bool) -> Message | None:
    if not plain:
        return None  # somebody clears a retained message
    size = len(plain)
    match topic.kind:
        case TopicKind.STATUS:
            return Heard(topic.worker, WorkerStatus.decode(plain), live=not retained, size=size)
        case TopicKind.INFO:
            return Heard(topic.worker, WorkerInfo.decode(plain), live=not retained, size=size)
        case TopicKind.EVENTS:
            return Heard(topic.worker, decode_report(plain), size=size)
        case TopicKind.LOGS:
            chunk = LogChunk.decode(plain)
            _ = chunk.data  # decodes now, where a malformed one is the sender's fault
            return Heard(topic.worker, chunk, job=topic.job, size=size)
        case TopicKind.REQUEST:
            return Call(topic.worker, Request.decode(plain), size)
        case TopicKind.BRIDGE_STATUS:
            return Other(BridgeStatus.decode(plain))
        case TopicKind.BRIDGE_ECHO:
            return Echo()
    raise PayloadError(f"nothing is expected on {topic.kind} topics")
