"""What flows over one link, as a meter there would count it.

    with Wire(broker.port) as wire:
        worker = WorkerProcess(..., broker.url(NAME, port=wire.port))
        wire.clear(); ...; count = wire.count(); print(wire.table())

Bytes on the wire are those of TCP's payload and, for each segment in either direction, a header of IP and TCP with
time stamps. The kernel counts the segments, acknowledgements too (`struct tcp_info` in linux/tcp.h).
"""

import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.topics import Topics
from proxy import Direction, Proxy

#: IPv4, TCP, and its option for time stamps, as on a loopback device and most links.
SEGMENT_BYTES = 52

#: Where `struct tcp_info` has `tcpi_segs_out` and `tcpi_segs_in`.
_SEGMENTS = struct.Struct("136xII")

_PACKETS = {
    1: "CONNECT", 2: "CONNACK", 3: "PUBLISH", 4: "PUBACK", 8: "SUBSCRIBE", 9: "SUBACK", 12: "PINGREQ", 13: "PINGRESP",
    14: "DISCONNECT",
}  # fmt: skip

#: Properties of a PUBLISH that ours and brokers send, by identifier: the size of the value (MQTT 5 section 2.2.2.2).
_PROPERTIES = {0x01: 1, 0x02: 4, 0x23: 2}
_TOPIC_ALIAS = 0x23

#: (which way, what)
Kind = tuple[str, str]


@dataclass
class _Stream:
    """The packets of one direction of one connection."""

    arrow: str
    pipe: Any
    v5: bool = False
    buffer: bytearray = field(default_factory=bytearray)
    aliases: dict[int, str] = field(default_factory=dict)

    def feed(self, data: bytes) -> list[tuple[str, int, bytes]]:
        """Return (kind, size in bytes, payload of a message) of each packet that `data` completes."""
        self.buffer += data
        found = []
        while (packet := self._next()) is not None:
            found.append(packet)
        return found

    def _next(self) -> tuple[str, int, bytes] | None:
        length, size = 0, 1
        while True:
            if len(self.buffer) <= size:
                return None
            byte = self.buffer[size]
            length |= (byte & 0x7F) << (7 * (size - 1))
            size += 1
            if byte < 0x80:
                break
        if len(self.buffer) < size + length:
            return None
        first, body = self.buffer[0], bytes(self.buffer[size : size + length])
        del self.buffer[: size + length]
        kind = _PACKETS.get(first >> 4, str(first >> 4))
        payload = b""
        if kind == "PUBLISH":
            kind, payload = self._message(first, body)
        return kind, size + length, payload

    def _message(self, first: int, body: bytes) -> tuple[str, bytes]:
        end = 2 + int.from_bytes(body[:2], "big")
        topic = body[2:end].decode()
        end += 2 if first & 0x06 else 0
        if self.v5:
            stop = end + 1 + body[end]
            alias, end = _alias(body[end + 1 : stop]), stop
            if alias:
                topic = self.aliases.setdefault(alias, topic) if not topic else self._learn(alias, topic)
        return _name(topic), body[end:]

    def _learn(self, alias: int, topic: str) -> str:
        self.aliases[alias] = topic
        return topic


def _alias(properties: bytes) -> int:
    while properties:
        kind, size = properties[0], _PROPERTIES[properties[0]]
        if kind == _TOPIC_ALIAS:
            return int.from_bytes(properties[1 : 1 + size], "big")
        properties = properties[1 + size :]
    return 0


def _name(topic: str) -> str:
    try:
        return Topics().parse(topic).kind.value
    except PayloadError:
        return topic


@dataclass(frozen=True)
class Count:
    """What passed: packets and their bytes by kind, and the segments of all of it."""

    packets: Counter[Kind]
    sizes: Counter[Kind]
    segments: int

    @property
    def messages(self) -> int:
        """How many messages were published, of either side."""
        return sum(count for (_, kind), count in self.packets.items() if not kind.isupper())

    @property
    def bytes(self) -> int:
        """Bytes on the wire, TCP/IP included."""
        return sum(self.sizes.values()) + SEGMENT_BYTES * self.segments

    def table(self) -> str:
        rows = [f"{'':2} {'what':16} {'packets':>8} {'bytes':>8}"]
        for (arrow, kind), count in sorted(self.packets.items()):
            rows.append(f"{arrow:2} {kind:16} {count:8} {self.sizes[arrow, kind]:8}")
        headers = SEGMENT_BYTES * self.segments
        rows += [f"   {'TCP/IP':16} {self.segments:8} {headers:8}", f"   {'all':16} {self.messages:8} {self.bytes:8}"]
        return "\n".join(rows)


class Wire(Proxy):
    """A proxy that reads along. `payloads` has (which way, what, payload) of each message."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self._streams: dict[int, _Stream] = {}
        self._packets: Counter[Kind] = Counter()
        self._sizes: Counter[Kind] = Counter()
        self._segments_before = 0
        self.payloads: list[tuple[str, str, bytes]] = []

    def clear(self) -> None:
        """Count from here on."""
        with self._lock:
            self._packets.clear()
            self._sizes.clear()
            self.payloads.clear()
            self._segments_before = self._segments()

    def count(self) -> Count:
        with self._lock:
            return Count(self._packets.copy(), self._sizes.copy(), self._segments() - self._segments_before)

    def _segments(self) -> int:
        clients = [pipe.source for pipe in self._pipes if pipe.direction is Direction.UP]
        return sum(sum(_SEGMENTS.unpack_from(_tcp_info(client))) for client in clients)

    def _sent(self, pipe: Any, due: float, data: bytes, sent: int) -> None:
        super()._sent(pipe, due, data, sent)
        stream = self._stream(pipe)
        arrow = stream.arrow
        if not stream.v5 and data[:1] == b"\x10":
            self._learn_version(pipe, data)
        for kind, size, payload in stream.feed(data[:sent]):
            self._packets[arrow, kind] += 1
            self._sizes[arrow, kind] += size
            if not kind.isupper():
                self.payloads.append((arrow, kind, payload))

    def _learn_version(self, pipe: Any, connect: bytes) -> None:
        version = connect[connect.index(b"MQTT") + 4]
        for other in self._pipes:
            if other.source in (pipe.source, pipe.target):
                self._stream(other).v5 = version == 5

    def _stream(self, pipe: Any) -> _Stream:
        if id(pipe) not in self._streams:
            # Kept with it: the next one would get the number of one that is gone, and so what was known of that.
            self._streams[id(pipe)] = _Stream("->" if pipe.direction is Direction.UP else "<-", pipe)
        return self._streams[id(pipe)]


def _tcp_info(channel: socket.socket) -> bytes:
    return channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
