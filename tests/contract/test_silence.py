"""How long a worker was silent, over changes of the leader: on real databases."""

from types import SimpleNamespace

import sqlalchemy as sa

from airflow_mqtt.bridge.dispatch import fleet
from airflow_mqtt.bridge.dispatcher import Dispatcher
from airflow_mqtt.bridge.store import SqlTx
from airflow_mqtt.database import tables
from bridge_samples import NOW
from contract.test_lease import lead, run_with_two


async def _insert(database, **seen_at):
    async with database.engine.begin() as connection:
        for name, seen in seen_at.items():
            await connection.execute(sa.insert(tables.worker).values(name=name, state="idle", seen_at=seen))


async def _silences(database, now):
    async with database.write() as connection:
        workers = await SqlTx(connection, "").workers()
    return {name: fleet.silent_for(worker, now=now) for name, worker in workers.items() if worker.seen_at}


async def _take_over(database, now):
    settings = SimpleNamespace(instance="one", root="airflow", accept_timeout=10.0, accept_tries=3)
    async with database.write() as connection:
        await Dispatcher(settings, database.epoch).take_over(SqlTx(connection, ""), now)


def test_a_new_leader_counts_on_from_where_the_last_one_heard_anybody(database_url):
    """An hour without a bridge, by a clock that is an hour ahead, or behind: the dead is silent for as long as it was."""

    async def test(one, other):
        await lead(one, "one")
        await _insert(one, never=0.0, dead=NOW - 600, living=NOW - 2)
        now = NOW
        for hour in (3600.0, 2 * 3600.0, -3600.0):
            now += hour
            await _take_over(one, now)
            assert await _silences(one, now) == {"dead": 598.0, "living": 0.0}

    run_with_two(database_url, test)


def test_deaf_seconds_are_nobodys_silence_and_no_more_than_that(database_url):
    async def test(one, other):
        await lead(one, "one")
        await _insert(one, dead=NOW - 600, living=NOW - 2)
        async with one.write() as connection:
            await SqlTx(connection, "").forgive(50.0, NOW)
        assert await _silences(one, NOW) == {"dead": 550.0, "living": 0.0}

    run_with_two(database_url, test)
