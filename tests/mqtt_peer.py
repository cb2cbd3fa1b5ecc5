"""A plain MQTT client for tests of brokers: it publishes, subscribes, and keeps all that arrives."""

import threading
from typing import Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from airflow_mqtt.config.broker_url import parse_broker_url
from demo.processes import wait_for


class Peer:
    """A connected client. `received` holds (topic, payload, retained) in the order of arrival."""

    def __init__(
        self,
        url: str,
        client_id: str = "",
        *,
        clean: bool = True,
        will: tuple[str, bytes] | None = None,
        version: mqtt.MQTTProtocolVersion = mqtt.MQTTv5,
        source: str = "",
    ) -> None:
        self.url = parse_broker_url(url)
        self.received: list[tuple[str, bytes, bool]] = []
        self.refused: str | None = None
        self.disconnects = 0
        self._v5 = version == mqtt.MQTTv5
        self._clean = clean
        self._source = source  # the address that it comes from
        self._answered = threading.Event()
        options = {} if self._v5 else {"clean_session": clean}
        options["reconnect_on_failure"] = False
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=version, **options)
        self.client.username_pw_set(self.url.username, self.url.password)
        if will is not None:
            self.client.will_set(will[0], will[1], qos=1, retain=True)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message

    def _on_connect(self, _client, _data, _flags, reason, _properties) -> None:
        self.refused = str(reason) if reason.is_failure else None
        self._answered.set()

    def _on_disconnect(self, *_) -> None:
        self.disconnects += 1

    def _on_message(self, _client, _data, message) -> None:
        self.received.append((message.topic, message.payload, message.retain))

    def __enter__(self) -> Self:
        properties = None
        if self._v5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if self._clean else 3600
        options = {"clean_start": self._clean, "properties": properties} if self._v5 else {}
        self.client.connect(self.url.host, self.url.port, bind_address=self._source, **options)
        self.client.loop_start()
        wait_for(self._settled, what="an answer to CONNECT", timeout=60)
        if not self._answered.is_set():
            raise ConnectionResetError("the connection ended before the broker answered")
        return self

    def _settled(self) -> bool:
        return self._answered.is_set() or self.disconnects > 0

    def __exit__(self, *_) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self) -> None:
        """Go without DISCONNECT, as a power cut does: the will is published."""
        self.client.loop_stop()
        self.client.socket().close()

    def subscribe(self, *filters: str) -> None:
        """Subscribe with QoS 1 and wait for the broker's answer, which says nothing about what it will withhold."""
        answered = threading.Event()
        self.client.on_subscribe = lambda *_: answered.set()
        self.client.subscribe([(name, 1) for name in filters])
        assert answered.wait(60), "no SUBACK"

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> None:
        """Publish with QoS 1 and wait for the broker's answer, which says nothing about what it dropped.

        Some brokers end the connection instead (Debian's Mosquitto 2.0.11 does for what the ACL forbids).
        """
        message = self.client.publish(topic, payload, qos=1, retain=retain)
        wait_for(lambda: message.is_published() or self.disconnects, what=f"an answer to {topic}", timeout=60)

    def topics(self) -> list[str]:
        return [topic for topic, _, _ in self.received]

    def wait(self, topic: str, payload: bytes | None = None, timeout: float = 60) -> bool:
        """Wait until `topic` (with `payload`, where given) has arrived. Returns whether it was retained."""

        def there() -> list[bool]:
            return [
                retained
                for name, content, retained in list(self.received)
                if name == topic and payload in (None, content)
            ]

        try:
            found = wait_for(lambda: there() or None, what=f"a message on {topic}", timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; arrived: {self.topics()[:20]}") from None
        return found[0]
