"""The link to the broker: one connection at a time, made again for ever."""

import logging
import random
import selectors
from collections.abc import Callable
from enum import Enum

from airflow_mqtt.protocol import packets
from airflow_mqtt.protocol.packets import PacketLimit
from airflow_mqtt.worker.mqtt.connection import Arrived, Connection, Phase
from airflow_mqtt.worker.settings import WorkerSettings

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 30.0

#: A connection that lasted this long was a good one: the next pause is short again.
SETTLED_AFTER = 10.0

#: A broker that lets us in and cuts us off within `CUT_OFF_AFTER` seconds, this often in a row, does so for a reason.
#: Mosquitto does not say it: what it may not let pass ends the connection.
CUT_OFF_AFTER = 1.0
CUT_OFF_TIMES = 3
CUT_OFF_ADVICE = (
    "check account and access rules (mosquitto/acl), and that the broker takes messages of max_message_bytes"
)


class LinkEvent(Enum):
    """What a link tells its owner besides messages."""

    UP = "up"  # connected, and the subscriptions are granted
    DOWN = "down"  # the connection is gone, or could not be made
    TAKEN_OVER = "taken over"  # another client came with our id


class Link:
    """Says when to try again. `filters` are subscribed to at each connection."""

    def __init__(
        self,
        settings: WorkerSettings,
        filters: list[str],
        selector: selectors.BaseSelector,
        begin: Callable[[], tuple[str, bytes]],
        *,
        limit: PacketLimit | None = None,
        secret: str = "",
    ) -> None:
        self._settings = settings
        self._filters = filters
        self._selector = selector
        self._secret = secret  # of the client id, so that nobody else can come with it
        self._begin = begin  # called before each attempt; returns topic and payload of the will
        self._connection: Connection | None = None
        self._v5 = settings.mqtt_version != "3.1.1"
        self._cut_off = 0  # connections in a row that the broker ended soon after it let us in
        self._up = False
        self._made_at = 0.0
        self._next_at = 0.0
        self._pause = FIRST_PAUSE
        self._said: set[str] = set()
        self._lost_at: float | None = None  # when the last good connection was lost, as far as is known
        self._farewell: int | None = None
        self._too_large: set[str] = set()  # topics of which it was said
        self.said = "not connected yet"  # how the connection is, for people
        self._passed = (0, 0)  # bytes that came and went on connections that are over
        self.limit = PacketLimit() if limit is None else limit  # what the broker takes
        self._messages: list[Arrived] = []
        self._events: list[LinkEvent] = []
        self.short_lived = False  # the last connection was lost soon after it was made

    @property
    def v5(self) -> bool:
        return self._v5

    @property
    def up(self) -> bool:
        return self._up

    @property
    def phase(self) -> Phase:
        """How far the attempt under way has got; ENDED while there is none."""
        return Phase.ENDED if self._connection is None else self._connection.phase

    @property
    def under_way(self) -> int:
        """How many publications the broker has not acknowledged."""
        return 0 if self._connection is None else len(self._connection.unacknowledged)

    @property
    def traffic(self) -> tuple[int, int] | None:
        """Bytes that came and went on all connections; None where the system does not tell."""
        return None if self._connection is None else _sum(self._passed, self._connection.traffic)

    def due(self, now: float) -> bool:
        """Whether it is time to connect."""
        return self._connection is None and now >= self._next_at

    def deadline(self, now: float) -> float:
        return self._next_at if self._connection is None else self._connection.deadline(now)

    def was_away(self, now: float) -> bool:
        """Whether the last connection was lost so long ago that the broker may have given our name to another."""
        return self._lost_at is not None and now - self._lost_at >= self._settings.keepalive

    def take(self) -> tuple[list[Arrived], list[LinkEvent]]:
        messages, self._messages = self._messages, []
        events, self._events = self._events, []
        return messages, events

    # --- making a connection ------------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Begin a connection, and return at once. Whether it comes about, `take` tells."""
        self._made_at = now
        name = f"{self._settings.root.replace('/', '-')}-worker-{self._settings.name}"
        if self._secret:
            name += f"-{self._secret}"
        will = self._begin()
        self._connection = Connection(
            self._settings, self._selector, name, self._filters, now, v5=self._v5, will=will, limit=self.limit
        )

    def service(self, now: float) -> None:
        """Do what follows from the last reads and writes. Call it in each round of the loop."""
        connection = self._connection
        if connection is None:
            return
        connection.service(now)
        self._messages += connection.messages
        connection.messages = []
        if connection.phase is Phase.UP and not self._up:
            self._came_up(now)
        if connection.phase is Phase.ENDED:
            self._came_down(connection, now)

    def _came_up(self, now: float) -> None:
        self._up = True
        self._made_at = now
        self._said.clear()
        self._lost_at = None
        self.said = f"connected to {self._settings.broker_url} with MQTT {'5' if self._v5 else '3.1.1'}"
        log.info("%s", self.said)
        self._events.append(LinkEvent.UP)

    def _came_down(self, connection: Connection, now: float) -> None:
        if connection.taken_over:
            self._events.append(LinkEvent.TAKEN_OVER)
        if connection.reached and not connection.answered:
            self.try_other_version()
        if connection.ended_by_broker:
            self.limit.cut_off(connection.largest_under_way)
        self.failed(self._advised(connection, now), now, silent=connection.silent)

    def _advised(self, connection: Connection, now: float) -> str:
        """Add what to look at when one connection after another ends as soon as the broker has let us in."""
        # Without a time it was let in and cut off within one round.
        let_in_at = connection.let_in_at
        soon = connection.was_let_in and (let_in_at is None or now - let_in_at <= CUT_OFF_AFTER)
        self._cut_off = self._cut_off + 1 if soon else 0
        return f"{connection.why}; {CUT_OFF_ADVICE}" if self._cut_off >= CUT_OFF_TIMES else connection.why

    def failed(self, why: str, now: float, *, silent: bool = False) -> None:
        """Give up this connection, and say why, once for each reason in an outage. `silent`: nobody had answered."""
        self.said = text = f"no connection to {self._settings.broker_url}: {why}"
        if text not in self._said:
            log.warning("%s; trying again for as long as it takes", text)
            self._said.add(text)
        settled = now - self._made_at >= SETTLED_AFTER
        self.short_lived = self._up and not settled
        if self._up:
            # A link that went silent was lost a keep-alive ago: what has been heard since is nothing.
            self._lost_at = now - (self._settings.keepalive if silent else 0)
            if settled:
                self._pause = FIRST_PAUSE
        self.drop()
        self._next_at = now + self._pause * random.uniform(0.5, 1.0)  # noqa: S311  no secret
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
        self._events.append(LinkEvent.DOWN)

    def try_other_version(self) -> None:
        """A broker that does not speak MQTT 5 refuses, or closes without a word."""
        if self._settings.mqtt_version == "auto":
            self._v5 = not self._v5

    def reconnect(self, why: str, now: float) -> None:
        if self._connection is not None:
            self.failed(why, now)

    def drop(self) -> None:
        """Close the socket without a DISCONNECT."""
        connection, self._connection = self._connection, None
        self._up = False
        if connection is not None:
            connection.drop()
            self._passed = _sum(self._passed, connection.traffic) or self._passed

    # --- using it -----------------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """See `Connection.acknowledge`."""
        if self._connection is not None:
            self._connection.acknowledge()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Send; without a connection it is dropped, since the journal has what matters.

        What the broker does not take would end the connection, and all that is on it; the core knows the limit.
        """
        if self._connection is None or not self._up:
            return
        size = packets.size_of(topic, payload)
        if self.limit.fits(size):
            self._connection.publish(topic, payload, retain=retain, qos=qos)
        elif topic not in self._too_large:
            self._too_large.add(topic)
            log.error("%s: %d bytes are not sent, since the broker takes %s", topic, size, self.limit.packet)

    def say_goodbye(self, topic: str, payload: bytes) -> None:
        """Publish the farewell; `goodbye_heard` tells when the broker has it."""
        if self._connection is not None and self._up:
            self._farewell = self._connection.publish(topic, payload, retain=True)

    @property
    def goodbye_heard(self) -> bool:
        return self._connection is None or self._farewell not in self._connection.unacknowledged

    def disconnect(self) -> None:
        """End the connection in order: the broker drops the will."""
        if self._connection is not None:
            self._connection.disconnect()
        self.drop()


def _sum(one: tuple[int, int], other: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if other is None else (one[0] + other[0], one[1] + other[1])
