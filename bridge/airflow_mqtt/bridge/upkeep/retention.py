"""What has ended long ago goes, a little at a time: short transactions, then a pause."""

import logging
from typing import Final

from sqlalchemy import Select, Table, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from airflow_mqtt.database import tables
from airflow_mqtt.database.engine import Database
from airflow_mqtt.database.retention import BATCH, UNHEARD, belongings, deletions, ended, old_acts

log = logging.getLogger(__name__)

#: Job ids that are looked at in one pass for rows whose job is gone.
ORPHAN_PAGE: Final = 1000

#: Seconds to the next batch while there is something to delete, and when there is not.
BUSY_PAUSE: Final = 2.0
IDLE_PAUSE: Final = 600.0


class Retention:
    """Deletes jobs that ended, and the record of acts, more than `retention` seconds ago; 0 keeps them for ever.

    `pause` is the number of seconds to wait before the next `step`: a new leader begins after a short one, so that
    its first work is what came while nobody led.
    """

    def __init__(self, database: Database, retention: float) -> None:
        self._database = database
        self._retention = retention
        self._orphans_after = ""
        self.pause = BUSY_PAUSE

    async def step(self, now: float) -> None:
        """Delete one batch. Raises `DeposedError`."""
        jobs, acts = (await self._forget_jobs(now), await self._forget_acts(now)) if self._retention else (0, 0)
        if jobs or acts:
            log.info("deleted %d jobs that ended, and %d acts, more than %.0f s ago", jobs, acts, self._retention)
        if not jobs:
            await self._forget_orphans()
        self.pause = BUSY_PAUSE if BATCH in (jobs, acts) else IDLE_PAUSE

    async def _forget_jobs(self, now: float) -> int:
        unheard_before = now - max(self._retention, UNHEARD)
        async with self._database.write() as connection:
            return await _forget_jobs(
                connection, self._database.team_name, before=now - self._retention, unheard_before=unheard_before
            )

    async def _forget_acts(self, now: float) -> int:
        async with self._database.write() as connection:
            deleted = await connection.execute(old_acts(self._database.team_name, now - self._retention))
        return deleted.rowcount

    async def _forget_orphans(self) -> None:
        """Look at the next page of logs and events for such as belong to no job, round and round.

        Nothing of ours leaves any, but a log may be written beside us: that of a triggerer for a job that ends.
        """
        async with self._database.write() as connection:
            self._orphans_after = await _forget_orphans(connection, self._orphans_after)


async def _forget_jobs(connection: AsyncConnection, team_name: str, *, before: float, unheard_before: float) -> int:
    """Delete up to `BATCH` jobs that ended before `before`, with their events and logs; return how many."""
    query = ended(team_name, before=before, unheard_before=unheard_before)
    ids = list((await connection.execute(query)).scalars())
    for statement in deletions(ids) if ids else ():
        await connection.execute(statement)
    return len(ids)


async def _forget_orphans(connection: AsyncConnection, after: str) -> str:
    """Delete the events and logs that belong to no job, among `ORPHAN_PAGE` job ids that come next after `after`.

    Returns the last id that was looked at, from which to go on; empty at the end of both tables. Order and comparison
    are the database's: its collation need not be Python's.
    """
    pages = [_owners(table, after).subquery() for table in (tables.job_log, tables.job_event)]
    query = union(*(select(page.c.job_id) for page in pages)).order_by("job_id").limit(ORPHAN_PAGE)
    seen = list((await connection.execute(query)).scalars())
    known = (await connection.execute(select(tables.job.c.id).where(tables.job.c.id.in_(seen)))).scalars()
    orphans = sorted(set(seen) - set(known))
    for statement in belongings(orphans) if orphans else ():
        await connection.execute(statement)
    return seen[-1] if len(seen) == ORPHAN_PAGE else ""


def _owners(table: Table, after: str) -> Select[tuple[str]]:
    """The first `ORPHAN_PAGE` job ids after `after` of which `table` has rows."""
    owner = table.c.job_id
    return select(owner).where(owner > after).group_by(owner).order_by(owner).limit(ORPHAN_PAGE)
