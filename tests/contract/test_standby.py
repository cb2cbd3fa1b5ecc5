"""What bridges say of themselves in the database, and what a page reads of it."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from airflow_mqtt.bridge import lease, standby
from airflow_mqtt.config.version import VERSION
from airflow_mqtt.database import tables
from airflow_mqtt.database.bridges import GONE_AFTER, Word, bridges
from airflow_mqtt.database.engine import Database, make_engine


@pytest.fixture
def as_bridge(engine, database_url):
    """Run a coroutine function with a bridge's database."""

    def run(work):
        async def with_database():
            database = Database(make_engine(database_url), "")
            try:
                return await work(database)
            finally:
                await database.engine.dispose()

        return asyncio.run(with_database())

    return run


def read(engine, team_name=""):
    with Session(engine) as session:
        return bridges(session, team_name)


async def lead(database, name="one"):
    return await lease.take(database, await lease.read(database), name, f"host of {name}")


def test_nobody_has_ever_led(engine):
    assert read(engine).document() == {"leader": None, "standby": [], "refused": {}, "figures": {}}


def test_a_leader_says_who_it_is_from_the_first_moment(engine, as_bridge):
    as_bridge(lead)
    leader = read(engine).leader
    assert (leader.instance, leader.host, leader.epoch, leader.version) == ("one", "host of one", 1, VERSION)
    assert leader.since == leader.seen_at > 0


def test_a_renewal_carries_its_word(engine, as_bridge):
    async def work(database):
        held = await lead(database)
        await lease.renew(database, held, Word(1, "9", 5.0, 6.0, {"forbidden": 2}, {"cpu": 0.5}))
        await lease.renew(database, held)

    as_bridge(work)
    found = read(engine)
    assert (found.leader.since, found.leader.version, found.leader.seen_at) == (5.0, "9", 6.0)
    assert (found.refused, found.figures) == ({"forbidden": 2}, {"cpu": 0.5})


def test_the_word_of_a_predecessor_does_not_count(engine, as_bridge):
    """A bridge of a version before takes over, and does not know the column."""
    as_bridge(lead)
    with engine.begin() as connection:
        connection.execute(sa.update(tables.bridge).values(holder="old", epoch=2, host="h"))
    found = read(engine)
    assert (found.leader.instance, found.leader.since, found.leader.version) == ("old", None, "")
    assert found.figures == {}


def test_a_word_of_another_version_is_none(engine, as_bridge):
    as_bridge(lead)
    for word in ("{}", "[1]", "no JSON", '{"epoch": 1, "more": 2}'):
        with engine.begin() as connection:
            connection.execute(sa.update(tables.bridge).values(word=word))
        assert read(engine).leader.since is None


def test_a_lease_that_was_given_back_is_nobodys(engine, as_bridge):
    async def work(database):
        await lease.give_back(database, await lead(database))

    as_bridge(work)
    assert read(engine).leader is None


def test_who_stands_by_says_so_again_and_again_in_one_row(engine, as_bridge):
    async def work(database):
        await standby.say(database, "two", "old host")
        await standby.say(database, "two", "host")
        await standby.say(database, "three", "host")

    as_bridge(work)
    found = read(engine).standby
    assert [(one.instance, one.host, one.version) for one in found] == [
        ("three", "host", VERSION),
        ("two", "host", VERSION),
    ]
    assert read(engine, "another team").standby == []


def test_bridges_of_one_name_do_not_end_each_other(engine, as_bridge):
    """Two hosts of one name, or a setting that was copied: what is only for people harms nobody."""

    async def work(database):
        await asyncio.gather(*(standby.say(database, "two", "host") for _ in range(4)))

    as_bridge(work)
    assert [one.instance for one in read(engine).standby] == ["two"]


def test_who_leads_or_ends_stands_by_no_more(engine, as_bridge):
    async def work(database):
        for name in ("one", "two", "three"):
            await standby.say(database, name, "host")
        await lead(database)
        await standby.leave(database, "three")

    as_bridge(work)
    assert [one.instance for one in read(engine).standby] == ["two"]


def test_who_is_gone_is_forgotten_by_the_others(engine, as_bridge):
    as_bridge(lambda database: standby.say(database, "gone", "host"))
    with engine.begin() as connection:
        connection.execute(sa.update(tables.standby).values(seen_at=tables.standby.c.seen_at - GONE_AFTER - 1))
    assert read(engine).standby == []
    as_bridge(lambda database: standby.say(database, "two", "host"))
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.standby.c.instance)).scalars().all() == ["two"]
