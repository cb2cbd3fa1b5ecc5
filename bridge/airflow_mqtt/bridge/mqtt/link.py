"""The shell around the broker: one connection at a time, made again for ever, and known to receive.

aiomqtt does not reconnect by itself and acknowledges messages before we see them. Both are harmless here: what
matters is numbered and acknowledged by the protocol itself, and a new connection makes workers introduce themselves.
"""

import asyncio
import logging
import os
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import aiomqtt
from paho.mqtt.subscribeoptions import SubscribeOptions
from tenacity import RetryCallState, wait_random_exponential

from airflow_mqtt.bridge.cancellation import pause, raise_if_cancelled
from airflow_mqtt.bridge.mqtt.client import Client, Receive
from airflow_mqtt.bridge.mqtt.losses import Losses
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.config.bridge import BridgeSettings
from airflow_mqtt.protocol import packets
from airflow_mqtt.protocol.errors import first_of
from airflow_mqtt.protocol.packets import PacketLimit
from airflow_mqtt.protocol.topics import RETAINED, TopicKind, Topics

log = logging.getLogger(__name__)

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

#: Reason codes of a CONNACK, as paho shows those of both versions: bad user name or password, not authorized.
_DENIED: Final = frozenset({0x86, 0x87})

#: Seconds. A connection that ends sooner than this after its CONNACK, and the next one too, is one that a broker ends:
#: Mosquitto does so with who may not write what it must.
_SHORT: Final = 1.0

_KEEPALIVE: Final = 20

_VERSIONS: Final = {
    "5": (aiomqtt.ProtocolVersion.V5,),
    "3.1.1": (aiomqtt.ProtocolVersion.V311,),
    "auto": (aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311),
}

#: Topics of which it is said that what should go there is too large for the broker.
_MAX_SAID: Final = 100


class DeafError(aiomqtt.MqttError):
    """The connection stands, but our own messages do not come back."""


class DeniedError(aiomqtt.MqttError):
    """The broker grants this account no subscription that the bridge needs."""


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
        self._client: Client | None = None
        self._v5 = False
        self._echoed = asyncio.Event()
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

    def _connect(self, version: aiomqtt.ProtocolVersion, receive: Receive) -> Client:
        settings, url = self._settings, self._settings.broker_url
        self._v5 = version is aiomqtt.ProtocolVersion.V5
        will = aiomqtt.Will(self._will.topic, self._will.payload, self._will.qos, self._will.retain)
        return Client(
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

    async def _serve(self, client: Client, connected: Callable[[], None]) -> None:
        filters = self._topics.of_bridge(telemetry=self._telemetry)
        filters[self._topics.bridge_echo(self._settings.instance)] = TopicKind.BRIDGE_ECHO
        raise_if_cancelled()
        self._echoed.set()
        async with asyncio.TaskGroup() as group:
            stands = group.create_task(client.until_lost(), name="wait for the end of the connection")
            asked: list[tuple[str, Any]] = [(name, self._how(kind)) for name, kind in filters.items()]
            _check(filters, await client.subscribe(asked, timeout=_SUBSCRIBE_TIMEOUT))
            raise_if_cancelled()
            self._client = client
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

    async def _echo(self, client: Client) -> None:
        """Raise `DeafError` when what we publish to ourselves does not arrive.

        A connection may stand and deliver nothing (a broker that lost our subscriptions, a half-open path): Celery's
        workers are known for it. "Connected" is not "receiving".
        """
        topic = self._topics.bridge_echo(self._settings.instance)
        heard = False
        while True:
            self._echoed.clear()
            await client.deliver([Outgoing(topic, b"{}")])
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
                if client.send(message):
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
        try:
            await client.deliver([message for message in messages if self._fits(message)])
        except (aiomqtt.MqttError, OSError, ValueError) as error:
            log.warning("%d messages were not published: %s", len(messages), error)
            return False
        return True


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
