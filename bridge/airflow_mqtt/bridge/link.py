"""The shell around the broker: one connection at a time, made again for ever, and known to receive.

aiomqtt does not reconnect by itself and acknowledges messages before we see them. Both are harmless here: what
matters is numbered and acknowledged by the protocol itself, and a new connection makes workers introduce themselves.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from tenacity import RetryCallState, wait_random_exponential

from airflow_mqtt.bridge.outgoing import Outgoing
from airflow_mqtt.bridge.settings import BridgeSettings
from airflow_mqtt.protocol.topics import Topics

log = logging.getLogger(__name__)

#: Seconds within which the broker must acknowledge a publication.
_ACK_TIMEOUT: Final = 20.0

#: Seconds from CONNECT to CONNACK, and for a farewell. aiomqtt does not notice a connection that ends before CONNACK
#: (a broker that is killed behind a proxy): it waits for this long.
_HANDSHAKE_TIMEOUT: Final = 5.0

#: Seconds between two messages to ourselves, and after how many without one we connect anew.
ECHO_INTERVAL: Final = 10.0
ECHO_TIMEOUT: Final = 25.0

_KEEPALIVE: Final = 20
_INFLIGHT: Final = 2000
_QUEUED_IN: Final = 100_000  # a bound; what is dropped past it is sent again by its sender

_VERSIONS: Final = {
    "5": (aiomqtt.ProtocolVersion.V5,),
    "3.1.1": (aiomqtt.ProtocolVersion.V311,),
    "auto": (aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311),
}

Receive = Callable[[str, bytes, bool], None]


class DeafError(aiomqtt.MqttError):
    """The connection stands, but our own messages do not come back."""


class Link:
    """The connection to the broker. `publish` drops what cannot be sent now: everything is sent again later."""

    def __init__(self, settings: BridgeSettings, topics: Topics, *, will: Outgoing) -> None:
        self._settings = settings
        self._topics = topics
        self._will = will
        self._client: aiomqtt.Client | None = None
        self._v5 = False
        self._echoed = asyncio.Event()
        self._lost = asyncio.Event()

    async def run(self, receive: Receive, connected: Callable[[], Awaitable[None]], lost: Callable[[], None]) -> None:
        """Connect and receive, again and again, until cancelled."""
        wait = wait_random_exponential(multiplier=0.5, max=15)
        versions = _VERSIONS[self._settings.mqtt_version]
        failures = 0
        while True:
            try:
                async with self._connect(versions[failures % len(versions)]) as client:
                    versions = versions[failures % len(versions) :][:1]  # this one works: stay with it
                    failures = 0
                    await self._serve(client, receive, connected)
            except* (aiomqtt.MqttError, OSError) as group:
                error = group.exceptions[0]
                while isinstance(error, BaseExceptionGroup):
                    error = error.exceptions[0]
                log.warning("broker %s: %s", self._settings.broker_url, error)
            finally:
                self._client = None
                self._lost.set()
                lost()
            failures += 1
            state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
            state.attempt_number = failures
            await asyncio.sleep(0.2 + wait(state))

    def _connect(self, version: aiomqtt.ProtocolVersion) -> aiomqtt.Client:
        settings, url = self._settings, self._settings.broker_url
        self._v5 = version is aiomqtt.ProtocolVersion.V5
        will = aiomqtt.Will(self._will.topic, self._will.payload, self._will.qos, self._will.retain)
        return aiomqtt.Client(
            url.host,
            url.port,
            username=url.username,
            password=url.password,
            identifier=f"{settings.root.replace('/', '-')}-bridge-{settings.instance}",
            protocol=version,
            clean_session=None if self._v5 else True,
            will=will,
            keepalive=_KEEPALIVE,
            tls_context=_tls(settings) if url.tls else None,
            timeout=_HANDSHAKE_TIMEOUT,
            max_inflight_messages=_INFLIGHT,
            max_queued_incoming_messages=_QUEUED_IN,
        )

    async def _serve(self, client: aiomqtt.Client, receive: Receive, connected: Callable[[], Awaitable[None]]) -> None:
        filters = [*self._topics.of_bridge(), self._topics.bridge_echo(self._settings.instance)]
        self._echoed.set()
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(client, receive), name="read from the broker")
            await client.subscribe([(name, 1) for name in filters], timeout=_ACK_TIMEOUT)
            self._client, self._lost = client, asyncio.Event()
            log.info("connected to broker %s", self._settings.broker_url)
            await connected()
            group.create_task(self._echo(client), name="listen to ourselves")
            await reader

    async def _read(self, client: aiomqtt.Client, receive: Receive) -> None:
        async for message in client.messages:
            payload = message.payload
            receive(str(message.topic), payload if isinstance(payload, bytes) else b"", message.retain)

    async def _echo(self, client: aiomqtt.Client) -> None:
        """Raise `DeafError` when what we publish to ourselves does not arrive.

        A connection may stand and deliver nothing (a broker that lost our subscriptions, a half-open path): Celery's
        workers are known for it. "Connected" is not "receiving".
        """
        topic = self._topics.bridge_echo(self._settings.instance)
        while True:
            self._echoed.clear()
            await client.publish(topic, b"{}", qos=1, timeout=_ACK_TIMEOUT)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._echoed.wait(), ECHO_TIMEOUT)
            if not self._echoed.is_set():
                raise DeafError("connected, but nothing is received; connecting anew")
            await asyncio.sleep(ECHO_INTERVAL)

    def echoed(self) -> None:
        self._echoed.set()

    async def publish(self, messages: list[Outgoing]) -> None:
        """Publish `messages` in their order, as far as a connection allows."""
        client = self._client
        if client is None or not messages:
            return
        under_way = asyncio.gather(
            *(self._publish_one(client, message) for message in messages), return_exceptions=True
        )
        if not await self._finished(under_way):
            log.warning("the connection was lost while %d messages were published", len(messages))
            return
        failed = [result for result in under_way.result() if isinstance(result, BaseException)]
        for error in failed[:1]:
            log.warning("%d of %d messages were not published: %s", len(failed), len(messages), error)

    async def _finished(self, under_way: "asyncio.Future[list[BaseException | None]]") -> bool:
        """Wait for publications, but not longer than their connection stands: aiomqtt would wait for their PUBACKs."""
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({under_way, lost}, return_when=asyncio.FIRST_COMPLETED)
            return under_way.done()
        finally:
            lost.cancel()
            under_way.cancel()

    async def _publish_one(self, client: aiomqtt.Client, message: Outgoing) -> None:
        properties = None
        if self._v5 and message.expiry is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = message.expiry
        await client.publish(
            message.topic, message.payload, message.qos, message.retain, properties=properties, timeout=_ACK_TIMEOUT
        )


def _tls(settings: BridgeSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if settings.tls_cert_file:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context
