"""The lease on real databases: who was first, who is late, and what a sleeping leader has left open."""

import asyncio

import pytest
import sqlalchemy as sa

from airflow_mqtt.bridge import lease
from airflow_mqtt.database import connections, tables
from airflow_mqtt.database.engine import Database, make_engine
from airflow_mqtt.database.errors import DeposedError, is_transient
from proxy import Proxy
from schema import with_tables


def bridge(url, name):
    """A database as bridge `name` has it. Idle transactions are not what ends first here."""
    return Database(make_engine(url, instance=name, idle_limit=60), "")


async def lead(database, name):
    held = await lease.take(database, await lease.read(database), name, "host")
    database.epoch = held.epoch
    return held


def run_with_two(url, test):
    """Run a coroutine function with two bridges on one database."""

    async def between():
        one, other = bridge(url, "one"), bridge(url, "two")
        try:
            await test(one, other)
        finally:
            await one.engine.dispose()
            await other.engine.dispose()

    engine = with_tables(url)
    engine.dispose()
    asyncio.run(between())


def test_one_of_two_takes_it(database_url):
    async def race(one, other):
        seen = await lease.read(one)
        taken = await asyncio.gather(lease.take(one, seen, "one", "h"), lease.take(other, seen, "two", "h"))
        assert [held.epoch for held in taken if held] == [1]

    run_with_two(database_url, race)


def test_a_renewal_whose_answer_was_lost_deposes_nobody(database_url):
    async def renew(one, other):
        held = await lead(one, "one")
        assert await lease.renew(one, held)
        assert await lease.renew(one, held)  # it has raised the beat before, and does not know
        await lead(other, "two")
        assert not await lease.renew(one, held)

    run_with_two(database_url, renew)


def test_a_deposed_leader_writes_nothing(database_url):
    async def write(one, other):
        await lead(one, "one")
        await lead(other, "two")
        with pytest.raises(DeposedError):
            async with one.write():
                pytest.fail("it was let in")

    run_with_two(database_url, write)


def test_a_connection_that_is_silently_dead_does_not_hold_up_a_bridge(postgres_url, monkeypatch):
    """A firewall forgot it: it stands, and nothing comes. TCP would notice after a quarter of an hour."""
    monkeypatch.setattr(connections, "STATEMENT_TIMEOUT", 0.5)
    direct = sa.engine.make_url(postgres_url)
    with Proxy(direct.port) as proxy:

        async def lose(one, _other):
            held = await lead(one, "one")
            proxy.freeze()
            async with asyncio.timeout(60):
                with pytest.raises(TimeoutError) as lost:
                    await lease.renew(one, held)
                assert is_transient(lost.value)
                while not await renewed(one, held):
                    pass

        async def renewed(one, held):
            try:
                return await lease.renew(one, held)
            except Exception as error:
                if not is_transient(error):
                    raise
                return False

        run_with_two(direct.set(port=proxy.port).render_as_string(hide_password=False), lose)


def test_what_a_sleeper_left_open_keeps_nobody_waiting(postgres_url):
    """One transaction holds the lease, a second waits for the first, and their client says nothing any more."""

    async def take_over(one, other):
        await lead(one, "one")
        async with one.engine.connect() as first, one.engine.connect() as second:
            for connection in (first, second):
                await connection.execute(sa.select(tables.bridge).with_for_update(read=True, key_share=True))
            sessions = [(await connection.get_raw_connection()).driver_connection for connection in (first, second)]
            await first.execute(sa.text("LOCK mqtt_job"))
            waiting = asyncio.ensure_future(second.execute(sa.text("LOCK mqtt_job")))
            async with asyncio.timeout(60):
                assert (await lead(other, "two")).epoch == 2
                await asyncio.wait([waiting])  # the second may have got its lock when the first was ended
                while not all(session.is_closed() for session in sessions):
                    await asyncio.sleep(0.02)
            for connection in (first, second):
                if not connection.invalidated:  # SQLAlchemy has not seen that nothing is left to roll back
                    await connection.invalidate()

    run_with_two(postgres_url, take_over)
