"""The connection to the broker: paho-mqtt driven by the worker's own loop, one client object for each connection.

paho keeps its session in memory only, and what matters is in the journal, so nothing is carried over from one
connection to the next. PUBACKs are ignored but for the farewell's: they acknowledge hops, not meaning.
"""

import contextlib
import logging
import random
import selectors
import socket
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow_mqtt.protocol import packets
from airflow_mqtt.protocol.codec import MAX_DECODED_BYTES
from airflow_mqtt.protocol.packets import PacketLimit
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.settings import WorkerSettings

if TYPE_CHECKING:
    import paho.mqtt.client as paho

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 30.0

#: A connection that lasted this long was a good one: the next pause is short again.
SETTLED_AFTER = 10.0

#: TCP, TLS and DNS may take this long; the loop stands still meanwhile.
CONNECT_TIMEOUT = 5.0

#: From CONNECT to the granted subscriptions.
HANDSHAKE_TIMEOUT = 15.0

#: A broker that lets us in and cuts us off within `CUT_OFF_AFTER` seconds, this often in a row, does so for a reason.
#: Mosquitto does not say it: what it may not let pass ends the connection.
CUT_OFF_AFTER = 1.0
CUT_OFF_TIMES = 3
CUT_OFF_ADVICE = (
    "check account and access rules (mosquitto/acl), and that the broker takes messages of max_message_bytes"
)

#: How long a broker keeps the session of a worker that is away (MQTT 5).
SESSION_EXPIRY = 24 * 3600

#: The largest packet that is of use: a payload as large as `protocol.codec` takes, and its topic. A broker that speaks
#: MQTT 5 does not send a larger one.
MAX_PACKET_BYTES = MAX_DECODED_BYTES + 64 * 1024

#: MQTT 5 reason codes (section 3.14.2.1) and 3.1.1 return codes (section 3.2.2.3), as paho shows both.
UNSUPPORTED_VERSION = 0x84
TAKEN_OVER = 0x8E
KEEP_ALIVE_TIMEOUT = 0x8D  # so says paho of a PINGREQ that was not answered
DENIED = frozenset({0x86, 0x87})


#: What paho uses where it is installed, and a worker does not: SRV lookups and proxies.
OPTIONAL = ("dns", "socks")


def load_paho(*, tls: bool) -> Any:
    """Import paho's client without the modules that a worker has no use for: 7 MB of the 30 that it may take.

    `urllib.request` (with http, email and more) serves proxies, `hashlib` websockets, and `ssl` only mqtts://.
    paho catches `ssl.SSLWantReadError` on every socket, so its stand-in has that much.
    """
    hidden = ["urllib.request", *OPTIONAL] if tls else ["urllib.request", "hashlib", "ssl", *OPTIONAL]
    if "paho.mqtt.client" in sys.modules:
        hidden = []
    hidden = [name for name in hidden if name not in sys.modules]
    sys.modules.update({name: _stand_in(name) for name in hidden})
    try:
        from paho.mqtt import client  # noqa: PLC0415  see above
    finally:
        for name in hidden:
            del sys.modules[name]
    return client


def _stand_in(name: str) -> Any:
    """Return an empty module, or None, which makes the import an ImportError."""
    if name in OPTIONAL:
        return None
    module = types.ModuleType(name)
    if name == "ssl":
        for error in ("SSLWantReadError", "SSLWantWriteError", "CertificateError"):
            setattr(module, error, type(error, (OSError,), {}))
    return module


class LinkEvent(Enum):
    """What a link tells its owner besides messages."""

    UP = "up"  # connected, and the subscriptions are granted
    DOWN = "down"  # the connection is gone, or could not be made
    TAKEN_OVER = "taken over"  # another client came with our id


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message. `topic` is empty when it was not UTF-8."""

    topic: str
    payload: bytes
    retained: bool


def build_client(settings: WorkerSettings, client_id: str, *, v5: bool, clean: bool) -> "paho.Client":
    """Return a client with everything set but its will and its callbacks."""
    url = settings.broker_url
    module = load_paho(tls=url.tls)
    client: paho.Client = module.Client(
        module.CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if v5 else clean,
        protocol=module.MQTTv5 if v5 else module.MQTTv311,
        reconnect_on_failure=False,
    )
    client.connect_timeout = CONNECT_TIMEOUT
    client.on_socket_open = _send_at_once
    client.max_queued_messages_set(0)
    if url.username is not None:
        client.username_pw_set(url.username, url.password)
    if url.tls:
        client.tls_set(
            ca_certs=_text(settings.tls_ca_file),
            certfile=_text(settings.tls_cert_file),
            keyfile=_text(settings.tls_key_file),
        )
    return client


def _send_at_once(_client: Any, _data: Any, channel: Any) -> None:
    """Let no packet wait for the acknowledgement of the one before it (Nagle's algorithm): somebody waits for each."""
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _text(path: Any) -> str | None:
    return None if path is None else str(path)


def _properties(kind: str, **values: Any) -> Any:
    from paho.mqtt.packettypes import PacketTypes  # noqa: PLC0415  after `load_paho`
    from paho.mqtt.properties import Properties  # noqa: PLC0415

    properties: Any = Properties(getattr(PacketTypes, kind))  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def refusal(code: Any) -> str:
    """Return what a CONNACK that is a failure means to a person."""
    if code.value in DENIED:
        return f"access denied ({code}); check user, password and client id of broker_url"
    return f"refused ({code})"


def denial(topics: list[str]) -> str:
    """Return what a SUBACK without `topics` means to a person."""
    return f"the broker denies {', '.join(topics)}; check its access rules (mosquitto/acl)"


def connect(client: "paho.Client", settings: WorkerSettings, *, v5: bool, clean: bool) -> None:
    """Send CONNECT; `OSError` when the broker cannot be reached."""
    url = settings.broker_url
    if not v5:
        client.connect(url.host, url.port, settings.keepalive)
        return
    expiry = 0 if clean else SESSION_EXPIRY
    client.connect(
        url.host,
        url.port,
        settings.keepalive,
        clean_start=clean,
        properties=_properties("CONNECT", SessionExpiryInterval=expiry, MaximumPacketSize=MAX_PACKET_BYTES),
    )


class Link:
    """One connection at a time, made again for ever. `filters` are subscribed to at each."""

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
        self._begin = begin  # called before each CONNECT; returns topic and payload of the will
        self._client: paho.Client | None = None
        self._registered: Any = None
        self._interest = 0
        self._v5 = settings.mqtt_version != "3.1.1"
        self._opened = False  # whether this connection got as far as a socket
        self._answered = False  # … and as far as CONNACK
        self._let_in = False  # … and that let us in
        self._let_in_at: float | None = None
        self._cut_off = 0  # connections in a row that the broker ended soon after that
        self._up = False
        self._made_at = 0.0
        self._next_at = 0.0
        self._pause = FIRST_PAUSE
        self._said: set[str] = set()
        self._lost_at: float | None = None  # when the last good connection was lost, as far as is known
        self._farewell: int | None = None
        self._aliases: dict[str, Any] = {}  # topics that the broker knows by a number, and the properties that say it
        self._most_aliases = 0
        self._unacknowledged: dict[int, int] = {}  # number of a message -> size of its packet
        self._ended_by_broker = False
        self._too_large: set[str] = set()  # topics of which it was said
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
    def under_way(self) -> int:
        """How many publications the broker has not acknowledged."""
        return len(self._unacknowledged)

    def due(self, now: float) -> bool:
        """Whether it is time to connect."""
        return self._client is None and now >= self._next_at

    def deadline(self, now: float) -> float:
        if self._client is None:
            return self._next_at
        # paho sends PINGREQ, and notices a missing PINGRESP, in `loop_misc`.
        return now + min(5.0, self._settings.keepalive / 4)

    def was_away(self, now: float) -> bool:
        """Whether the last connection was lost so long ago that the broker may have given our name to another."""
        return self._lost_at is not None and now - self._lost_at >= self._settings.keepalive

    def take(self) -> tuple[list[Arrived], list[LinkEvent]]:
        messages, self._messages = self._messages, []
        events, self._events = self._events, []
        return messages, events

    # --- making a connection ------------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Begin a connection. Whether it comes about, `take` tells."""
        self._made_at = now
        self._answered = self._opened = self._let_in = False
        self._let_in_at = None
        self._unacknowledged.clear()
        self._why = ""  # what the last connection said after its end
        topic, will = self._begin()
        name = f"{self._settings.root.replace('/', '-')}-worker-{self._settings.name}"
        if self._secret:
            name += f"-{self._secret}"
        try:
            # A certificate is read here each time: one that was renewed is used, and one that is broken may be mended.
            client = self._client = build_client(self._settings, name, v5=self._v5, clean=False)
            self._prepare(client, topic, will)
            connect(client, self._settings, v5=self._v5, clean=False)
        except (OSError, ValueError) as error:
            self.failed(f"{type(error).__name__}: {error}", now)
            return
        self._watch()

    def _prepare(self, client: "paho.Client", topic: str, will: bytes) -> None:
        delay = int(min(5, self._settings.keepalive / 4))
        properties = _properties("WILLMESSAGE", WillDelayInterval=delay) if self._v5 else None
        client.will_set(topic, will, qos=1, retain=True, properties=properties)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_socket_close = self._on_socket_close

    def failed(self, why: str, now: float) -> None:
        """Give up this connection, and say why, once for each reason in an outage."""
        text = f"no connection to {self._settings.broker_url}: {why}"
        if text not in self._said:
            log.warning("%s; trying again for as long as it takes", text)
            self._said.add(text)
        self._lose(now)

    def _lose(self, now: float) -> None:
        self.short_lived = self._up and now - self._made_at < SETTLED_AFTER
        if self._up and now - self._made_at >= SETTLED_AFTER:
            self._pause = FIRST_PAUSE
        if self._opened and not self._answered:
            self.try_other_version()
        if self._ended_by_broker:
            self.limit.cut_off(max(self._unacknowledged.values(), default=0))
        self._ended_by_broker = False
        if self._up:
            # A link that went silent was lost a keep-alive ago: what has been heard since is nothing.
            self._lost_at = now - (self._settings.keepalive if self._silent else 0)
        self._silent = False
        self.drop()
        self._next_at = now + self._pause * random.uniform(0.5, 1.0)  # noqa: S311  no secret
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
        self._up = False
        self._events.append(LinkEvent.DOWN)

    def try_other_version(self) -> None:
        """A broker that does not speak MQTT 5 refuses, or closes without a word."""
        if self._settings.mqtt_version == "auto":
            self._v5 = not self._v5

    def drop(self) -> None:
        """Close the socket without a DISCONNECT."""
        self._unwatch()
        client, self._client = self._client, None
        if client is not None:
            client.on_disconnect = None
            channel = client.socket()
            if channel is not None:
                channel.close()

    # --- paho's callbacks ---------------------------------------------------------------------------------

    def _on_connect(self, client: Any, _data: Any, _flags: Any, code: Any, properties: Any) -> None:
        if code.value == UNSUPPORTED_VERSION:
            return  # as if it had not answered: the other version is next
        self._answered = True
        if code.is_failure:
            self._refused(refusal(code))
            return
        self._let_in = True
        self.limit.connected(getattr(properties, "MaximumPacketSize", None))
        self._aliases = {}
        self._most_aliases = getattr(properties, "TopicAliasMaximum", 0)
        client.subscribe([(topic, self._wanted(topic)) for topic in self._filters])

    def _wanted(self, topic: str) -> Any:
        """Return how `topic` is subscribed to: our own messages are not to come back, but for what we ask ourselves."""
        if not self._v5:
            return 1
        from paho.mqtt.subscribeoptions import SubscribeOptions  # noqa: PLC0415  after `load_paho`

        return SubscribeOptions(qos=1, noLocal=topic.endswith(f"/{TopicKind.STATUS}"))

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, codes: Any, _properties: Any) -> None:
        denied = [topic for topic, code in zip(self._filters, codes, strict=False) if code.is_failure]
        if denied:
            self._let_in = False  # it says why, so there is nothing to guess
            self._refused(denial(denied))
            return
        self._up = True
        self._said.clear()
        self._lost_at = None
        log.info("connected to %s with MQTT %s", self._settings.broker_url, "5" if self._v5 else "3.1.1")
        self._events.append(LinkEvent.UP)

    def _refused(self, why: str) -> None:
        self._why = why

    _why = ""
    _silent = False
    _heard = False  # something was read in this round

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self._messages.append(Arrived(topic, bytes(message.payload), message.retain))

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server and code.value == TAKEN_OVER:
            self._events.append(LinkEvent.TAKEN_OVER)
        self._silent = code.value == KEEP_ALIVE_TIMEOUT
        self._ended_by_broker = not self._silent
        if code.value == packets.TOO_LARGE:
            self.limit.refused(max(self._unacknowledged.values(), default=0))
        self._why = self._why or f"connection lost ({code})"

    def _on_publish(self, _client: Any, _data: Any, mid: int, code: Any, _properties: Any) -> None:
        size = self._unacknowledged.pop(mid, 0)
        if code.value == packets.TOO_LARGE:
            self.limit.refused(size)
        else:
            self.limit.acknowledged(size)
        if mid == self._farewell:
            self._farewell = None

    def _on_socket_close(self, _client: Any, _data: Any, channel: Any) -> None:
        """Paho closes its socket in the middle of its work, and the next that is opened may get its number."""
        if channel is self._registered:
            self._unwatch()

    # --- driving paho -------------------------------------------------------------------------------------

    def ready(self, mask: int) -> None:
        """The socket is readable or writable."""
        client = self._client
        if client is None:
            return
        try:
            if mask & selectors.EVENT_READ:
                self._heard = True
                client.loop_read()
                while client is self._client and _has_more(client):
                    client.loop_read()
            if mask & selectors.EVENT_WRITE:
                client.loop_write()
        except Exception as error:
            # paho raises whatever comes at what it cannot parse, such as a refusal of MQTT 3.1.1 in answer to 5.
            self._why = f"the broker's answer is not understood: {error}"

    def service(self, now: float) -> None:
        """Keep-alive, and what follows from the last reads and writes. Call it in each round of the loop."""
        if self._client is None:
            return
        if not self._why:
            self._client.loop_misc()
        if not self._why and not self._up and now - self._made_at > HANDSHAKE_TIMEOUT:
            self._why = "no answer from the broker"
        if self._client.socket() is None or self._why:
            why, self._why = self._why or "connection closed", ""
            self.failed(self._advised(why, now), now)
            return
        if self._let_in and self._let_in_at is None:
            self._let_in_at = now
        self._watch()

    def acknowledge(self) -> None:
        """Let TCP acknowledge what was read and has brought no answer. Call it when a round has sent what it has to.

        A broker that gathers small packets (Mosquitto without `set_tcp_nodelay`) sends a message behind a PUBACK only
        once that is acknowledged, and the kernel would put it off for 40 ms (tcp(7), TCP_QUICKACK; of Linux only).
        """
        heard, self._heard = self._heard, False
        if heard and self._registered is not None and hasattr(socket, "TCP_QUICKACK"):
            with contextlib.suppress(OSError):  # the connection has just ended
                self._registered.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _advised(self, why: str, now: float) -> str:
        """Add what to look at when one connection after another ends as soon as the broker has let us in."""
        # Without a time it was let in and cut off within one round.
        soon = self._let_in and (self._let_in_at is None or now - self._let_in_at <= CUT_OFF_AFTER)
        self._cut_off = self._cut_off + 1 if soon else 0
        return f"{why}; {CUT_OFF_ADVICE}" if self._cut_off >= CUT_OFF_TIMES else why

    def _watch(self) -> None:
        """Keep the selector's view of paho's socket right; paho makes and closes it as it likes."""
        client = self._client
        channel = None if client is None else client.socket()
        if client is None or channel is None:
            return
        interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.want_write() else 0)
        if self._registered is None:
            self._selector.register(channel, interest, self.ready)
            self._registered = channel
            self._opened = True
        elif interest != self._interest:
            self._selector.modify(channel, interest, self.ready)
        self._interest = interest

    def _unwatch(self) -> None:
        if self._registered is not None:
            self._selector.unregister(self._registered)
            self._registered = None

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send with QoS 1; without a connection it is dropped, since the journal has what matters.

        What the broker does not take would end the connection, and all that is on it; the core knows the limit.
        """
        size = packets.size_of(topic, payload)
        if self._client is None or not self._up:
            return
        if self.limit.fits(size):
            name, properties = self._alias(topic)
            sent = self._client.publish(name, payload, qos=1, retain=retain, properties=properties)
            self._unacknowledged[sent.mid] = size
            # paho takes nothing but a PINGREQ for a sign of life of ours, and sends one each `keepalive`.
            self._client._last_msg_out = time.monotonic()  # noqa: SLF001  it has no public way
        elif topic not in self._too_large:
            self._too_large.add(topic)
            log.error("%s: %d bytes are not sent, since the broker takes %s", topic, size, self.limit.packet)

    def _alias(self, topic: str) -> tuple[str, Any]:
        """Return what to say in place of `topic`: nothing, where the broker knows it by a number.

        It learns a number with the first message. (MQTT 5 section 3.3.2.3.4; 3.1.1 has none, so the maximum is 0.)
        A topic of logs is a job's, and soon of no use.
        """
        if topic in self._aliases:
            return "", self._aliases[topic]
        if len(self._aliases) < self._most_aliases and f"/{TopicKind.LOGS}/" not in topic:
            self._aliases[topic] = _properties("PUBLISH", TopicAlias=len(self._aliases) + 1)
        return topic, self._aliases.get(topic)

    def say_goodbye(self, topic: str, payload: bytes) -> None:
        """Publish the farewell; `goodbye_heard` tells when the broker has it."""
        if self._client is not None and self._up:
            self._farewell = self._client.publish(topic, payload, qos=1, retain=True).mid

    @property
    def goodbye_heard(self) -> bool:
        return self._farewell is None or self._client is None

    def disconnect(self) -> None:
        """End the connection in order: the broker drops the will."""
        if self._client is not None:
            self._client.on_disconnect = None
            self._client.disconnect()
            self._client.loop_write()
        self.drop()

    def reconnect(self, why: str, now: float) -> None:
        if self._client is not None:
            self.failed(why, now)


def _has_more(client: "paho.Client") -> bool:
    """Whether TLS holds decrypted bytes of which the selector does not know."""
    channel: Any = client.socket()
    pending = getattr(channel, "pending", None)
    return pending is not None and pending() > 0
