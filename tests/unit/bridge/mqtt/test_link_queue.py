"""What the link has given to its connection, and the broker has not acknowledged yet."""

from collections import Counter
from types import SimpleNamespace

import pytest
from paho.mqtt.client import MQTT_ERR_NO_CONN, MQTT_ERR_SUCCESS

from airflow_mqtt.bridge.bounds import Bound
from airflow_mqtt.bridge.mqtt import link as module
from airflow_mqtt.bridge.mqtt.link import Link
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.protocol.topics import Topics

MIB = 1024 * 1024


class Paho:
    """As much of paho's client as `_Client.send` asks for. It acknowledges nothing by itself."""

    def __init__(self):
        self.published, self.rc = [], MQTT_ERR_SUCCESS

    def publish(self, topic, payload, qos, retain, properties):
        if "#" in topic:
            raise ValueError("Publish topic cannot contain wildcards.")
        self.published.append(topic)
        return SimpleNamespace(rc=self.rc, mid=len(self.published), is_published=lambda: qos == 0)


class Wire:
    """A link over a connection that is as the bridge has it, but for paho."""

    def __init__(self):
        self.dropped = Counter()
        settings = SimpleNamespace(
            instance="b", root="airflow", mqtt_version="5",
            broker_url=SimpleNamespace(host="127.0.0.1", port=1, username=None, password=None, tls=False),
        )  # fmt: skip
        self.link = Link(settings, Topics("airflow"), will=Outgoing("will", b""), dropped=self.dropped)
        self.client = self.link._connect(module._VERSIONS["5"][0], lambda *message: None)
        self.client._client = self.paho = Paho()
        self.link._client = self.client

    def send(self, size, *, qos=1, topic="t", count=1):
        return self.link.send(Outgoing(topic, b"x" * size, qos) for _ in range(count))

    def acknowledge(self, *numbers):
        for number in numbers:
            self.client._on_publish(None, None, number, None, None)

    @property
    def held(self):
        return self.client._quota._of.get(None, (0, 0))


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_UNDER_WAY", Bound(10, 100))
    return Wire()


async def test_it_is_bounded_by_bytes(wire):
    assert wire.send(40, count=2)
    assert not wire.send(40)
    assert (wire.held, wire.dropped) == ((2, 80), {"not sent": 1})
    wire.acknowledge(1)
    assert wire.send(60)
    assert not wire.send(1)
    wire.acknowledge(2, 3)
    assert wire.held == (0, 0) and wire.client._under_way == {}


async def test_it_is_bounded_by_count_and_the_rest_is_tried(wire):
    """What is dropped is sent again later, by whoever waits for an answer; what fits behind it is not kept back."""
    assert not wire.send(0, count=12)
    assert (wire.held, wire.dropped["not sent"], len(wire.paho.published)) == ((10, 0), 2, 10)


async def test_what_no_broker_acknowledges_is_not_counted(wire):
    assert wire.send(1000, qos=0, count=100)
    assert wire.held == (0, 0)


async def test_what_the_connection_did_not_take_leaves_no_trace(wire):
    wire.paho.rc = MQTT_ERR_NO_CONN
    wire.send(40, count=50)
    assert wire.held == (0, 0) and wire.client._under_way == {}


async def test_what_mqtt_has_no_form_for_stops_nothing_and_takes_no_room(wire, caplog):
    for _ in range(50):
        assert not wire.send(40, topic="a/#")
    assert wire.held == (0, 0)
    assert wire.send(40) and "wildcards" in caplog.text


async def test_an_acknowledgement_that_nobody_waits_for_is_let_be(wire):
    wire.send(40)
    wire.acknowledge(1, 1, 99)
    assert wire.held == (0, 0)


async def test_without_a_connection_nothing_is_sent(wire):
    wire.link._client = None
    assert not wire.send(1)
    assert wire.paho.published == []


def test_the_bound_is_one_that_a_device_like_ours_can_hold():
    assert Bound(50_000, 64 * MIB) == module._UNDER_WAY
