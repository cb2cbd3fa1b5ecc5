"""How the bridge hears of new rows: the database says so.

PostgreSQL: `LISTEN`; the executor notifies in its inserting transaction, so the message comes on commit and not
before. SQLite: `PRAGMA data_version` changes when another connection has committed. Anything else is polled.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Final

import asyncpg
from sqlalchemy.engine import make_url
from tenacity import AsyncRetrying, wait_random_exponential

from airflow_mqtt.bridge.cancellation import raise_if_cancelled
from airflow_mqtt.database import tables
from airflow_mqtt.database.engine import connect_by_url, sqlite_uri

log = logging.getLogger(__name__)

#: Seconds between two looks at SQLite's counter; one costs some microseconds.
_SQLITE_INTERVAL: Final = 0.05

#: Seconds between two checks that the listening connection still answers.
_LISTEN_CHECK: Final = 30.0


async def watch(database_url: str, team_name: str, wake: Callable[[], None]) -> None:
    """Call `wake` whenever new rows may be there. Runs until cancelled; survives what the database does."""
    url = make_url(database_url)
    hear = partial(_listen, database_url, team_name, wake)
    if url.drivername.startswith("sqlite"):
        hear = partial(_watch_sqlite, str(url.database), wake)
    async for attempt in AsyncRetrying(wait=wait_random_exponential(multiplier=0.5, max=10)):
        with attempt:
            try:
                await hear()
            except (OSError, sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise_if_cancelled()
                log.warning("the database's notifications are interrupted, polling meanwhile: %s", error)
                raise


async def _listen(url: str, team_name: str, wake: Callable[[], None]) -> None:
    connection = await connect_by_url(url, server_settings={})
    try:

        def heard(_connection: object, _pid: int, _channel: str, payload: str) -> None:
            if payload == team_name:
                wake()

        await connection.add_listener(tables.NOTIFY_CHANNEL, heard)
        wake()  # what came before we listened
        while True:
            await asyncio.sleep(_LISTEN_CHECK)
            await connection.execute("SELECT 1")
    finally:
        connection.terminate()


async def _watch_sqlite(path: str, wake: Callable[[], None]) -> None:
    connection = sqlite3.connect(sqlite_uri(path), uri=True, timeout=0.01)
    try:
        seen = None
        while True:
            try:
                (version,) = connection.execute("PRAGMA data_version").fetchone()
            except sqlite3.OperationalError:
                version = None  # locked: somebody writes
            if version != seen or version is None:
                seen = version
                wake()
            await asyncio.sleep(_SQLITE_INTERVAL)
    finally:
        connection.close()
