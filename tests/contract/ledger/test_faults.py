"""The leader's ledger where the database fails: which faults pass, and that nothing is left behind by one."""

import asyncio
import contextlib
import sqlite3
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from airflow_mqtt.database.errors import is_transient
from airflow_mqtt.database.ledger import Committed, Writes
from airflow_mqtt.protocol.jobs import JobEvent
from ledger_site import Site, change_of, moved


async def test_what_one_batch_holds_that_no_column_takes_is_no_fault_of_the_database(site):
    site.add("one", "running")
    job = await site.job("one")
    before = site.rows()
    change = change_of(job, JobEvent.SUCCEED)
    with pytest.raises(Exception) as raised:
        await site.ledger.commit(Writes([replace(change, fields={**change.fields, "state": None})]))
    assert not is_transient(raised.value)
    assert site.rows() == before
    assert isinstance(await moved(site, "one", JobEvent.SUCCEED), Committed)


async def test_a_connection_that_the_server_ends_is_made_again(postgres_url):
    site = await asyncio.to_thread(Site, postgres_url)
    site.add("one", "accepted")
    job = await site.job("one")
    for _ in range(2):
        ours = "pg_stat_activity WHERE application_name = 'airflow-mqtt one' AND datname = current_database()"
        site.do(sa.text(f"SELECT pg_terminate_backend(pid) FROM {ours}"))
        while not site.ledger._connection.is_closed():
            await asyncio.sleep(0.01)
        assert await site.job("one") == job
    await site.ledger.close()
    site.others.dispose()


async def test_a_connection_that_ends_in_a_batch_is_a_fault_that_passes(postgres_url):
    site = await asyncio.to_thread(Site, postgres_url)
    site.add("one", "accepted")
    with pytest.raises(Exception) as raised:
        async with site.ledger._transaction() as connection:
            with contextlib.suppress(Exception):
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            await connection.execute("SELECT 1")
    assert is_transient(raised.value)
    assert isinstance(await moved(site, "one", JobEvent.START), Committed)
    await site.ledger.close()
    site.others.dispose()


async def test_a_batch_that_is_cancelled_leaves_a_ledger_that_works(postgres_url):
    site = await asyncio.to_thread(Site, postgres_url)
    site.add("one", "accepted")
    with site.others.begin() as connection:
        connection.exec_driver_sql("LOCK mqtt_job")
        task = asyncio.ensure_future(site.ledger.jobs(["one"]))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert isinstance(await moved(site, "one", JobEvent.START), Committed)
    await site.ledger.close()
    site.others.dispose()


async def test_a_lock_that_is_held_too_long_passes_and_leaves_nothing_open(sqlite_url, monkeypatch):
    site = Site(sqlite_url)
    site.add("one", "accepted")
    monkeypatch.setattr("airflow_mqtt.database.sqlite.SQLITE_BUSY", 0.05)
    with contextlib.closing(sqlite3.connect(make_url(sqlite_url).database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError) as raised:
            await site.job("one")
        assert is_transient(raised.value)
        other.execute("ROLLBACK")
    assert isinstance(await moved(site, "one", JobEvent.START), Committed)
    await site.ledger.close()
    site.others.dispose()
