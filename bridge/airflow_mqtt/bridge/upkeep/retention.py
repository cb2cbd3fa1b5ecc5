"""What has ended long ago goes, a little at a time: short transactions, then a pause."""

import logging
from typing import Final

from airflow_mqtt.bridge.store import SqlTx
from airflow_mqtt.database.engine import Database

log = logging.getLogger(__name__)

#: Jobs of one transaction, with all that belongs to them. It holds SQLite's only lock for some 10 ms.
BATCH: Final = 500

#: Job ids that are looked at in one pass for rows whose job is gone.
ORPHAN_PAGE: Final = 1000

#: Seconds to the next batch while there is something to delete, and when there is not.
BUSY_PAUSE: Final = 2.0
IDLE_PAUSE: Final = 600.0

#: A job whose end no scheduler has heard yet stays for at least so many seconds, whatever `retention` says.
UNHEARD: Final = 30 * 86400.0


class Retention:
    """Deletes jobs that ended more than `retention` seconds ago; 0 keeps them for ever.

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
        forgotten = await self._forget_jobs(now) if self._retention else 0
        if forgotten:
            log.info("deleted %d jobs that ended more than %.0f s ago", forgotten, self._retention)
        else:
            await self._forget_orphans()
        self.pause = BUSY_PAUSE if forgotten == BATCH else IDLE_PAUSE

    async def _forget_jobs(self, now: float) -> int:
        unheard_before = now - max(self._retention, UNHEARD)
        async with self._database.write() as connection:
            tx = SqlTx(connection, self._database.team_name)
            return await tx.forget_jobs(before=now - self._retention, unheard_before=unheard_before, limit=BATCH)

    async def _forget_orphans(self) -> None:
        """Look at the next page of logs and events for such as belong to no job, round and round.

        Nothing of ours leaves any, but a log may be written beside us: that of a triggerer for a job that ends.
        """
        async with self._database.write() as connection:
            tx = SqlTx(connection, self._database.team_name)
            self._orphans_after = await tx.forget_orphans(self._orphans_after, ORPHAN_PAGE)
