"""The control packets that come and go with each job, as bytes: PUBLISH and PUBACK of MQTT 5 and 3.1.1. Pure.

paho makes objects of what it reads and of what it is to send, takes a lock for each, asks the socket for single bytes,
and writes each packet by itself. All that the bridge does with a message costs less. What comes once a connection, or
once a minute, is left to paho.
"""

import struct
from typing import Final, NamedTuple

#: The first byte of a packet, without its flags (section 2.1.2).
PUBLISH: Final = 0x30
PUBACK: Final = 0x40
KIND: Final = 0xF0

#: Bytes after the length of a packet, at most (section 1.5.5).
_LONGEST: Final = 268_435_455

#: Of a message: for how many seconds a broker keeps it (section 3.3.2.3.3).
_EXPIRY: Final = struct.Struct("!BBI")
_EXPIRY_INTERVAL: Final = 0x02
_NONE: Final = b"\0"


class Packet(NamedTuple):
    """Where a packet is in what was read: its first byte, and where its body begins and ends."""

    command: int
    start: int
    end: int


class Publication(NamedTuple):
    """What a broker sent; `number` is that by which it is acknowledged, None for QoS 0.

    A topic that is no UTF-8 is none of ours, and looks like it.
    """

    topic: str
    payload: bytes
    retained: bool
    number: int | None


def packet_at(read: bytes | bytearray, at: int) -> Packet | int:
    """Return the packet that begins at `at`; if not all of it is there, how many bytes are missing at least.

    Raises `ValueError` when its length has more than four bytes.
    """
    length = shift = 0
    position = at + 1
    end = len(read)
    while shift < 28:
        if position >= end:
            return 1
        digit = read[position]
        position += 1
        length |= (digit & 127) << shift
        if digit < 128:
            missing = position + length - end
            return missing if missing > 0 else Packet(read[at], position, position + length)
        shift += 7
    raise ValueError("a packet whose length has more than four bytes")


def publication(command: int, body: bytes | bytearray, *, has_properties: bool) -> Publication:
    """Return what a PUBLISH says (section 3.3): its first byte, and what follows its length.

    `has_properties`: it is of MQTT 5. Raises `ValueError` when it is none, or of QoS 2, which is not subscribed to.
    """
    try:
        at = 2 + (body[0] << 8 | body[1])
        topic = body[2:at].decode("utf-8", "replace")
        number = None
        qos = command >> 1 & 3
        if qos == 1:
            number = body[at] << 8 | body[at + 1]
            at += 2
        if has_properties:
            at = _behind_properties(body, at)
    except IndexError:
        raise ValueError("a PUBLISH ends before its payload") from None
    if qos > 1 or at > len(body):
        raise ValueError(f"a PUBLISH of QoS {qos}, whose payload begins at {at} of {len(body)}")
    return Publication(topic, bytes(body[at:]), bool(command & 1), number)


def _behind_properties(body: bytes | bytearray, at: int) -> int:
    """Return where they end that begin at `at` with their length, a variable byte integer."""
    length = shift = 0
    while shift < 28:
        digit = body[at]
        at += 1
        length |= (digit & 127) << shift
        if digit < 128:
            return at + length
        shift += 7
    raise ValueError("properties whose length has more than four bytes")


def acknowledged(body: bytes | bytearray) -> tuple[int, int]:
    """Return the number that a PUBACK acknowledges, and its reason code (section 3.4). Raises `ValueError`."""
    if len(body) < 2:
        raise ValueError("a PUBACK without a number")
    return body[0] << 8 | body[1], body[2] if len(body) > 2 else 0


def publish(
    topic: str, payload: bytes, *, number: int | None, retain: bool, expiry: int | None, has_properties: bool
) -> bytes:
    """Return the PUBLISH of a message, with QoS 1 if it has a `number`, else 0. `expiry` is in seconds, of MQTT 5.

    Raises `ValueError` for what MQTT has no form for.
    """
    name = topic.encode()
    if not 0 < len(name) <= 0xFFFF or b"+" in name or b"#" in name or b"\0" in name:
        raise ValueError(f"{topic!r:.200} is no topic that a message can have")
    head = len(name).to_bytes(2, "big") + name
    if number is not None:
        head += number.to_bytes(2, "big")
    if has_properties:
        head += _NONE if expiry is None else _EXPIRY.pack(5, _EXPIRY_INTERVAL, expiry)
    length = len(head) + len(payload)
    if length > _LONGEST:
        raise ValueError(f"a message of {len(payload)} bytes is larger than MQTT allows")
    command = PUBLISH | (number is not None) << 1 | retain
    return bytes((command, *_digits(length))) + head + payload


def _digits(length: int) -> list[int]:
    """Return a variable byte integer."""
    digits = []
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    return [*digits, length]


def puback(number: int) -> bytes:
    """Return the PUBACK of the message with this number."""
    return bytes((PUBACK, 2, number >> 8, number & 0xFF))
