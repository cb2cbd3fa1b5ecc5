"""What the link has given to its connection, and the broker has not acknowledged yet."""

import asyncio
import contextlib
import gc
from collections import Counter
from types import SimpleNamespace

import aiomqtt
import pytest

from airflow_mqtt.bridge.bounds import Bound
from airflow_mqtt.bridge.mqtt import client
from airflow_mqtt.bridge.mqtt import link as module
from airflow_mqtt.bridge.mqtt.control_packets import packet_at
from airflow_mqtt.bridge.mqtt.link import Link
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.protocol.topics import Topics

MIB = 1024 * 1024


class Paho:
    """As much of paho's client as sending asks for. It acknowledges nothing by itself."""

    def __init__(self):
        self.packets, self.stands = [], True

    def socket(self):
        return self if self.stands else None

    def _packet_queue(self, command, packets, mid, qos):
        self.packets.append(packets)

    def loop_write(self):
        pass

    def want_write(self):
        return False


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
            self.client._take_puback(number.to_bytes(2, "big"))

    async def published(self):
        """How many messages went out."""
        await asyncio.sleep(0)
        written, at, count = b"".join(self.paho.packets), 0, 0
        while at < len(written):
            at, count = packet_at(written, at).end, count + 1
        return count

    @property
    def held(self):
        return self.client._quota._of.get(None, (0, 0))


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "UNDER_WAY", Bound(10, 100))
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
    assert (wire.held, wire.dropped["not sent"], await wire.published()) == ((10, 0), 2, 10)


async def test_what_no_broker_acknowledges_is_not_counted(wire):
    assert wire.send(1000, qos=0, count=100)
    assert wire.held == (0, 0)


async def test_what_the_connection_did_not_take_leaves_no_trace(wire):
    wire.paho.stands = False
    wire.send(40, count=50)
    assert wire.held == (0, 0) and wire.client._under_way == {}


async def test_what_mqtt_has_no_form_for_stops_nothing_and_takes_no_room(wire, caplog):
    for _ in range(50):
        assert not wire.send(40, topic="a/#")
    assert wire.held == (0, 0)
    assert wire.send(40) and "no topic" in caplog.text


async def test_an_acknowledgement_that_nobody_waits_for_is_let_be(wire):
    wire.send(40)
    wire.acknowledge(1, 1, 99)
    assert wire.held == (0, 0)


async def test_without_a_connection_nothing_is_sent(wire):
    wire.link._client = None
    assert not wire.send(1)
    assert await wire.published() == 0


def test_the_bound_is_one_that_a_device_like_ours_can_hold():
    assert Bound(50_000, 64 * MIB) == client.UNDER_WAY


async def test_a_number_that_is_in_use_is_not_given_again(wire, monkeypatch):
    """The broker acknowledges in no order, and there are 65,535 of them."""
    monkeypatch.setattr(client, "_LAST_NUMBER", 5)
    wire.send(1, count=4)
    wire.acknowledge(1, 2, 4)
    wire.send(1, count=4)
    assert sorted(wire.client._under_way) == [1, 2, 3, 4, 5]


# --- what somebody waits for --------------------------------------------------------------------------------


async def delivering(wire, count=2):
    task = asyncio.ensure_future(wire.link.publish([Outgoing("t", b"x")] * count))
    await asyncio.sleep(0)
    return task


async def test_who_waits_hears_when_all_is_acknowledged(wire):
    task = await delivering(wire)
    wire.acknowledge(2)
    await asyncio.sleep(0.01)
    assert not task.done()
    wire.acknowledge(1)
    assert await task and wire.held == (0, 0)


async def test_who_waits_hears_of_the_connections_end(wire, caplog):
    task = await delivering(wire)
    wire.client._disconnected.set_result(None)
    assert not await task
    assert "2 messages were not published: not acknowledged by the broker: the connection ended" in caplog.text
    wire.acknowledge(1)  # that came late, and nobody waits any more


async def test_nothing_is_said_of_a_future_that_nobody_reads(wire):
    said = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context["message"]))
    delivery = asyncio.ensure_future(wire.client.deliver([Outgoing("t", b"x")] * 2))
    await asyncio.sleep(0)
    wire.client._disconnected.set_result(None)
    with contextlib.suppress(aiomqtt.MqttError):
        await delivery
    for _ in range(5):
        await asyncio.sleep(0)
    del delivery
    gc.collect()
    assert said == []


async def test_who_waits_does_not_wait_for_ever(wire, monkeypatch, caplog):
    monkeypatch.setattr(client, "_ACK_TIMEOUT", 0.01)
    assert not await (await delivering(wire))
    assert "none within 0.01 s" in caplog.text


async def test_there_is_room_for_what_somebody_waits_for(wire):
    """What is dropped for a burst is no sign of a bad connection."""
    wire.send(0, count=10)
    task = await delivering(wire)
    wire.acknowledge(11, 12)
    assert await task and wire.held == (10, 0)


async def test_nothing_to_wait_for_is_published_at_once(wire):
    assert await wire.link.publish([])


async def test_who_waits_hears_of_what_mqtt_has_no_form_for(wire, caplog):
    assert not await wire.link.publish([Outgoing("a/#", b"")])
    assert "1 messages were not published: 'a/#' is no topic" in caplog.text
