"""A task of the bridge that is told to end does, whatever else happens in that moment."""

import asyncio
import threading
from types import SimpleNamespace

import aiomqtt
import pytest
from sqlalchemy.exc import OperationalError

from airflow_mqtt.bridge import leader
from airflow_mqtt.bridge.cancellation import pause
from airflow_mqtt.bridge.leader import Leader, LeaseKeeper
from airflow_mqtt.bridge.lease import Lease
from airflow_mqtt.bridge.mqtt import link as link_module
from airflow_mqtt.bridge.mqtt.link import Link
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.bridge.upkeep import wakeup
from airflow_mqtt.protocol.topics import Topics

#: Turns of the event loop between what happens and the cancellation; nothing here takes more.
MOMENTS = range(12)


async def ends(task):
    done, _ = await asyncio.wait([task], timeout=5)
    assert done, "it goes on"
    assert task.cancelled()


async def turns(number):
    for _ in range(number):
        await asyncio.sleep(0)


class Connection:
    """As much of aiomqtt's client as the link asks for. It stands until `lost` is set."""

    def __init__(self):
        self.lost = asyncio.Event()
        self.serving = asyncio.Event()
        self.messages = self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def subscribe(self, filters, timeout):
        return [1] * len(filters)

    async def publish(self, *message, **options):
        self.serving.set()
        await asyncio.Event().wait()

    def __aiter__(self):
        return self

    async def __anext__(self):
        await self.lost.wait()
        raise aiomqtt.MqttError("lost")


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_link_when_it_loses_its_connection(monkeypatch, moment):
    connection = Connection()
    settings = SimpleNamespace(instance="b", mqtt_version="5", broker_url="mqtt://b")
    link = Link(settings, Topics("airflow"), will=Outgoing("t", b""))
    monkeypatch.setattr(link, "_connect", lambda version: connection)

    async def connected():
        pass

    task = asyncio.create_task(link.run(lambda *message: None, connected, lambda: None))
    await connection.serving.wait()
    connection.lost.set()
    await turns(moment)
    task.cancel()
    await ends(task)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_loop_that_is_woken(moment):
    wake = asyncio.Event()

    async def loop():
        while True:
            wake.clear()
            await pause(wake, 60)

    task = asyncio.create_task(loop())
    await turns(3)
    wake.set()
    await turns(moment)
    task.cancel()
    await ends(task)


class ConnAck:
    """A broker on loopback that grants everything `delay` seconds late, and then reads on or not."""

    def __init__(self, delay=0.0, *, reads=True):
        self._delay, self._reads = delay, reads
        self.open, self.accepted = 0, asyncio.Event()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        url = SimpleNamespace(
            host="127.0.0.1", port=self._server.sockets[0].getsockname()[1], username=None, password=None, tls=False
        )
        self.settings = SimpleNamespace(broker_url=url, mqtt_version="5", root="airflow", instance="one")
        return self

    async def __aexit__(self, *error):
        self._server.close()

    async def _serve(self, reader, writer):
        self.open += 1
        try:
            await reader.read(1000)
            self.accepted.set()
            await asyncio.sleep(self._delay)
            writer.write(bytes([0x20, 3, 0, 0, 0]))
            subscribe = await reader.read(1000)
            if not subscribe:
                return
            granted = len(Topics("airflow").of_bridge()) + 1
            start = 2 if subscribe[1] < 128 else 3
            writer.write(bytes([0x90, 3 + granted, *subscribe[start : start + 2], 0, *[1] * granted]))
            if not self._reads:
                writer.transport.pause_reading()
                await asyncio.sleep(60)
            while await reader.read(1000):
                pass
        finally:
            self.open -= 1
            writer.close()


def our_tasks():
    return [task for task in asyncio.all_tasks() if "_misc_loop" in task.get_coro().__qualname__]


async def nothing():
    pass


async def test_a_link_that_is_ended_before_connack_leaves_no_client():
    async with ConnAck(delay=0.2) as broker:
        link = Link(broker.settings, Topics("airflow"), will=Outgoing("t", b""))
        task = asyncio.create_task(link.run(lambda *message: None, nothing, lambda: None))
        await broker.accepted.wait()
        task.cancel()
        await ends(task)
        async with asyncio.timeout(5):
            while broker.open or our_tasks():
                await asyncio.sleep(0.01)


async def test_a_link_that_is_ended_while_it_connects_leaves_no_client(monkeypatch):
    """The thread that connects cannot be cancelled."""
    goes_on = threading.Event()
    connects = link_module._Client._client_connect

    def late(client):
        goes_on.wait(10)
        connects(client)

    monkeypatch.setattr(link_module._Client, "_client_connect", late)
    async with ConnAck() as broker:
        link = Link(broker.settings, Topics("airflow"), will=Outgoing("t", b""))
        task = asyncio.create_task(link.run(lambda *message: None, nothing, lambda: None))
        await asyncio.sleep(0.05)
        task.cancel()
        await ends(task)
        goes_on.set()
        async with asyncio.timeout(5):
            await broker.accepted.wait()
            while broker.open or our_tasks():
                await asyncio.sleep(0.01)


async def test_a_link_whose_broker_reads_no_more():
    async with ConnAck(reads=False) as broker:
        link = Link(broker.settings, Topics("airflow"), will=Outgoing("t", b""))
        up = asyncio.Event()

        async def connected():
            up.set()

        task = asyncio.create_task(link.run(lambda *message: None, connected, lambda: None))
        await up.wait()
        publishing = asyncio.create_task(link.publish([Outgoing("t", b"x" * 1_000_000)] * 8))
        await asyncio.sleep(0.3)
        task.cancel()
        await ends(task)
        assert not await publishing
        assert not our_tasks()


async def test_a_pause_says_whether_it_was_ended():
    event = asyncio.Event()
    assert not await pause(event, 0.01)
    event.set()
    assert await pause(event, 60)


class SwallowedError(OperationalError):
    """What a cancelled call to a database that is away may end with, instead of the cancellation."""

    def __init__(self):
        super().__init__("SELECT", {}, ConnectionError("away"))


async def away(*arguments):
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise SwallowedError from None


async def test_the_keeper_of_the_lease(monkeypatch):
    monkeypatch.setattr(leader.lease, "renew", away)
    monkeypatch.setattr(leader, "pause", lambda *of: turns(1))
    task = asyncio.create_task(LeaseKeeper(SimpleNamespace(lease_ttl=60), None, Lease("b", 1, 0)).run())
    await turns(5)
    task.cancel()
    await ends(task)


async def test_what_the_leader_tries_again():
    async def tries():
        while not await Leader._guarded(None, away()):
            pass

    task = asyncio.create_task(tries())
    await turns(3)
    task.cancel()
    await ends(task)


async def test_the_watch_for_new_rows(monkeypatch):
    async def interrupted(*arguments):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("away") from None

    monkeypatch.setattr(wakeup, "_listen", interrupted)
    task = asyncio.create_task(wakeup.watch("postgresql://h/d", "", lambda: None))
    await turns(3)
    task.cancel()
    await ends(task)
