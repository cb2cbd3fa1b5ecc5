"""Who leads: one row, without clocks.

The leader raises `beat` several times per `lease_ttl`. A standby that has seen (epoch, beat) stand still for
`lease_ttl` on its own monotonic clock takes over by a compare-and-set on both, which raises `epoch`. No clock of
another machine is ever compared; `database.Database.write` fences a leader that only slept.
"""

import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Update, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from airflow_mqtt.bridge import standby
from airflow_mqtt.config.version import VERSION
from airflow_mqtt.database import tables
from airflow_mqtt.database.bridges import Word
from airflow_mqtt.database.connections import session_name
from airflow_mqtt.database.engine import Database

#: How often a standby looks at the lease while it would last if it were not renewed.
_LOOKS: Final = 6

#: Seconds between two looks at least.
_LEAST: Final = 0.001


@dataclass(frozen=True, slots=True)
class Lease:
    """The row as seen."""

    holder: str
    epoch: int
    beat: int


@dataclass(frozen=True, slots=True)
class Watch:
    """A lease, and since when it has looked like that (on the watcher's monotonic clock)."""

    lease: Lease
    since: float


def look(before: Watch | None, lease: Lease, now: float) -> Watch:
    """Return what a standby knows after seeing `lease`."""
    return before if before is not None and before.lease == lease else Watch(lease, now)


def may_take(watch: Watch, lease_ttl: float, now: float) -> bool:
    """Whether the lease is free: given back, or not renewed for `lease_ttl`."""
    return watch.lease.holder == "" or now - watch.since >= lease_ttl


def next_look(watch: Watch | None, lease_ttl: float, now: float) -> float:
    """Return in how many seconds a standby looks at the lease again: not later than that would be free."""
    often = lease_ttl / _LOOKS
    left = often if watch is None else watch.since + lease_ttl - now
    return max(_LEAST, min(often, left)) if left > 0 else often


async def read(database: Database) -> Lease:
    """Return the lease; the team's first bridge makes it."""
    query = select(tables.bridge.c.holder, tables.bridge.c.epoch, tables.bridge.c.beat).where(
        tables.bridge.c.team_name == database.team_name
    )
    async with database.read() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is not None:
        return Lease(row.holder, row.epoch, row.beat)
    try:
        async with database.engine.begin() as connection:
            values = {"team_name": database.team_name, "holder": "", "epoch": 0, "beat": 0}
            await connection.execute(insert(tables.bridge).values(**values))
    except IntegrityError:
        pass  # another bridge was first
    return Lease("", 0, 0)


async def take(database: Database, seen: Lease, holder: str, host: str) -> Lease | None:
    """Take over the lease as `seen`, with a first word of the leader; None when somebody was faster.

    Transactions of the leader before that still run are ended, or waited for where that cannot be: their `FOR KEY
    SHARE` gives way to renewals, and not to `FOR UPDATE`.
    """
    if seen.holder not in ("", holder):
        await _end_sessions(database, seen.holder)
    after = Lease(holder, seen.epoch + 1, 0)
    still = _of(database, seen).where(tables.bridge.c.beat == seen.beat)
    now = time.time()
    word = Word(after.epoch, VERSION, since=now, at=now).render()
    statement = still.values(holder=holder, epoch=after.epoch, beat=0, host=host, word=word)
    async with database.engine.begin() as connection:
        row = select(tables.bridge.c.epoch).where(tables.bridge.c.team_name == database.team_name)
        await connection.execute(row.with_for_update())
        changed = (await connection.execute(statement)).rowcount == 1
        if changed:
            await connection.execute(standby.no_more(database, holder))
    return after if changed else None


async def _end_sessions(database: Database, holder: str) -> None:
    """End what a bridge that sleeps has left open in PostgreSQL.

    Its transactions wait for one another; each that gets on then waits for the sleeper, for all of its idle limit.
    Only what is in a transaction: a pooler lends a session that is idle to somebody else.
    """
    if database.engine.dialect.name != "postgresql":
        return
    statement = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND usename = current_user AND application_name = :name AND state <> 'idle'"
    )
    async with database.read() as connection:
        await connection.execute(statement, {"name": session_name(holder)})


async def renew(database: Database, held: Lease, word: Word | None = None) -> bool:
    """Renew `held`, with a new word of the leader if there is one; False when it is no longer ours."""
    said = {} if word is None else {"word": word.render()}
    return await _set(database, _of(database, held), beat=tables.bridge.c.beat + 1, **said)


async def give_back(database: Database, held: Lease) -> None:
    """Let the next bridge begin at once."""
    await _set(database, _of(database, held), holder="")


async def _set(database: Database, statement: Update, **values: object) -> bool:
    async with database.engine.begin() as connection:
        return (await connection.execute(statement.values(**values))).rowcount == 1


def _of(database: Database, held: Lease) -> Update:
    """A compare-and-set on the lease without its beat, which a renewal whose answer was lost has raised."""
    return update(tables.bridge).where(
        tables.bridge.c.team_name == database.team_name,
        tables.bridge.c.epoch == held.epoch,
        tables.bridge.c.holder == held.holder,
    )
