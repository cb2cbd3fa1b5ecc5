"""How the link's connection reads and writes: many messages with one look at the socket, and none of them twice."""

import asyncio
import itertools
import socket
import time
from types import SimpleNamespace

import pytest
from paho.mqtt.enums import _ConnectionState

from airflow_mqtt.bridge.mqtt import link as module
from airflow_mqtt.bridge.mqtt.link import Link
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.protocol.topics import Topics


class Wire:
    """A connection of the bridge over a pair of sockets; `far` is the broker's end of it."""

    def __init__(self):
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        settings = SimpleNamespace(
            instance="b", root="airflow", mqtt_version="5",
            broker_url=SimpleNamespace(host="127.0.0.1", port=1, username=None, password=None, tls=False),
        )  # fmt: skip
        self.heard, self.looks, self.waits = [], 0, 0
        self.link = Link(settings, Topics("airflow"), will=Outgoing("will", b""))
        self.client = self.link._connect(module._VERSIONS["5"][0], lambda *message: self.heard.append(message))
        self.link._client = self.client
        receive, loop = self.client._receive_bytes, asyncio.get_running_loop()

        def counted(size):
            self.looks += 1
            return receive(size)

        self.client._receive_bytes = counted
        self.client._client._sock = self.near
        self.client._connected.set_result(None)
        self.client._misc_loop = asyncio.Event().wait  # the time of keepalives
        self.client._on_socket_open(self.client._client, None, self.near)
        wait = loop.add_writer

        def waited(*arguments):
            self.waits += 1
            return wait(*arguments)

        loop.add_writer = waited

    def close(self):
        self.client._client._sock_close()
        self.far.close()

    def drain(self):
        found = b""
        try:
            while piece := self.far.recv(65_536):
                found += piece
        except BlockingIOError:
            return found
        return found


@pytest.fixture
async def wire():
    made = Wire()
    await asyncio.sleep(0)  # it listens
    yield made
    made.close()


async def until(true):
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0)


def message(topic, payload):
    """A PUBLISH of QoS 0 (MQTT 5 section 3.3)."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + b"\0" + payload
    size, length = len(body), b""
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (128 if size else 0)])
        if not size:
            return b"\x30" + length + body


async def test_what_came_together_is_handed_on_with_one_look(wire):
    wire.far.send(b"".join(message("t", b"%d" % number) for number in range(40)))
    await until(lambda: wire.heard)
    assert [payload for _, payload, _ in wire.heard] == [b"%d" % number for number in range(40)]
    assert wire.looks <= 2


async def test_everybody_else_has_a_turn_while_more_comes_than_is_read_at_once(wire):
    """As when a fleet introduces itself: a loop that reads on stands still, and PostgreSQL ends its transactions."""
    piece = message("t", b"x" * 300)
    there = wire.far.send(piece * 300) // len(piece)
    turns = [0]
    while turns[-1] < there:
        await asyncio.sleep(0)
        turns.append(len(wire.heard))
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert there > 200 and max(steps) <= 1 + 8 * 1024 // len(piece)  # and the one that had begun


async def test_what_comes_in_pieces_is_put_together(wire):
    whole = b"".join(message(f"t{number}", b"x" * number * 7) for number in range(60))
    for at in range(0, len(whole), 23):
        wire.far.send(whole[at : at + 23])
        await asyncio.sleep(0)
    await until(lambda: len(wire.heard) == 60)
    assert [(topic, len(payload)) for topic, payload, _ in wire.heard] == [(f"t{n}", n * 7) for n in range(60)]


async def test_a_large_message_comes_between_small_ones(wire):
    whole = memoryview(message("a", b"1") + message("b", b"y" * 300_000) + message("c", b"2"))
    while whole:
        try:
            whole = whole[wire.far.send(whole) :]
        except BlockingIOError:
            await asyncio.sleep(0)
    await until(lambda: len(wire.heard) == 3)
    assert [(topic, len(payload)) for topic, payload, _ in wire.heard] == [("a", 1), ("b", 300_000), ("c", 1)]


async def test_a_connection_that_ends_is_noticed_behind_what_came_before(wire):
    wire.far.send(message("t", b"last"))
    wire.far.shutdown(socket.SHUT_WR)
    await until(wire.client._disconnected.done)
    assert [payload for _, payload, _ in wire.heard] == [b"last"] and wire.client._disconnected.exception() is not None


async def test_what_is_published_together_is_written_at_the_next_turn(wire):
    wire.link.send(Outgoing("t", b"%d" % number, qos=0) for number in range(5))
    assert wire.drain() == b""
    await asyncio.sleep(0)
    assert wire.drain() == b"".join(message("t", b"%d" % number) for number in range(5))
    assert wire.waits == 0  # the socket was not asked whether it takes something


async def test_what_the_socket_does_not_take_is_written_when_it_does(wire):
    count, payload = 200, b"z" * 10_000
    wire.link.send(Outgoing("t", payload, qos=0) for _ in range(count))
    await until(lambda: wire.waits)
    written = b""
    async with asyncio.timeout(60):
        while len(written) < count * len(message("t", payload)):
            written += wire.drain()
            await asyncio.sleep(0)
    assert written == count * message("t", payload) and wire.waits == 1
    wire.link.send([Outgoing("t", b"after", qos=0)])
    await asyncio.sleep(0)
    assert wire.drain() == message("t", b"after") and wire.waits == 1


async def test_a_topic_that_is_no_text_ends_no_connection(wire):
    wire.far.send(
        message("t\N{LATIN SMALL LETTER E WITH ACUTE}", b"bad").replace(b"\xc3\xa9", b"\xff\xff")
        + message("t", b"good")
    )
    await until(lambda: len(wire.heard) == 2)
    assert wire.heard[1] == ("t", b"good", False) and not wire.client._disconnected.done()


async def test_what_is_no_publication_ends_the_connection(wire):
    wire.far.send(b"\x30\x02\0\x09")
    await until(wire.client._disconnected.done)
    assert wire.client._disconnected.exception() is not None and wire.heard == []


async def test_a_message_is_acknowledged_by_its_number(wire):
    wire.far.send(b"\x32\x06\0\x01t\x01\x02\0")
    await until(lambda: wire.heard)
    await asyncio.sleep(0)
    assert wire.heard == [("t", b"", False)] and wire.drain() == b"\x40\x02\x01\x02"


async def test_what_is_published_together_is_written_with_one_call(wire, monkeypatch):
    calls, send = [], wire.client._client._sock_send
    monkeypatch.setattr(wire.client._client, "_sock_send", lambda data: calls.append(1) or send(data))
    wire.link.send(Outgoing("t", b"%d" % number) for number in range(50))
    wire.far.send(b"".join(b"\x32\x06\x00\x01t" + bytes([0, number]) + b"\x00" for number in range(1, 50)))
    await until(lambda: len(wire.heard) == 49)
    await asyncio.sleep(0)
    assert len(calls) <= 2
    assert wire.drain().count(b"\x40\x02\x00") == 49  # and so are the PUBACKs


async def test_it_waits_for_the_socket_no_longer_than_there_is_something_to_write(wire):
    """Else its loop would turn round and round: a socket takes something nearly always."""
    wire.link.send(Outgoing("t", b"z" * 10_000, qos=0) for _ in range(200))
    await until(lambda: wire.waits)
    wire.link.send([Outgoing("t", b"one more", qos=0)])  # it tries again, beside the one that waits
    async with asyncio.timeout(60):
        while wire.client._client.want_write():
            wire.drain()
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not asyncio.get_running_loop().remove_writer(wire.near.fileno())


async def test_what_is_pahos_comes_through_between_messages(wire):
    """A PINGRESP, in two pieces, and the broker's DISCONNECT with its reason."""
    wire.client._client._ping_t = 1.0
    wire.far.send(message("t", b"1") + b"\xd0")
    await until(lambda: wire.heard)
    wire.far.send(b"\x00" + message("t", b"2"))
    await until(lambda: len(wire.heard) == 2)
    assert wire.client._client._ping_t == 0
    wire.far.send(message("t", b"3") + b"\xe0\x02\x8e\x00" + b"\x32\x06\x00\x01t\x00\x01\x00")
    await until(wire.client._disconnected.done)
    assert len(wire.heard) >= 3 and wire.client.taken_over
    assert not wire.client._unwritten  # there is nothing to acknowledge what came behind it


async def test_who_is_heard_lives_though_its_pingresp_waits_behind_much_else(wire):
    """paho ends a connection of which it has read nothing in the keep-alive, and it is we who read."""
    paho = wire.client._client
    paho._keepalive, paho._state = 20, _ConnectionState.MQTT_CS_CONNECTED
    paho._ping_t = paho._last_msg_in = paho._last_bytes_received = time.monotonic() - 100
    paho._last_msg_out = time.monotonic()
    wire.far.send(message("t", b"1"))
    await until(lambda: wire.heard)
    paho._check_keepalive()
    assert paho.socket() is not None and not wire.client._disconnected.done()


@pytest.mark.parametrize(
    "nonsense", [b"\x30\xff\xff\xff\xff\x01", b"\x36\x05\x00\x01t\x00\x01", b"\x40\x01\x00", b"\x30\x02\x00\x09"]
)
async def test_what_is_no_mqtt_ends_the_connection(wire, nonsense):
    wire.far.send(nonsense)
    await until(wire.client._disconnected.done)
    assert wire.client._disconnected.exception() is not None
