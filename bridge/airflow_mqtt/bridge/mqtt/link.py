"""The shell around the broker: one connection at a time, made again for ever, and known to receive.

aiomqtt does not reconnect by itself and acknowledges messages before we see them. Both are harmless here: what
matters is numbered and acknowledged by the protocol itself, and a new connection makes workers introduce themselves.
"""

import asyncio
import logging
import os
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self

import aiomqtt
from paho.mqtt.client import MQTT_ERR_PROTOCOL, MQTT_ERR_SUCCESS
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions
from tenacity import RetryCallState, wait_random_exponential

from airflow_mqtt.bridge.bounds import Bound, Quota
from airflow_mqtt.bridge.cancellation import pause, raise_if_cancelled
from airflow_mqtt.bridge.mqtt import publications
from airflow_mqtt.bridge.mqtt.losses import Losses
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.config.bridge import BridgeSettings
from airflow_mqtt.protocol import packets
from airflow_mqtt.protocol.errors import first_of
from airflow_mqtt.protocol.packets import PacketLimit
from airflow_mqtt.protocol.topics import RETAINED, TopicKind, Topics

log = logging.getLogger(__name__)

#: Seconds within which the broker must acknowledge a publication.
_ACK_TIMEOUT: Final = 20.0

#: Seconds from CONNECT to CONNACK. A NATS cluster that has just lost a node takes its time.
_HANDSHAKE_TIMEOUT: Final = 20.0

#: Seconds in which a DISCONNECT must have been written: a broker that does not read takes none.
_DISCONNECT_TIMEOUT: Final = 2.0

#: Seconds for the SUBACK. A NATS cluster that has just lost a node elects a leader for each new subscription: some
#: seconds each.
_SUBSCRIBE_TIMEOUT: Final = 60.0

#: Seconds between two messages to ourselves, and after how many without one we connect anew.
ECHO_INTERVAL: Final = 10.0
ECHO_TIMEOUT: Final = 25.0

#: Reason codes of a SUBACK from here on are failures (MQTT 5 section 3.9.3, MQTT 3.1.1 section 3.9.3).
_FAILURE: Final = 0x80

#: Reason code of a DISCONNECT (MQTT 5 section 3.14.2.1), and what paho says of a PINGREQ that was not answered.
_TAKEN_OVER: Final = 0x8E
_KEEP_ALIVE_TIMEOUT: Final = 0x8D

#: Reason codes of a CONNACK, as paho shows those of both versions: bad user name or password, not authorized.
_DENIED: Final = frozenset({0x86, 0x87})

#: Seconds. A connection that ends sooner than this after its CONNACK, and the next one too, is one that a broker ends:
#: Mosquitto does so with who may not write what it must.
_SHORT: Final = 1.0

_KEEPALIVE: Final = 20

#: What is on its way to the broker and not acknowledged. What is dropped past it is sent again later. It is the only
#: bound: with one of paho's own (`max_inflight_messages`), each PUBACK looks through all that wait for theirs.
_UNDER_WAY: Final = Bound(50_000, 64 * 1024 * 1024)

#: Bytes that are read at once. What they hold is handed on without a break: some dozens of messages.
_READ: Final = 8 * 1024

_VERSIONS: Final = {
    "5": (aiomqtt.ProtocolVersion.V5,),
    "3.1.1": (aiomqtt.ProtocolVersion.V311,),
    "auto": (aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311),
}

#: Topics of which it is said that what should go there is too large for the broker.
_MAX_SAID: Final = 100

Receive = Callable[[str, bytes, bool], None]


class DeafError(aiomqtt.MqttError):
    """The connection stands, but our own messages do not come back."""


class DeniedError(aiomqtt.MqttError):
    """The broker grants this account no subscription that the bridge needs."""


class _Client(aiomqtt.Client):
    """Notices a connection that ends before CONNACK (aiomqtt 2 would wait for the whole timeout), and leaves none open.

    When connecting is cancelled or takes too long, aiomqtt keeps the socket and answers for it: a second client of our
    id. So it does when DISCONNECT cannot be written.
    """

    def __init__(self, *arguments: Any, receive: Receive, limit: PacketLimit, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limit = limit
        self.taken_over = False
        self.learnt = False  # its end may be due to a packet that was too large
        self._abandoned = False
        self._receive = receive
        self._quota = Quota(each=_UNDER_WAY)
        self._under_way: dict[int, tuple[int, int]] = {}  # number of a message -> bytes of its payload, of its packet
        self._is_of_five = options["protocol"] is aiomqtt.ProtocolVersion.V5
        # paho has no public way to any of these.
        self._client._handle_publish = self._handle_publish  # type: ignore[method-assign] # noqa: SLF001
        self._client.disable_logger()  # it is asked for each packet, and what is to be said is said here
        self._arrived = b""  # what was read, of which paho has taken what is before `_taken`
        self._taken = 0
        self._receive_bytes = self._client._sock_recv  # noqa: SLF001
        self._client._sock_recv = self._take_bytes  # type: ignore[assignment] # noqa: SLF001
        self._thread = threading.get_ident()

    def send(self, message: Outgoing, properties: Properties | None) -> bool:
        """Publish without waiting for the PUBACK; return whether there was room for one message more to wait for it.

        `aiomqtt.Client.publish` makes a task and an event for each message and counts all that wait, which costs more
        than all else that the bridge does for it.
        """
        size = len(message.payload)
        if message.qos and not self._quota.enter(None, size):
            return False
        try:
            info = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        except BaseException:
            if message.qos:
                self._quota.leave(None, size)
            raise
        if message.qos and info.rc == MQTT_ERR_SUCCESS and not info.is_published():
            self._under_way[info.mid] = (size, packets.size_of(message.topic, message.payload))
        elif message.qos:
            self._quota.leave(None, size)
        return True

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def _on_publish(self, *arguments: Any) -> None:
        found = self._under_way.pop(arguments[2], None)
        if found is None:
            self._limit.acknowledged(0)
            super()._on_publish(*arguments)
            return
        size, packet = found
        self._quota.leave(None, size)
        if _value(arguments[3]) == packets.TOO_LARGE:
            self._limit.refused(packet)
        else:
            self._limit.acknowledged(packet)

    def _handle_publish(self) -> MQTTErrorCode:
        """Hand a message on at once, in the place of paho: aiomqtt would make two tasks for each."""
        packet: Any = self._client._in_packet  # noqa: SLF001
        try:
            found = publications.parse(packet["command"], packet["packet"], has_properties=self._is_of_five)
        except ValueError:
            return MQTT_ERR_PROTOCOL
        self._receive(found.topic, found.payload, found.retained)
        return MQTT_ERR_SUCCESS if found.number is None else self._client._send_puback(found.number)  # noqa: SLF001

    # --- its socket: aiomqtt goes through the loop for each message that comes, and three times for one that goes ---

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        super()._on_socket_open(client, userdata, sock)
        self._loop.call_soon_threadsafe(self._loop.add_reader, sock.fileno(), self._read)  # in the place of aiomqtt's

    def _read(self) -> None:
        """Hand on all that has been read with one look at the socket."""
        try:
            while self._client.loop_read() == MQTT_ERR_SUCCESS and self._has_arrived():
                pass
        except Exception as error:
            self._break(error)

    def _has_arrived(self) -> bool:
        """Whether there is more to hand on, of which no loop would tell us."""
        if self._taken < len(self._arrived):
            return True
        sock: Any = self._client.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def _take_bytes(self, size: int) -> bytes:
        """Return the next bytes, `size` at most. paho asks for one, and for one more: a look at the socket each."""
        if self._taken >= len(self._arrived):
            self._arrived, self._taken = self._receive_bytes(max(size, _READ)), 0
        taken = self._arrived[self._taken : self._taken + size]
        self._taken += len(taken)
        return taken

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        """Write at the next turn of the loop what is there by then; wait for the socket only when it takes no more."""
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._write, sock)
        else:  # the one that connects
            super()._on_socket_register_write(client, userdata, sock)

    def _write(self, sock: Any) -> None:
        try:
            self._client.loop_write()
        except Exception as error:
            self._break(error)
        if self._client.socket() is sock and self._client.want_write():
            super()._on_socket_register_write(self._client, None, sock)

    def _break(self, error: Exception) -> None:
        """It is usually a sign that the connection broke."""
        if not self._disconnected.done():
            self._disconnected.set_exception(error)

    async def until_lost(self) -> None:
        """Wait until the connection has ended; raise `MqttError` from what aiomqtt noticed."""
        await asyncio.wait([self._disconnected])
        raise aiomqtt.MqttError("the connection ended") from self._disconnected.exception()

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:
            self._abandoned = True
            self._loop.call_soon(self._hang_up)  # after what the connecting thread has scheduled
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, traceback)
        finally:
            self._hang_up()

    def _client_connect(self) -> None:
        """In a thread, which no cancellation ends."""
        super()._client_connect()
        if self._abandoned:
            self._loop.call_soon_threadsafe(self._hang_up)

    def _hang_up(self) -> None:
        self._client._sock_close()  # noqa: SLF001  paho has no public way

    def _on_connect(self, *arguments: Any) -> None:
        if not self._connected.done():
            self._limit.connected(getattr(arguments[4], "MaximumPacketSize", None))
        super()._on_connect(*arguments)

    def _on_disconnect(self, *arguments: Any) -> None:
        self._learn(_value(arguments[3]))
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("the connection ended before CONNACK"))
        super()._on_disconnect(*arguments)

    def _learn(self, code: int) -> None:
        """Take from the end of a connection what it says of the broker; 0 is our own end."""
        self.taken_over = self.taken_over or code == _TAKEN_OVER
        largest = max((packet for _, packet in self._under_way.values()), default=0)
        if code == packets.TOO_LARGE:
            self._limit.refused(largest)
            self.learnt = True
        elif code not in (0, _KEEP_ALIVE_TIMEOUT):
            self.learnt = self._limit.cut_off(largest) or self.learnt
        self._under_way.clear()


def _value(code: Any) -> int:
    return int(getattr(code, "value", code or 0))


class Link:
    """The connection to the broker. `publish` drops what cannot be sent now: everything is sent again later."""

    def __init__(
        self,
        settings: BridgeSettings,
        topics: Topics,
        *,
        will: Outgoing,
        dropped: Counter[str] | None = None,
        telemetry: bool = False,
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry  # whether it is listened to
        self._dropped = Counter[str]() if dropped is None else dropped
        self._topics = topics
        self._will = will
        self._client: _Client | None = None
        self._v5 = False
        self._expiries: dict[int, Properties] = {}
        self._echoed = asyncio.Event()
        self._lost = asyncio.Event()
        self._said: set[str] = set()  # in this outage, which ends when we have heard ourselves
        self._short_ones = 0  # connections in a row that ended right after CONNACK
        self._losses = Losses()
        self.limit = PacketLimit()  # what the broker takes
        self.sent = 0  # messages, and the bytes of their payloads
        self.sent_bytes = 0
        self._too_large: set[str] = set()  # topics of which it was said
        # Who comes with our client id throws us off. Nobody else knows it: `bridge/status` names the instance alone.
        self._secret = os.urandom(8).hex()

    async def run(self, receive: Receive, connected: Callable[[], None], lost: Callable[[], None]) -> None:
        """Connect and receive, again and again, until cancelled. Raises `ThrownOffError` when that is of no use."""
        wait = wait_random_exponential(multiplier=0.5, max=15)
        versions = deque(_VERSIONS[self._settings.mqtt_version])
        failures, proven = 0, False
        while True:
            made_at: float | None = None
            try:
                async with self._connect(versions[0], receive) as client:
                    client.timeout = _DISCONNECT_TIMEOUT  # of all that waits, only this has no timeout of its own
                    made_at, proven = time.monotonic(), True
                    await self._serve(client, connected)
            except* (aiomqtt.MqttError, OSError) as group:
                error = first_of(group)
                self._say_lost(error, made_at)
                if made_at is None and _speaks_another(error, proven=proven):
                    versions.rotate(1)
            finally:
                self._client = None
                self._lost.set()
                lost()
            raise_if_cancelled()
            if made_at is not None and not client.learnt:
                self._losses.add(time.monotonic(), taken_over=client.taken_over)
            failures = 1 if made_at is not None and not self._short_ones else failures + 1
            state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
            state.attempt_number = failures
            await asyncio.sleep(0.2 + wait(state))

    def _say_lost(self, error: BaseException, made_at: float | None) -> None:
        """Say why there is no connection, once for each reason in an outage."""
        if made_at is not None:
            self._short_ones = self._short_ones + 1 if time.monotonic() - made_at < _SHORT else 0
        text = _reason(error)
        if made_at is not None and self._short_ones > 1 and not isinstance(error, DeniedError):
            text = "it ends each connection at once; check account and access rules (mosquitto/acl)"
        if text not in self._said:
            log.warning("broker %s: %s; trying again for as long as it takes", self._settings.broker_url, text)
            self._said.add(text)

    def _say_made(self) -> None:
        log.info("connected to broker %s", self._settings.broker_url)
        self._said.clear()
        self._short_ones = 0

    def _connect(self, version: aiomqtt.ProtocolVersion, receive: Receive) -> _Client:
        settings, url = self._settings, self._settings.broker_url
        self._v5 = version is aiomqtt.ProtocolVersion.V5
        will = aiomqtt.Will(self._will.topic, self._will.payload, self._will.qos, self._will.retain)
        return _Client(
            url.host,
            url.port,
            username=url.username,
            password=url.password,
            identifier=f"{settings.root.replace('/', '-')}-bridge-{settings.instance}-{self._secret}",
            protocol=version,
            clean_session=None if self._v5 else True,
            will=will,
            keepalive=_KEEPALIVE,
            tls_context=_tls(settings) if url.tls else None,
            timeout=_HANDSHAKE_TIMEOUT,
            max_inflight_messages=0,
            # Small packets must not wait for acknowledgements of earlier ones: 40 ms each.
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
            receive=receive,
            limit=self.limit,
        )

    async def _serve(self, client: _Client, connected: Callable[[], None]) -> None:
        filters = self._topics.of_bridge(telemetry=self._telemetry)
        filters[self._topics.bridge_echo(self._settings.instance)] = TopicKind.BRIDGE_ECHO
        raise_if_cancelled()
        self._echoed.set()
        async with asyncio.TaskGroup() as group:
            stands = group.create_task(client.until_lost(), name="wait for the end of the connection")
            asked: list[tuple[str, Any]] = [(name, self._how(kind)) for name, kind in filters.items()]
            _check(filters, await client.subscribe(asked, timeout=_SUBSCRIBE_TIMEOUT))
            raise_if_cancelled()
            self._client, self._lost = client, asyncio.Event()
            connected()
            group.create_task(self._echo(client), name="listen to ourselves")
            await stands

    def _how(self, kind: TopicKind) -> int | SubscribeOptions:
        """How to subscribe: with QoS 1, and on MQTT 5 without what is retained where nothing should be."""
        if not self._v5:
            return 1
        handling = (
            SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if kind in RETAINED else SubscribeOptions.RETAIN_DO_NOT_SEND
        )
        return SubscribeOptions(qos=1, retainHandling=handling)

    async def _echo(self, client: aiomqtt.Client) -> None:
        """Raise `DeafError` when what we publish to ourselves does not arrive.

        A connection may stand and deliver nothing (a broker that lost our subscriptions, a half-open path): Celery's
        workers are known for it. "Connected" is not "receiving".
        """
        topic = self._topics.bridge_echo(self._settings.instance)
        heard = False
        while True:
            self._echoed.clear()
            await client.publish(topic, b"{}", qos=1, timeout=_ACK_TIMEOUT)
            raise_if_cancelled()
            if not await pause(self._echoed, ECHO_TIMEOUT):
                raise DeafError("connected, but nothing is received")
            if not heard:
                self._say_made()
                heard = True
            await asyncio.sleep(ECHO_INTERVAL)

    @property
    def under_way(self) -> int:
        """Messages that the broker has not acknowledged yet."""
        return 0 if self._client is None else self._client.under_way

    def echoed(self) -> None:
        self._echoed.set()

    def send(self, messages: Iterable[Outgoing]) -> bool:
        """Publish `messages` in their order, and wait for nothing; return whether all are on their way."""
        client, sent = self._client, True
        if client is None:
            return False
        for message in messages:
            if not self._fits(message):
                continue
            try:
                if client.send(message, self._properties(message)):
                    self.sent += 1
                    self.sent_bytes += len(message.payload)
                else:
                    self._dropped["not sent"] += 1
                    sent = False
            except (
                OSError,
                ValueError,
            ) as error:  # the connection is ending; a topic or payload that MQTT has no form for
                log.warning("a message was not published: %s", error)
                sent = False
        return sent

    def _fits(self, message: Outgoing) -> bool:
        """Whether the broker takes `message`, as far as is known. It would end the connection, again and again."""
        if self.limit.packet is None or self.limit.fits(packets.size_of(message.topic, message.payload)):
            return True
        self._dropped["too large for the broker"] += 1
        if message.topic not in self._too_large and len(self._too_large) < _MAX_SAID:
            self._too_large.add(message.topic)
            size = len(message.payload)
            log.error("%.200r: %d bytes are not sent: the broker takes %s", message.topic, size, self.limit.packet)
        return False

    async def publish(self, messages: list[Outgoing]) -> bool:
        """Publish `messages` in their order, as far as a connection allows; return whether all were."""
        client = self._client
        if client is None or not messages:
            return not messages
        under_way = asyncio.gather(
            *(self._publish_one(client, message) for message in messages if self._fits(message)),
            return_exceptions=True,
        )
        if not await self._finished(under_way):
            log.warning("the connection was lost while %d messages were published", len(messages))
            return False
        failed = [result for result in under_way.result() if isinstance(result, BaseException)]
        for error in failed[:1]:
            log.warning("%d of %d messages were not published: %s", len(failed), len(messages), error)
        return not failed

    async def _finished(self, under_way: "asyncio.Future[list[BaseException | None]]") -> bool:
        """Wait for publications, but not longer than their connection stands: aiomqtt would wait for their PUBACKs."""
        lost = asyncio.ensure_future(self._lost.wait())
        under_way.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else may look
        try:
            waited: set[asyncio.Future[Any]] = {under_way, lost}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            return under_way.done()
        finally:
            lost.cancel()
            under_way.cancel()

    async def _publish_one(self, client: aiomqtt.Client, message: Outgoing) -> None:
        await client.publish(
            message.topic,
            message.payload,
            message.qos,
            message.retain,
            properties=self._properties(message),
            timeout=_ACK_TIMEOUT,
        )

    def _properties(self, message: Outgoing) -> Properties | None:
        if not self._v5 or message.expiry is None:
            return None
        properties = self._expiries.get(message.expiry)
        if properties is None:
            properties = self._expiries[message.expiry] = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = message.expiry
        return properties


def _speaks_another(error: BaseException, *, proven: bool) -> bool:
    """Whether the other version of MQTT is worth a try: the broker refuses, or takes CONNECT and does not answer.

    One that has answered before (`proven`) speaks our version, and is only on its way down or up. A broker that is
    not there has said nothing: aiomqtt raises its own error, and leaves the socket's in the context.
    """
    if isinstance(error, aiomqtt.exceptions.MqttConnectError):
        return True
    return not proven and not isinstance(error.__context__, (ConnectionRefusedError, socket.gaierror))


def _reason(error: BaseException) -> str:
    if isinstance(error, aiomqtt.exceptions.MqttConnectError) and getattr(error.rc, "value", error.rc) in _DENIED:
        return f"access denied ({error}); check user and password of broker_url"
    if isinstance(error.__cause__, aiomqtt.MqttError):  # aiomqtt says that it noticed, and there what it noticed
        return f"connection lost ({error.__cause__})"
    return str(error) or type(error).__name__


def _check(filters: Iterable[str], codes: Iterable[Any]) -> None:
    """Raise `DeniedError` for what the broker refuses. What it grants and then withholds, only the echo shows."""
    denied = [name for name, code in zip(filters, codes, strict=False) if getattr(code, "value", code) >= _FAILURE]
    if denied:
        raise DeniedError(f"it denies {', '.join(denied)}; check its access rules (mosquitto/acl)")


def _tls(settings: BridgeSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if settings.tls_cert_file:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context
