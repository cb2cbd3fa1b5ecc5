"""From the wire to values, in fair turns.

What arrives is put into the lane of its sender as it is, as long as the sender's share has room, and before anything is
decoded. Lanes take turns, so that a sender that sends more than others waits longer than others, and nobody waits for
it. One that costs more than its share rests until that is paid for. What does not decode is counted, logged once per
sender and kind, and dropped.
"""

import heapq
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from airflow_mqtt.bridge.bounds import Bound, Once, Quota, Share
from airflow_mqtt.bridge.calls.gate import Call
from airflow_mqtt.bridge.dispatch.reports import Heard
from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import (
    Born,
    BridgeStatus,
    LogChunk,
    LogPart,
    Parcel,
    Request,
    Telemetry,
    WorkerInfo,
    WorkerStatus,
    decode_report,
)
from airflow_mqtt.protocol.topics import RETAINED, Topic, TopicKind, Topics

log = logging.getLogger(__name__)

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

#: Messages that wait to be looked at: in all, and of one worker. Its own window is 500 events, and 128 KiB of each log.
_WAITING: Final = Bound(100_000, 64 * _MIB)
_WAITING_OF_A_WORKER: Final = Bound(2_000, 8 * _MIB)

#: What a message may unpack to, by what it is: a status has a dozen fields, a birth lists 2,048 jobs at most, a chunk
#: of log has 16 KiB, or six times as many when each character is escaped.
_UNPACKED: Final = {
    TopicKind.STATUS: 16 * _KIB,
    TopicKind.INFO: 256 * _KIB,
    TopicKind.EVENTS: 512 * _KIB,
    TopicKind.LOGS: _MIB,
    TopicKind.TELEMETRY: 256 * _KIB,
}

#: What a sender may cost in a second, and in how many seconds at once: messages, and bytes of their unpacked text. A
#: worker with a thousand slots needs a part of it. Past it, its messages wait in its lane.
_MESSAGES: Final = 1_000
_BYTES: Final = 4 * _MIB
_BURST: Final = 2.0

#: Messages that one job in the list of a birth counts as: a row is read for it, and an order may be the answer.
_HELD: Final = 0.25

#: Bytes of a message from which on it is decoded outside of the event's loop.
LARGE: Final = 32 * _KIB

#: Packed bytes from which on that holds: they may unpack to a thousand times as many.
_LARGE_PACKED: Final = 2 * _KIB


@dataclass(frozen=True, slots=True)
class Echo:
    """Our own message, back from the broker."""


@dataclass(frozen=True, slots=True)
class Other:
    """The status of the bridge, as the broker shows it to everybody."""

    status: BridgeStatus


@dataclass(frozen=True, slots=True)
class Stale:
    """A message that the broker had retained on a topic on which nothing is: nobody shall get it again."""

    topic: str


@dataclass(frozen=True, slots=True)
class Calm:
    """What was kept is a status: what moves jobs are events and calls, so that nobody waits for it."""


@dataclass(slots=True)
class Raw:
    """A message as it arrived. What it costs is known when it has been decoded: in messages, and in bytes."""

    topic: Topic
    payload: bytes
    retained: bool
    pieces: float = 1.0
    size: int = 0

    @property
    def is_large(self) -> bool:
        size = len(self.payload)
        return size > LARGE or (size > _LARGE_PACKED and self.payload[:1] == codec.ZLIB_MAGIC)


@dataclass(frozen=True, slots=True)
class Opened:
    """What was in a parcel: reports, which come first, and the calls of each job."""

    reports: tuple[Heard, ...]
    chains: tuple[tuple[Call, ...], ...]


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a worker's tasks have for a monitoring system."""

    worker: str
    message: Telemetry


_CALM: Final = Calm()

Message = Heard | Call | Opened | Echo | Other | Relayed


class Inbox:
    """Lanes of messages. `received` counts what came by kind of topic, `dropped` what was not taken by that or by why.

    `clock` is one that is never set.
    """

    def __init__(self, topics: Topics, max_message_bytes: int, *, clock: Callable[[], float]) -> None:
        self._topics = topics
        self._max = max_message_bytes
        self._max_unpacked = codec.unpacked_limit(max_message_bytes)
        self._quota = Quota(total=_WAITING, each=_WAITING_OF_A_WORKER)
        self._lanes: dict[str, list[Raw]] = {}  # most are of one message, for which a deque would be large
        self._turns: deque[str] = deque()  # senders whose next message may be taken
        self._clock = clock
        self._share = Share(pieces=_MESSAGES, size=_BYTES, burst=_BURST)
        self._resting: list[tuple[float, str]] = []  # senders that have used up their share, and until when
        self._unsaid = Once()
        self._counted: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.received_bytes = 0

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def rests_until(self) -> float:
        """When there is something to take, if nothing arrives before."""
        return self._resting[0][0] if self._resting else math.inf

    def put(self, topic: str, payload: bytes, *, retained: bool) -> Echo | Other | Stale | Calm | None:
        """Keep a message for its turn, if there is room; return what it says, if nobody has to wait its turn."""
        try:
            parsed = self._topics.parse(topic)
        except PayloadError as error:
            self._drop("", "topic", topic, error)
            return None
        self.received[parsed.kind.value] += 1
        self.received_bytes += len(payload)
        if retained and parsed.kind not in RETAINED:
            self.dropped["retained"] += 1
            return Stale(topic)
        raw = Raw(parsed, payload, retained)
        if not parsed.worker:
            return self.decode(raw)  # type: ignore[return-value]
        if not payload:
            return None  # somebody clears a retained message
        if self._quota.enter(parsed.worker, len(payload)):
            self._add(raw)
        else:
            self.dropped["no room"] += 1
        return _CALM if parsed.kind is TopicKind.STATUS else None

    def _add(self, raw: Raw) -> None:
        sender = raw.topic.worker
        lane = self._lanes.get(sender)
        if lane is None:
            self._lanes[sender] = [raw]
            self._line_up(sender)
        else:
            lane.append(raw)

    def _line_up(self, sender: str) -> None:
        now = self._clock()
        wait = self._share.wait(sender, now)
        if wait > 0:
            heapq.heappush(self._resting, (now + wait, sender))
        else:
            self._turns.append(sender)

    def take(self, count: int) -> Iterator[Raw]:
        """Take up to `count` messages, one of each sender in turn. Each is decoded before the next is asked for.

        After a large one its sender's lane stands until `done`: it is decoded elsewhere, and order matters.
        """
        while self._resting and self._resting[0][0] <= self._clock():
            self._turns.append(heapq.heappop(self._resting)[1])
        while self._turns and count > 0:
            count -= 1
            sender = self._turns.popleft()
            raw = self._lanes[sender].pop(0)
            yield raw
            if not raw.is_large:
                self.done(raw)

    def done(self, raw: Raw) -> None:
        """Have the sender of `raw`, which has been decoded, pay for it, and let its next message come.

        Until then it has its room: of those that are decoded elsewhere many may wait for a thread.
        """
        sender = raw.topic.worker
        self._quota.leave(sender, len(raw.payload))
        self._share.use(sender, self._clock(), pieces=raw.pieces, size=max(raw.size, len(raw.payload)))
        if self._lanes[sender]:
            self._line_up(sender)
        else:
            del self._lanes[sender]

    def decode(self, raw: Raw) -> Message | None:
        """Return what a message says, or None."""
        topic = raw.topic
        try:
            if len(raw.payload) > self._max:
                raise PayloadError(f"{len(raw.payload)} bytes are over max_message_bytes ({self._max})")
            raw.size = limit = min(self._max_unpacked, _UNPACKED.get(topic.kind, self._max_unpacked))
            plain = codec.unpack(raw.payload, max_bytes=limit)
            raw.size = len(plain)
            message = _decoded(topic, plain, raw.retained)
            if isinstance(message, Heard) and isinstance(message.message, Born):
                raw.pieces += _HELD * len(message.message.holds)
            elif isinstance(message, Opened):  # each of its parts is paid for as if it had come by itself
                raw.pieces += max(0, len(message.reports) + sum(map(len, message.chains)) - 1)
            return message
        except Exception as error:  # one of another kind is a mistake of ours: it would end one leader after the other
            self._drop(topic.worker, topic.kind.value, topic.kind.value, error)
        return None

    def _drop(self, sender: str, kind: str, topic: str, error: Exception) -> None:
        self.dropped[kind] += 1
        if self._unsaid(sender, kind):
            of = f"of worker {sender}" if sender else "of nobody"
            log.warning(
                "dropped a message %s on %.200r (logged once per sender and kind): %s", of, topic, error,
                exc_info=None if isinstance(error, PayloadError) else error,
            )  # fmt: skip

    def say_dropped(self) -> None:
        """Log how many messages were dropped since the last time, if any were."""
        fresh = self.dropped - self._counted
        if fresh:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(fresh.items()))
            log.warning("dropped %d messages more, %d in all: %s", fresh.total(), self.dropped.total(), kinds)
        self._counted = self.dropped.copy()


def _decoded(topic: Topic, plain: bytes, retained: bool) -> Message | None:
    size = len(plain)
    match topic.kind:
        case TopicKind.STATUS:
            return Heard(topic.worker, WorkerStatus.decode(plain), live=not retained, size=size)
        case TopicKind.INFO:
            return Heard(topic.worker, WorkerInfo.decode(plain), live=not retained, size=size)
        case TopicKind.EVENTS:
            report = decode_report(plain)
            return (
                _opened(topic.worker, report) if isinstance(report, Parcel) else Heard(topic.worker, report, size=size)
            )
        case TopicKind.LOGS:
            chunk = LogChunk.decode(plain)
            _ = chunk.data  # decodes now, where a malformed one is the sender's fault
            return Heard(topic.worker, chunk, job=topic.job, size=size)
        case TopicKind.REQUEST:
            return Call(topic.worker, Request.decode(plain), size)
        case TopicKind.TELEMETRY:
            return Relayed(topic.worker, Telemetry.decode(plain))
        case TopicKind.BRIDGE_STATUS:
            return Other(BridgeStatus.decode(plain)) if plain else None
        case TopicKind.BRIDGE_ECHO:
            return Echo()
    raise PayloadError(f"nothing is expected on {topic.kind} topics")


def _opened(worker: str, parcel: Parcel) -> Opened:
    reports: list[Heard] = []
    chains: dict[str, list[Call]] = {}
    for part in parcel.messages():
        match part:
            case Request():
                size = len(part.body or "") + len(part.path) + len(part.query)
                chains.setdefault(part.job, []).append(Call(worker, part, size))
            case LogPart():
                reports.append(Heard(worker, part, job=part.job, size=len(part.data)))
            case _:
                reports.append(Heard(worker, part))
    return Opened(tuple(reports), tuple(map(tuple, chains.values())))
