"""From the wire to values: what does not decode is counted, logged once per sender and kind, and dropped."""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Final

from airflow_mqtt.bridge.dispatcher import Heard
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import (
    BridgeStatus,
    LogChunk,
    Request,
    WorkerInfo,
    WorkerStatus,
    decode_report,
)
from airflow_mqtt.protocol.topics import Topic, TopicKind, Topics

log = logging.getLogger(__name__)

#: Senders that are remembered as logged. A device can invent topics, so the memory has a bound.
_REMEMBERED: Final = 10_000


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
    """Decodes what the broker delivers. `dropped` counts what it did not take, by kind of topic."""

    def __init__(self, topics: Topics, max_message_bytes: int) -> None:
        self._topics = topics
        self._max = max_message_bytes
        self._logged: set[tuple[str, str]] = set()
        self.dropped: Counter[str] = Counter()

    def take(self, topic: str, payload: bytes, *, retained: bool) -> Message | None:
        """Return what the message says, or None."""
        sender, kind = "", "topic"
        try:
            parsed = self._topics.parse(topic)
            sender, kind = parsed.worker, parsed.kind.value
            if len(payload) > self._max:
                raise PayloadError(f"{len(payload)} bytes are over max_message_bytes ({self._max})")
            return _decoded(parsed, payload, retained)
        except PayloadError as error:
            self._drop(sender, kind, topic, error)
            return None

    def _drop(self, sender: str, kind: str, topic: str, error: PayloadError) -> None:
        self.dropped[kind] += 1
        if (sender, kind) not in self._logged and len(self._logged) < _REMEMBERED:
            self._logged.add((sender, kind))
            log.warning("dropped a message on %s (logged once per sender and kind): %s", topic[:200], error)


def _decoded(topic: Topic, payload: bytes, retained: bool) -> Message | None:
    if not payload:
        return None  # somebody clears a retained message
    match topic.kind:
        case TopicKind.STATUS:
            return Heard(topic.worker, WorkerStatus.decode(payload), live=not retained)
        case TopicKind.INFO:
            return Heard(topic.worker, WorkerInfo.decode(payload), live=not retained)
        case TopicKind.EVENTS:
            return Heard(topic.worker, decode_report(payload))
        case TopicKind.LOGS:
            chunk = LogChunk.decode(payload)
            _ = chunk.data  # decodes now, where a malformed one is the sender's fault
            return Heard(topic.worker, chunk, job=topic.job)
        case TopicKind.REQUEST:
            return Call(topic.worker, Request.decode(payload), len(payload))
        case TopicKind.BRIDGE_STATUS:
            return Other(BridgeStatus.decode(payload))
        case TopicKind.BRIDGE_ECHO:
            return Echo()
    raise PayloadError(f"nothing is expected on {topic.kind} topics")
