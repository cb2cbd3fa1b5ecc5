"""The broker, in a thread of its own: paho blocks in the resolver and in TLS, and a person's keys must not.

It connects for as long as it takes, and hands over the last message of each topic. Plain MQTT 3.1.1 and QoS 0: every
broker has them, and a status that got lost is said again.
"""

import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from airflow_mqtt.monitor.settings import MonitorSettings
from airflow_mqtt.protocol.topics import Topics

#: Seconds: of MQTT's keep-alive, from the first packet of TCP to CONNACK, and between two attempts.
_KEEPALIVE: Final = 20
_CONNECT_TIMEOUT: Final = 10.0
_PAUSES: Final = (0.5, 15.0)

#: Topics of which a message waits to be taken. What comes beyond is dropped, and counted.
_MAX_WAITING: Final = 200_000

#: Return codes of CONNACK in MQTT 3.1.1 (section 3.2.2.3), as paho shows them, and of a failed SUBACK.
_DENIED: Final = frozenset({0x86, 0x87})
_FAILURE: Final = 0x80


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message, and when it came."""

    topic: str
    payload: bytes
    retained: bool
    at: float


@dataclass(frozen=True, slots=True)
class Link:
    """The connection: which one it is (0: none was ever made), whether it stands, since when, and why not."""

    number: int = 0
    is_up: bool = False
    since: float = 0.0
    why: str = ""
    is_denied: bool = False  # the broker knows us, and lets us not in


class Listener:
    """Listens from `start` to `stop`. `clock` is the wall's."""

    def __init__(self, settings: MonitorSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._topics = Topics(settings.root)
        self._lock = threading.Lock()
        self._link = Link(since=clock())
        self._waiting: dict[str, Arrived] = {}
        self._dropped = 0
        self._why = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """A thread that hangs in the resolver is left alone: it ends with the process."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def take(self, count: int) -> tuple[Link, list[Arrived], int]:
        """Return the connection, up to `count` messages of it, oldest topic first, and how many were dropped so far."""
        with self._lock:
            names = [name for name, _ in zip(self._waiting, range(count), strict=False)]
            return self._link, [self._waiting.pop(name) for name in names], self._dropped

    @property
    def has_more(self) -> bool:
        return bool(self._waiting)

    # --- its thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = _PAUSES[0]
        while not self._stopping.is_set():
            before = self._link.number
            self._why = ""
            try:
                self._listen()
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; ValueError: a name that is none
                self._why = self._why or _reason(error)
            self._lose()
            pause = _PAUSES[0] if self._link.number > before else min(_PAUSES[1], 2 * pause)
            self._stopping.wait(pause)

    def _listen(self) -> None:
        """Connect once, and return when that connection has ended."""
        client, url = self._client(), self._settings.broker_url
        client.connect(url.host, url.port, _KEEPALIVE)
        try:
            while client.loop(timeout=0.5) == mqtt.MQTT_ERR_SUCCESS:
                if self._stopping.is_set():
                    client.disconnect()
        finally:
            client.on_disconnect = None
            client.disconnect()

    def _client(self) -> mqtt.Client:
        settings, url = self._settings, self._settings.broker_url
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{settings.root.replace('/', '-')}-top-{os.urandom(6).hex()}",
            clean_session=True,
            protocol=mqtt.MQTTv311,
        )
        client.connect_timeout = _CONNECT_TIMEOUT
        if url.username is not None:
            client.username_pw_set(url.username, url.password)
        if url.tls:
            context = ssl.create_default_context(cafile=settings.tls_ca_file)
            if settings.tls_cert_file:
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
            client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._why = f"it lets {self._settings.broker_url.username or 'nobody without an account'} not in ({code})"
            if code.value in _DENIED:
                self._deny()
            return
        client.subscribe([(name, 0) for name in self._topics.of_monitor()])

    def _on_subscribe(self, client: mqtt.Client, _data: Any, _number: int, codes: Any, _properties: Any) -> None:
        if any(code.value >= _FAILURE for code in codes):
            self._why = f"it denies {', '.join(self._topics.of_monitor())}: check its access rules (mosquitto/acl)"
            client.disconnect()
            return
        with self._lock:
            self._link = Link(self._link.number + 1, is_up=True, since=self._clock())

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        with self._lock:
            if topic in self._waiting or len(self._waiting) < _MAX_WAITING:
                self._waiting[topic] = Arrived(topic, bytes(message.payload), message.retain, self._clock())
            else:
                self._dropped += 1

    def _on_disconnect(self, _client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._why = self._why or f"the connection ended ({code})"

    def _deny(self) -> None:
        with self._lock:
            self._link = Link(self._link.number, why=self._why, since=self._link.since, is_denied=True)

    def _lose(self) -> None:
        """Drop what has not been taken: what is retained comes again, and of a job nobody knows whether it is so."""
        with self._lock:
            since = self._clock() if self._link.is_up else self._link.since
            why = self._why or "the connection ended"
            self._link = Link(self._link.number, why=why, since=since, is_denied=self._link.is_denied)
            self._waiting.clear()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
