"""A PUBLISH as it came, read as far as the bridge asks for it. Pure.

paho makes objects of its properties, which nobody looks at, and of all else. With MQTT 5 that takes some fifteen times
as long as this.
"""

from typing import NamedTuple


class Publication(NamedTuple):
    """What a broker sent; `number` is that by which it is acknowledged, None for QoS 0.

    A topic that is no UTF-8 is none of ours, and looks like it.
    """

    topic: str
    payload: bytes
    retained: bool
    number: int | None


def parse(command: int, body: bytes | bytearray, *, has_properties: bool) -> Publication:
    """Return what a packet says (MQTT 5 and 3.1.1, section 3.3): its first byte, and what follows its length.

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
    """Return where they end that begin at `at` with their length, a variable byte integer (section 1.5.5)."""
    length = shift = 0
    while shift < 28:
        digit = body[at]
        at += 1
        length |= (digit & 127) << shift
        if digit < 128:
            return at + length
        shift += 7
    raise ValueError("properties whose length has more than four bytes")
