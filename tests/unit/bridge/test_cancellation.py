"""A task of the bridge that is told to end does, whatever else happens in that moment."""

import asyncio
import threading
import time
from types import SimpleNamespace

import aiomqtt
import pytest
from sqlalchemy.exc import OperationalError

from airflow_mqtt.bridge import leadership
from airflow_mqtt.bridge.cancellation import pause
from airflow_mqtt.bridge.leader import Leader
from airflow_mqtt.bridge.leadership import LeaseKeeper
from airflow_mqtt.bridge.lease import Lease
from airflow_mqtt.bridge.mqtt.client import Client
from airflow_mqtt.bridge.mqtt.link import Link
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.bridge.upkeep import wakeup
from airflow_mqtt.database.errors import DeposedError
from airflow_mqtt.protocol.topics import Topics

#: Turns of the event loop between what happens and the cancellation; nothing here takes more.
MOMENTS = range(12)


async def ends(task):
    done, _ = await asyncio.wait([task], timeout=60)
    assert done, "it goes on"
    assert task.cancelled()


async def turns(number):
    for _ in range(number):
        await asyncio.sleep(0)


class Connection:
    """As much of aiomqtt's client as the link asks for. It stands until `lost` is set."""

    learnt = taken_over = False

    def __init__(self):
        self.lost = asyncio.Event()
        self.serving = asyncio.Event()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def subscribe(self, filters, timeout):
        return [1] * len(filters)

    async def deliver(self, messages):
        self.serving.set()
        await asyncio.Event().wait()

    async def until_lost(self):
        await self.lost.wait()
        raise aiomqtt.MqttError("lost")


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_link_when_it_loses_its_connection(monkeypatch, moment):
    connection = Connection()
    settings = SimpleNamespace(instance="b", mqtt_version="5", broker_url="mqtt://b")
    link = Link(settings, Topics("airflow"), will=Outgoing("t", b""))
    monkeypatch.setattr(link, "_connect", lambda version, receive: connection)

    task = asyncio.create_task(link.run(lambda *message: None, nothing, lambda: None))
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


def nothing():
    pass


async def test_a_link_that_is_ended_before_connack_leaves_no_client():
    async with ConnAck(delay=0.2) as broker:
        link = Link(broker.settings, Topics("airflow"), will=Outgoing("t", b""))
        task = asyncio.create_task(link.run(lambda *message: None, nothing, lambda: None))
        await broker.accepted.wait()
        task.cancel()
        await ends(task)
        async with asyncio.timeout(60):
            while broker.open or our_tasks():
                await asyncio.sleep(0.01)


async def test_a_link_that_is_ended_while_it_connects_leaves_no_client(monkeypatch):
    """The thread that connects cannot be cancelled."""
    goes_on = threading.Event()
    connects = Client._client_connect

    def late(client):
        goes_on.wait(60)
        connects(client)

    monkeypatch.setattr(Client, "_client_connect", late)
    async with ConnAck() as broker:
        link = Link(broker.settings, Topics("airflow"), will=Outgoing("t", b""))
        task = asyncio.create_task(link.run(lambda *message: None, nothing, lambda: None))
        await asyncio.sleep(0.05)
        task.cancel()
        await ends(task)
        goes_on.set()
        async with asyncio.timeout(60):
            await broker.accepted.wait()
            while broker.open or our_tasks():
                await asyncio.sleep(0.01)


async def test_a_link_whose_broker_reads_no_more():
    async with ConnAck(reads=False) as broker:
        link = Link(broker.settings, Topics("airflow"), will=Outgoing("t", b""))
        up = asyncio.Event()

        task = asyncio.create_task(link.run(lambda *message: None, up.set, lambda: None))
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


def keeper(tmp_path, *, ttl=60.0):
    (tmp_path / "bridge.db").touch()
    url = f"sqlite:///{tmp_path}/bridge.db"
    settings = SimpleNamespace(database_url=url, team_name="", instance="b", lease_ttl=ttl)
    return LeaseKeeper(settings, Lease("b", 1, 0))


async def no_keepers():
    """Wait until its thread has ended too."""
    async with asyncio.timeout(60):
        while any(thread.name == "keep the lease" for thread in threading.enumerate()):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("moment", ["between two renewals", "in a renewal"])
async def test_the_keeper_of_the_lease(monkeypatch, tmp_path, moment):
    asked = threading.Event()

    async def renew(*arguments):
        asked.set()
        await away()

    monkeypatch.setattr(leadership.lease, "renew", renew)
    in_renewal = moment == "in a renewal"
    task = asyncio.create_task(keeper(tmp_path, ttl=1 if in_renewal else 60).run())
    await asyncio.sleep(0.05)
    if in_renewal:
        await asyncio.to_thread(asked.wait, 60)
    task.cancel()
    await ends(task)
    await no_keepers()


async def test_a_lease_that_cannot_be_renewed_for_all_its_life_is_given_up(monkeypatch, tmp_path):
    """Whatever the database's driver makes of a time that is over."""
    monkeypatch.setattr(leadership.lease, "renew", away)
    with pytest.raises(DeposedError, match="could not be renewed"):
        await asyncio.wait_for(keeper(tmp_path, ttl=0.2).run(), 60)
    await no_keepers()


async def test_a_batch_that_renews_the_lease_keeps_it(monkeypatch, tmp_path):
    """SQLite has one lock: while batches take it without a gap, renewals of their own come late, or never."""
    now, tries = 0.0, 0

    async def late(*arguments):
        nonlocal now, tries
        tries += 1
        if tries <= 20:
            kept.note_renewed()
        now += 0.15
        raise SwallowedError

    monkeypatch.setattr(leadership, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(leadership.lease, "renew", late)
    kept = keeper(tmp_path, ttl=0.2)
    with pytest.raises(DeposedError):
        await asyncio.wait_for(kept.run(), 60)
    assert tries == 21
    await no_keepers()


async def test_another_bridge_has_taken_the_lease(monkeypatch, tmp_path):
    async def taken(*arguments):
        return False

    monkeypatch.setattr(leadership.lease, "renew", taken)
    with pytest.raises(DeposedError, match="another bridge"):
        await asyncio.wait_for(keeper(tmp_path, ttl=0.2).run(), 60)


async def test_a_leader_whose_loop_stands_still_gives_its_lease_up(monkeypatch, tmp_path):
    async def renews(*arguments):
        return True

    monkeypatch.setattr(leadership.lease, "renew", renews)
    monkeypatch.setattr(leadership, "_STANDSTILL", 0.3)
    kept, alive_at = keeper(tmp_path, ttl=0.05), time.monotonic()
    kept.watch(lambda: alive_at)
    with pytest.raises(DeposedError, match="stands still"):
        await asyncio.wait_for(kept.run(), 60)
    assert time.monotonic() - alive_at > 0.3


async def test_what_the_leader_tries_again():
    async def tries():
        while not await Leader._guarded(None, away()):
            pass

    task = asyncio.create_task(tries())
    await turns(3)
    task.cancel()
    await ends(task)


async def interrupted(*arguments):
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ConnectionError("away") from None


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
async def test_the_watch_for_new_rows(monkeypatch, database):
    monkeypatch.setattr(wakeup, "_listen", interrupted)
    watches = {
        "postgresql": lambda: wakeup.watch_postgres("postgresql://h/d", "", lambda: None),
        "sqlite": lambda: wakeup.watch_sqlite(interrupted, lambda: None),
    }
    task = asyncio.create_task(watches[database]())
    await turns(3)
    task.cancel()
    await ends(task)


async def test_the_writer_of_a_leader(monkeypatch):
    """Between two rounds, in one, and while it waits to try one again."""
    writer = SimpleNamespace(has_work=lambda now: True, round=away, next_deadline=0.0)
    itself = SimpleNamespace(
        _wake=asyncio.Event(), _feed=lambda writer: None, _health_file=SimpleNamespace(touch=lambda: None),
        _guarded=lambda work: Leader._guarded(None, work),
    )  # fmt: skip
    for moment in MOMENTS:
        task = asyncio.create_task(Leader._write(itself, writer))
        await turns(moment)
        task.cancel()
        await ends(task)
