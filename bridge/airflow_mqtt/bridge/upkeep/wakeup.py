"""How the bridge hears of new rows: the database says so.

PostgreSQL: `LISTEN`; whoever writes notifies in the same transaction, so the message comes on commit and not before.
Behind a pooler nobody can listen, since the session that does is lent to others: it is looked often, and that is said.
SQLite: a counter that changes when another connection has committed. The writer looks by itself now and then, in case
that nobody could tell it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from airflow_mqtt.bridge.cancellation import raise_if_cancelled
from airflow_mqtt.database import tables
from airflow_mqtt.database.connections import connect_by_url
from airflow_mqtt.protocol.errors import RefusedError

log = logging.getLogger(__name__)

#: Seconds between two looks at SQLite's counter; one costs some microseconds.
_SQLITE_INTERVAL: Final = 0.05

#: Seconds between two looks where nobody can listen; one is a transaction.
_POLL_INTERVAL: Final = 0.5

#: Payloads that are told once each, since they are of other teams.
_UNKNOWN: Final = 20

#: Seconds between two checks that the listening connection still answers.
_LISTEN_CHECK: Final = 30.0


#: Longest pause before it is tried again to listen, in seconds. It begins with `_SHORTEST` after each success.
_LONGEST: Final = 10.0
_SHORTEST: Final = 0.5


async def watch_postgres(url: str, team_name: str, wake: Callable[[], None]) -> None:
    """Call `wake` whenever new rows may be there. Runs until cancelled; survives what the database does.

    `url` is that of the database, or `listen_url`.
    """
    await _for_ever(lambda: _listen(url, team_name, wake))


async def watch_sqlite(changed: Callable[[], Awaitable[bool]], wake: Callable[[], None]) -> None:
    """As `watch_postgres`; `changed` says whether somebody else has committed since it was asked last."""

    async def look() -> None:
        while True:
            if await changed():
                wake()
            await asyncio.sleep(_SQLITE_INTERVAL)

    await _for_ever(look)


async def _for_ever(hear: Callable[[], Awaitable[None]]) -> None:
    pause = _SHORTEST
    while True:
        began = time.monotonic()
        try:
            await hear()
        except RefusedError:
            raise
        except Exception as error:  # whatever a driver has: the writer looks by itself
            raise_if_cancelled()
            log.warning("the database's notifications are interrupted, looking by ourselves meanwhile: %.300r", error)
        if time.monotonic() - began > _LONGEST:
            pause = _SHORTEST  # it went well for a while
        await asyncio.sleep(pause)
        pause = min(_LONGEST, 2 * pause)


async def _listen(url: str, team_name: str, wake: Callable[[], None]) -> None:
    connection = await connect_by_url(url, settings={})
    if connection.pooled:
        connection.terminate()
        await _poll(wake)
    unknown: set[str] = set()
    try:

        def heard(_connection: object, _pid: int, _channel: str, payload: str) -> None:
            if payload == team_name:
                wake()
            elif payload not in unknown and len(unknown) < _UNKNOWN:
                unknown.add(payload)
                log.info("a notification for team %.100r is not for this bridge, which serves %r", payload, team_name)

        await connection.add_listener(tables.NOTIFY_CHANNEL, heard)
        wake()  # what came before we listened
        while True:
            await asyncio.sleep(_LISTEN_CHECK)
            await connection.execute("SELECT 1")
    finally:
        connection.terminate()


async def _poll(wake: Callable[[], None]) -> None:
    log.warning(
        "the database is reached through a connection pooler, which passes no notifications on: looking for new jobs"
        " each %g s; give listen_url, the URL of PostgreSQL itself, to hear of them at once",
        _POLL_INTERVAL,
    )
    while True:
        wake()
        await asyncio.sleep(_POLL_INTERVAL)
