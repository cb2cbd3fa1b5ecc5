"""An MQTT client for one question to a broker. The only module here that knows paho."""

import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from airflow_mqtt.config.broker_url import BrokerUrl

#: Seconds for an answer of the broker, and for something to arrive that was published.
_PATIENCE = 10.0

_VERSIONS: Final = {"5": mqtt.MQTTv5, "3.1.1": mqtt.MQTTv311}

#: Reason codes of both versions that deny an account: not authorised, bad user name or password, banned.
_DENIED: Final = frozenset({4, 5, 134, 135, 138})


class ConnectError(Exception):
    """The broker could not be connected to, or ended the connection. `cure` is what to do about it."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(text)
        self.cure = cure


def random_name() -> str:
    """Return a name that no worker, queue or job has."""
    return f"check-{secrets.token_hex(6)}"


@contextmanager
def connected(url: BrokerUrl, tls: ssl.SSLContext | None, version: str) -> Iterator["Client"]:
    """Connect; with version "auto" by MQTT 5, and by 3.1.1 where the broker does not answer to that."""
    client = _first_that_connects(url, tls, ["5", "3.1.1"] if version == "auto" else [version])
    try:
        yield client
    finally:
        client.close()


def _first_that_connects(url: BrokerUrl, tls: ssl.SSLContext | None, versions: list[str]) -> "Client":
    for version in versions[:-1]:
        try:
            return Client(url, tls, version)
        except _UnansweredError:
            continue
    return Client(url, tls, versions[-1])


class _UnansweredError(ConnectError):
    """As `ConnectError`, and another version of MQTT may help."""


class Client:
    """One connection with a clean session. What arrives is kept."""

    def __init__(self, url: BrokerUrl, tls: ssl.SSLContext | None, version: str) -> None:
        self.version = version
        self._changed = threading.Condition()
        self._received: list[tuple[str, bytes]] = []
        self._connack: Any = None
        self._ended = False
        self._suback = False
        self._holds = False
        self._held: list[Any] = []
        client_id = f"airflow-mqtt-{random_name()}"
        self._paho = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=_VERSIONS[version],
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._paho.connect_timeout = _PATIENCE
        if url.username is not None:
            self._paho.username_pw_set(url.username, url.password)
        if tls is not None:
            self._paho.tls_set_context(tls)
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_subscribe = self._on_subscribe
        self._paho.on_message = self._on_message
        self._open(url)

    def _open(self, url: BrokerUrl) -> None:
        try:
            self._paho.connect(url.host, url.port)
        except (OSError, ValueError) as error:
            raise ConnectError(_explained(error), "check broker_url: host, port, mqtt:// or mqtts://") from None
        self._paho.loop_start()
        answered = self._wait(lambda: self._connack is not None or self._ended)
        if self._connack is not None and not self._connack.is_failure:
            return
        self.close()
        if self._connack is None:
            said = "it ends the connection at once" if answered else "it takes the connection, and does not answer"
            raise _UnansweredError(said, "check that it is an MQTT broker, and whether it wants TLS (mqtts://)")
        if self._connack.value in _DENIED:
            raise ConnectError(f"access denied ({self._connack})", "check user and password of the broker's URL")
        raise _UnansweredError(f"it refuses: {self._connack}", "the broker's log says why")

    def close(self) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()

    # --- what a test does ---------------------------------------------------------------------------------------

    def subscribe(self, filters: Iterable[str], qos: int = 1) -> None:
        """Subscribe to each by itself, which the broker may deny, or grant and withhold; both show in what arrives.

        NATS denies a client its sixteenth or so with QoS 1.
        """
        for name in filters:
            self._suback = False
            self._paho.subscribe(name, qos)
            self._wait(lambda: self._suback or self._ended)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish, and wait until the broker has taken it, or has ended the connection."""
        message = self._paho.publish(topic, payload, qos=1, retain=retain)
        until = time.monotonic() + _PATIENCE
        while not (self._ended or _is_settled(message)) and time.monotonic() < until:
            time.sleep(0.005)

    def publish_all(self, topic: str, payloads: Iterable[bytes]) -> None:
        """Publish many at once, and wait for the last."""
        messages = [self._paho.publish(topic, payload, qos=1) for payload in payloads]
        until = time.monotonic() + 6 * _PATIENCE
        while not (self._ended or all(map(_is_settled, messages))) and time.monotonic() < until:
            time.sleep(0.01)

    def hold_acks(self) -> None:
        """Acknowledge nothing from now on."""
        self._holds = True

    def release_acks(self) -> None:
        with self._changed:
            self._holds = False
            held, self._held = self._held, []
        for message in held:
            self._paho.ack(message.mid, message.qos)

    # --- what arrived -------------------------------------------------------------------------------------------

    def topics(self, payload: bytes | None = None) -> set[str]:
        with self._changed:
            return {topic for topic, content in self._received if payload in (None, content)}

    def payloads(self) -> list[bytes]:
        with self._changed:
            return [payload for _, payload in self._received]

    def wait_for_payload(self, payload: bytes) -> bool:
        """Return whether it has arrived, as soon as that is known."""
        self._wait(lambda: self._ended or any(content == payload for _, content in self._received))
        return payload in self.payloads()

    def wait_for_count(self, count: int) -> None:
        """Wait until so many have arrived, as long as more come."""
        seen = -1
        while seen < len(self._received) < count and not self._ended:
            seen = len(self._received)
            self._wait(lambda: len(self._received) >= count or self._ended)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, _PATIENCE)

    # --- paho's thread ------------------------------------------------------------------------------------------

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._note(lambda: setattr(self, "_connack", reason))

    def _on_disconnect(self, *_: Any) -> None:
        self._note(lambda: setattr(self, "_ended", True))

    def _on_subscribe(self, *_: Any) -> None:
        self._note(lambda: setattr(self, "_suback", True))

    def _on_message(self, client: Any, _data: Any, message: Any) -> None:
        with self._changed:
            self._received.append((message.topic, message.payload))
            if holds := self._holds:
                self._held.append(message)
            self._changed.notify_all()
        if not holds:
            client.ack(message.mid, message.qos)

    def _note(self, change: Callable[[], None]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()


def _is_settled(message: mqtt.MQTTMessageInfo) -> bool:
    """Whether the broker has taken it, or never will: paho had no connection any more to send it by."""
    return message.rc not in (mqtt.MQTT_ERR_SUCCESS, mqtt.MQTT_ERR_AGAIN) or message.is_published()


def _explained(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not believed: {error.verify_message}; tls_ca_file names who signed it"
        case ssl.SSLError():
            return f"TLS fails: {error.reason or error}"
        case ConnectionRefusedError():
            return "nothing listens there"
        case socket.gaierror():
            return f"its name is not known: {error.strerror}"
        case TimeoutError():
            return "it does not answer: a firewall, or the wrong host"
    return str(error) or type(error).__name__
