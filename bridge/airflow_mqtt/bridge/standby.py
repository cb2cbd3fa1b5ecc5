"""The row of a bridge that stands by, for people: see `database.bridges`. Nobody decides by it."""

from typing import Final

from sqlalchemy import Delete, delete, insert, update
from sqlalchemy.exc import IntegrityError

from airflow_mqtt.config.version import VERSION
from airflow_mqtt.database import tables
from airflow_mqtt.database.bridges import GONE_AFTER, clock
from airflow_mqtt.database.engine import Database

_ROW: Final = tables.standby.c


async def say(database: Database, instance: str, host: str) -> None:
    """Say that `instance` stands by now, and forget those that have not said so for long."""
    of_team = _ROW.team_name == database.team_name
    now = clock(database.engine.dialect.name)
    values = {"host": host, "version": VERSION, "seen_at": now}
    try:
        async with database.engine.begin() as connection:
            await connection.execute(delete(tables.standby).where(of_team, _ROW.seen_at < now - GONE_AFTER))
            own = update(tables.standby).where(of_team, _ROW.instance == instance).values(**values)
            if not (await connection.execute(own)).rowcount:
                identity = {"team_name": database.team_name, "instance": instance}
                await connection.execute(insert(tables.standby).values(**identity, **values))
    except IntegrityError:
        pass  # another bridge of this name was first


async def leave(database: Database, instance: str) -> None:
    """Say so no more: it ends."""
    async with database.engine.begin() as connection:
        await connection.execute(no_more(database, instance))


def no_more(database: Database, instance: str) -> Delete:
    return delete(tables.standby).where(_ROW.team_name == database.team_name, _ROW.instance == instance)
