"""How large a packet the broker takes: as it says, or as is learnt from being cut off. Pure.

A broker that speaks MQTT 5 says its Maximum Packet Size in CONNACK (section 3.2.2.3.6), and refuses with 0x95 what is
larger for another reason. With MQTT 3.1.1 it ends the connection, and may have acknowledged the packet before that
(Mosquitto with `message_size_limit` and no bound of `max_queued_messages`); or it says nothing at all: some acknowledge
a message that they drop, and of those nothing can be learnt here.
"""

from dataclasses import dataclass

#: Reason code "Packet too large" of a PUBACK or DISCONNECT (section 2.4).
TOO_LARGE = 0x95

#: The least that a broker must take, in bytes, and the least limit that is learnt: all that has no way to be smaller
#: fits. A connection that ends while only smaller packets are under way has ended for another reason.
LEAST = 16 * 1024

#: What a payload leaves of a packet for the topic, where a queue's name takes up to 3 KiB, and the header.
ENVELOPE = 4096

#: A connection that ends while a large packet is under way may have been lost. After so many it was that packet.
CUT_OFF_TIMES = 3


@dataclass(slots=True)
class PacketLimit:
    """What is known of one broker. Sizes are those of whole packets, in bytes; `learnt` outlives a connection."""

    learnt: int | None = None
    announced: int | None = None
    passed: int = 0  # the largest that it has acknowledged on this connection
    latest: int = 0  # the packet acknowledged last, if it was large: it has passed once the connection outlives that
    suspect: int = 0  # of the largest that were under way when connections ended, the least
    times: int = 0  # how many such connections there were

    @property
    def packet(self) -> int | None:
        """The largest packet that may be sent, None while no limit is known."""
        return min((known for known in (self.learnt, self.announced) if known is not None), default=None)

    @property
    def payload(self) -> int | None:
        """The largest payload, on a topic of any length that is ours."""
        return None if self.packet is None else self.packet - min(ENVELOPE, self.packet // 2)

    def fits(self, size: int) -> bool:
        return self.packet is None or size <= self.packet

    def connected(self, announced: int | None) -> None:
        """Begin a connection. `announced` is the limit in the CONNACK, if there was one."""
        self.announced = announced
        self.passed = self.latest = 0

    def acknowledged(self, size: int) -> None:
        """The broker has acknowledged a packet of `size`, and taken those that it acknowledged before."""
        self._settle()
        self.latest = size if size > LEAST else 0

    def _settle(self) -> None:
        self.passed = max(self.passed, self.latest)
        if self.latest and self.latest >= self.suspect:
            self.suspect = self.times = 0
        self.latest = 0

    def refused(self, size: int) -> None:
        """The broker has said that a packet of `size` is too large."""
        self._settle()
        if size > LEAST:
            self.learnt = max(LEAST, self.passed, size // 2)
            self.suspect = self.times = 0

    def cut_off(self, size: int) -> bool:
        """The broker has ended the connection; `size` is that of the largest packet that it had not acknowledged.

        One that it has acknowledged just before counts as well. Return whether that may be the reason. A broker that
        has said its limit has another.
        """
        size, self.latest = max(size, self.latest), 0
        if self.announced is not None or size <= max(LEAST, self.passed):
            return False
        self.suspect = min(size, self.suspect or size)
        self.times += 1
        if self.times >= CUT_OFF_TIMES:
            self.refused(self.suspect)
        return True


def size_of(topic: str, payload: bytes) -> int:
    """Return about how large the packet of a PUBLISH is: with its header, and the properties that we give it."""
    return len(topic.encode()) + len(payload) + 16
