"""One attempt at a connection to the broker: paho-mqtt, driven by the worker's own loop.

paho keeps its session in memory only, and what matters is in the journal, so nothing is carried over from one
connection to the next. PUBACKs say how much is under way, and are ignored besides: they acknowledge hops, not meaning.
"""

import contextlib
import math
import selectors
import socket
import struct
import sys
import time
import types
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from airflow_mqtt.protocol import packets
from airflow_mqtt.protocol.codec import MAX_DECODED_BYTES
from airflow_mqtt.protocol.packets import PacketLimit
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.mqtt.dial import Dial
from airflow_mqtt.worker.settings import WorkerSettings

if TYPE_CHECKING:
    import paho.mqtt.client as paho

#: Each address of the broker may take this long to answer, and the handshake of TLS.
CONNECT_TIMEOUT = 5.0

#: The broker's name, its addresses, and TLS together.
DIAL_TIMEOUT = 30.0

#: From CONNECT to the granted subscriptions.
HANDSHAKE_TIMEOUT = 15.0

#: … which is looked at this often, at least.
HANDSHAKE_STEP = 5.0

#: What paho says of its times is not taken at its word more often than this.
SHORTEST_SLEEP = 0.1

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

#: Where `struct tcp_info` of Linux has `tcpi_bytes_acked` and `tcpi_bytes_received` (linux/tcp.h).
_TRAFFIC = struct.Struct("120xQQ")


class Phase(Enum):
    """How far an attempt got. It goes from each to the next, or to the last."""

    DIALING = "dialing"  # the broker's name is looked up, its addresses are tried
    GREETING = "greeting"  # CONNECT is sent
    SUBSCRIBING = "subscribing"  # the broker has let us in
    UP = "up"  # it has granted the subscriptions
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message. `topic` is empty when it was not UTF-8."""

    topic: str
    payload: bytes
    retained: bool


class Connection:
    """Begins when it is made. Call `service` in each round: it is over when `phase` is ENDED, and `why` says why.

    `will` is a topic and a payload; a connection without one leaves no session behind.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        selector: selectors.BaseSelector,
        client_id: str,
        filters: list[str],
        now: float,
        *,
        v5: bool,
        will: tuple[str, bytes] | None = None,
        limit: PacketLimit | None = None,
    ) -> None:
        self._settings = settings
        self._selector = selector
        self._filters = filters
        self._v5 = v5
        self._began = now
        self._greeted_at: float | None = None
        self._registered: Any = None
        self._interest = 0
        self._heard = False  # something was read in this round
        self._dial: Dial | None = None
        self.phase = Phase.DIALING
        self.why = ""
        self.answered = False  # the broker has said yes or no in this version of MQTT
        self.let_in_at: float | None = None  # as far as `service` has seen
        self.was_let_in = False
        self.taken_over = False  # another client came with our id
        self.silent = False  # the broker has not answered for a keep-alive
        self.ended_by_broker = False  # or on the way to it
        self._aliases: dict[str, Any] = {}  # topics that the broker knows by a number, and the properties that say it
        self._most_aliases = 0
        self.unacknowledged: dict[int, int] = {}  # number of a message -> size of its packet
        self._traffic: tuple[int, int] | None = None  # of its socket, when that was closed
        self._limit = PacketLimit() if limit is None else limit  # what the broker takes
        self.messages: list[Arrived] = []
        self.client: paho.Client | None = None
        try:
            # A certificate is read here each time: one that was renewed is used, and one that is broken may be mended.
            client = self.client = build_client(settings, client_id, v5=v5, clean=will is None)
            self._prepare(client, will)
            self._dial = Dial(lambda: _dial(client), selector)
        except (OSError, ValueError) as error:
            self.end(f"{type(error).__name__}: {error}")

    def _prepare(self, client: "paho.Client", will: tuple[str, bytes] | None) -> None:
        if will is not None:
            delay = int(min(5, self._settings.keepalive / 4))
            properties = _properties("WILLMESSAGE", WillDelayInterval=delay) if self._v5 else None
            client.will_set(*will, qos=1, retain=True, properties=properties)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_socket_close = self._on_socket_close
        url = self._settings.broker_url
        if not self._v5:
            client.connect_async(url.host, url.port, self._settings.keepalive)
            return
        expiry = 0 if will is None else SESSION_EXPIRY
        properties = _properties("CONNECT", SessionExpiryInterval=expiry, MaximumPacketSize=MAX_PACKET_BYTES)
        client.connect_async(
            url.host, url.port, self._settings.keepalive, clean_start=will is None, properties=properties
        )

    @property
    def reached(self) -> bool:
        """Whether there was a socket to a broker."""
        return self._greeted_at is not None

    def _greet(self, dial: Dial, now: float) -> None:
        """Take the socket over from the dial, and send CONNECT."""
        self._dial = None
        client = self.client
        assert client is not None
        try:
            channel = dial.take()
            client._create_socket = lambda: channel  # type: ignore[method-assign]  # noqa: SLF001  it would wait
            client.reconnect()
        except (OSError, ValueError) as error:
            self.end(f"{type(error).__name__}: {error}")
            return
        self.phase = Phase.GREETING
        self._greeted_at = now
        self._watch()

    # --- its end ------------------------------------------------------------------------------------------

    def end(self, why: str) -> None:
        """Close the socket without a DISCONNECT, so that the broker publishes the will."""
        self.why = self.why or why
        self.drop()

    def drop(self) -> None:
        self.phase = Phase.ENDED
        if self._dial is not None:
            self._dial.give_up()
            self._dial = None
        self._unwatch()
        client, self.client = self.client, None
        if client is not None:
            client.on_disconnect = None
            channel = client.socket()
            if channel is not None:
                channel.close()

    def disconnect(self) -> None:
        """End it in order: the broker drops the will."""
        if self.client is not None and self.phase is not Phase.DIALING:
            self.client.on_disconnect = None
            self.client.disconnect()
            self.client.loop_write()
        self.drop()

    # --- paho's callbacks ---------------------------------------------------------------------------------

    def _on_connect(self, client: Any, _data: Any, _flags: Any, code: Any, properties: Any) -> None:
        if code.value == UNSUPPORTED_VERSION:
            return  # as if it had not answered: the other version is next
        self.answered = True
        if code.is_failure:
            self.why = refusal(code)
            return
        self.was_let_in = True
        self.phase = Phase.SUBSCRIBING
        self._limit.connected(getattr(properties, "MaximumPacketSize", None))
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
            self.was_let_in = False  # it says why, so there is nothing to guess
            self.why = denial(denied)
            return
        self.phase = Phase.UP

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self.messages.append(Arrived(topic, bytes(message.payload), message.retain))

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        self.taken_over = flags.is_disconnect_packet_from_server and code.value == TAKEN_OVER
        self.silent = code.value == KEEP_ALIVE_TIMEOUT
        self.ended_by_broker = not self.silent
        if code.value == packets.TOO_LARGE:
            self._limit.refused(self.largest_under_way)
        self.why = self.why or f"connection lost ({code})"

    def _on_publish(self, _client: Any, _data: Any, mid: int, code: Any, _properties: Any) -> None:
        size = self.unacknowledged.pop(mid, 0)
        if code.value == packets.TOO_LARGE:
            self._limit.refused(size)
        else:
            self._limit.acknowledged(size)

    def _on_socket_close(self, _client: Any, _data: Any, channel: Any) -> None:
        """Paho closes its socket in the middle of its work, and the next that is opened may get its number."""
        if channel is self._registered:
            self._unwatch()

    # --- driving paho -------------------------------------------------------------------------------------

    def ready(self, mask: int) -> None:
        """The socket is readable or writable."""
        client = self.client
        if client is None:
            return
        try:
            if mask & selectors.EVENT_READ:
                self._heard = True
                client.loop_read()
                while client is self.client and _has_more(client):
                    client.loop_read()
            if mask & selectors.EVENT_WRITE:
                client.loop_write()
        except Exception as error:
            # paho raises whatever comes at what it cannot parse, such as a refusal of MQTT 3.1.1 in answer to 5.
            self.why = f"the broker's answer is not understood: {error}"

    def service(self, now: float) -> None:
        """Keep-alive, time limits, and what follows from the last reads and writes."""
        if self.client is None:
            return
        if self._dial is not None:
            if self._dial.done:
                self._greet(self._dial, now)
            elif now - self._began > DIAL_TIMEOUT:
                url = self._settings.broker_url
                self.end(f"{url.host} was not found, or not reached, within {DIAL_TIMEOUT:g} s")
            return
        if not self.why:
            self.client.loop_misc()
        greeted = self._greeted_at or 0.0
        if not self.why and self.phase is not Phase.UP and now - greeted > HANDSHAKE_TIMEOUT:
            self.why = "no answer from the broker"
        if self.client.socket() is None or self.why:
            self.end("connection closed")
            return
        if self.was_let_in and self.let_in_at is None:
            self.let_in_at = now
        self._watch()

    def deadline(self, now: float) -> float:
        if self.phase is Phase.ENDED:
            return now
        if self.phase is Phase.DIALING:
            return self._began + DIAL_TIMEOUT
        if self.phase is not Phase.UP or self.client is None:
            return now + HANDSHAKE_STEP
        return max(now + SHORTEST_SLEEP, _silent_since(self.client) + self._settings.keepalive)

    def acknowledge(self) -> None:
        """Let TCP acknowledge what was read and has brought no answer. Call it when a round has sent what it has to.

        A broker that gathers small packets (Mosquitto without `set_tcp_nodelay`) sends a message behind a PUBACK only
        once that is acknowledged, and the kernel would put it off for 40 ms (tcp(7), TCP_QUICKACK; of Linux only).
        """
        heard, self._heard = self._heard, False
        if heard and self._registered is not None and hasattr(socket, "TCP_QUICKACK"):
            with contextlib.suppress(OSError):  # the connection has just ended
                self._registered.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> int:
        """Send; return the packet's id, which with QoS 1 is in `unacknowledged` until the broker has it."""
        assert self.client is not None
        name, properties = self._alias(topic)
        mid: int = self.client.publish(name, payload, qos=qos, retain=retain, properties=properties).mid
        if qos:
            self.unacknowledged[mid] = packets.size_of(topic, payload)
        # paho takes nothing but a PINGREQ for a sign of life of ours, and sends one each `keepalive`.
        self.client._last_msg_out = time.monotonic()  # noqa: SLF001  it has no public way
        return mid

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

    @property
    def traffic(self) -> tuple[int, int] | None:
        """Bytes that came and went, with those of TLS; None where the system does not tell (it is not Linux)."""
        return self._traffic if self._registered is None else traffic_of(self._registered)

    @property
    def largest_under_way(self) -> int:
        """Bytes of the largest packet that the broker has not acknowledged."""
        return max(self.unacknowledged.values(), default=0)

    def _watch(self) -> None:
        """Keep the selector's view of paho's socket right; paho makes and closes it as it likes."""
        client = self.client
        channel = None if client is None else client.socket()
        if client is None or channel is None:
            return
        interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.want_write() else 0)
        if self._registered is None:
            self._selector.register(channel, interest, self.ready)
            self._registered = channel
        elif interest != self._interest:
            self._selector.modify(channel, interest, self.ready)
        self._interest = interest

    def _unwatch(self) -> None:
        if self._registered is not None:
            self._traffic = traffic_of(self._registered)
            self._selector.unregister(self._registered)
            self._registered = None


# --- paho -------------------------------------------------------------------------------------------------

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


def _silent_since(client: "paho.Client") -> float:
    """Return since when one of both ends has been silent, or a PINGREQ unanswered.

    `keepalive` later paho sends a PINGREQ, or takes the link for lost: in `loop_misc`, by these times of its.
    """
    asked = client._ping_t or math.inf  # noqa: SLF001  it has no public way
    return min(asked, client._last_msg_out, client._last_bytes_received)  # noqa: SLF001


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


def _dial(client: "paho.Client") -> Any:
    """Resolve, connect, and shake hands over TLS, as paho does it; in a thread, which touches nothing else of paho."""
    return client._create_socket()  # noqa: SLF001  it has no other name for it


def traffic_of(channel: Any) -> tuple[int, int] | None:
    """Return how many bytes came and went on a socket of TCP, as its kernel counts them; None where it does not."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        sent, received = _TRAFFIC.unpack(channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TRAFFIC.size))
    except (OSError, struct.error):  # an older kernel's is shorter
        return None
    return received, sent


def _has_more(client: "paho.Client") -> bool:
    """Whether TLS holds decrypted bytes of which the selector does not know."""
    channel: Any = client.socket()
    pending = getattr(channel, "pending", None)
    return pending is not None and pending() > 0
