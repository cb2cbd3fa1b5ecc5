"""The ledger, the lease and everything else on PostgreSQL behind PgBouncer, in each of its two modes."""

import asyncio

import pytest
import sqlalchemy as sa

from airflow_mqtt.bridge.upkeep import wakeup
from airflow_mqtt.database.connections import connect_by_url, session_settings
from airflow_mqtt.database.ledger import Committed
from airflow_mqtt.protocol.jobs import JobEvent
from contract import test_lease
from ledger_site import Site, moved
from servers import POOL

SETTINGS = session_settings("one", 60)


@pytest.fixture
def pooled_url(pooler, postgres_url):
    return pooler.url_of(postgres_url)


def left_behind(url):
    """What each session that the pooler lends holds of those who had it before: statements, and settings of ours."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"), poolclass=sa.NullPool)
    found = set()
    for _ in range(2 * POOL):
        with engine.begin() as connection:
            statements = connection.scalar(sa.text("SELECT count(*) FROM pg_prepared_statements"))
            found.add((statements, connection.scalar(sa.text("SHOW enable_seqscan"))))
    return found


async def test_batches_of_a_ledger_whose_sessions_change(pooled_url):
    site = await asyncio.to_thread(Site, pooled_url)
    for number in range(2 * POOL):
        site.add(f"job-{number}", "accepted")
        assert isinstance(await moved(site, f"job-{number}", JobEvent.START), Committed)
        assert (await site.ledger.news()).jobs == []
    assert left_behind(pooled_url) == {(0, "on")}
    await site.ledger.close()
    site.others.dispose()


async def test_a_direct_connection_keeps_its_statements(postgres_url):
    site = await asyncio.to_thread(Site, postgres_url)
    site.add("one", "accepted")
    assert isinstance(await moved(site, "one", JobEvent.START), Committed)
    assert not site.ledger._connection.pooled
    assert await site.ledger._connection.fetchval("SELECT count(*) FROM pg_prepared_statements") > 1
    await site.ledger.close()
    site.others.dispose()


async def test_a_pooler_is_noticed_and_told_our_settings_in_each_transaction(pooled_url):
    session = await connect_by_url(pooled_url, settings=SETTINGS)
    assert session.pooled
    for _ in range(2 * POOL):
        await session.execute(session.begin)
        assert await session.fetchval("SHOW enable_seqscan") == "off"
        assert await session.fetchval("SHOW idle_in_transaction_session_timeout") == "1min"
        await session.execute("COMMIT")
    await session.close()


@pytest.mark.parametrize(
    "test",
    [
        "test_one_of_two_takes_it", "test_a_renewal_whose_answer_was_lost_deposes_nobody",
        "test_a_deposed_leader_writes_nothing", "test_what_a_sleeper_left_open_keeps_nobody_waiting",
    ],
)  # fmt: skip
def test_the_lease(pooled_url, test):
    getattr(test_lease, test)(pooled_url)


async def test_nobody_listens_there_and_it_is_said_once(pooled_url, caplog, monkeypatch):
    monkeypatch.setattr(wakeup, "_POLL_INTERVAL", 0.01)
    looked = asyncio.Semaphore(0)
    watching = asyncio.create_task(wakeup.watch_postgres(pooled_url, "", looked.release))
    async with asyncio.timeout(60):
        for _ in range(5):
            await looked.acquire()
    watching.cancel()
    assert [record.getMessage().count("give listen_url") for record in caplog.records] == [1]


async def test_options_of_the_url_are_set_there_too(pooled_url):
    url = f"{pooled_url}?options=-c%20search_path=pg_catalog&statement_timeout=4000&application_name=x&keepalives=1"
    session = await connect_by_url(url, settings=SETTINGS)
    await session.execute(session.begin)
    assert await session.fetchval("SHOW search_path") == "pg_catalog"
    assert await session.fetchval("SHOW statement_timeout") == "4s"
    await session.execute("COMMIT")
    await session.close()
