"""Memory, brought to what the database says: news of others, rows that met a conflict, commits that nobody answered.

What is read replaces what is in memory. A round of the writer begins with it, so that its scripts decide over what is.
"""

import logging
from collections.abc import Iterable
from typing import Final

from airflow_mqtt.bridge.backlog import Work
from airflow_mqtt.bridge.dispatch.reports import Reports
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.database.ledger import Conflict, Ledger, News
from airflow_mqtt.database.records import replaced
from airflow_mqtt.protocol.jobs import JobState

log = logging.getLogger(__name__)

#: Seconds between two looks at news that nobody told us of.
NEWS_INTERVAL: Final = 5.0


class Refresh:
    """Reads for the writer what others may have written."""

    def __init__(self, ledger: Ledger, living: Living, reports: Reports) -> None:
        self._ledger = ledger
        self._living = living
        self._reports = reports
        self._has_news = True
        self._news_at = 0.0
        #: Jobs of a round of which nobody knows whether it has committed.
        self.unsure: set[str] = set()
        #: Workers of which something new is desired.
        self.judged: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether something is to be read, whatever the time is."""
        return bool(self._has_news or self.unsure)

    @property
    def next_look(self) -> float:
        """When to look for news that nobody told us of."""
        return self._news_at + NEWS_INTERVAL

    def turn_back(self, now: float) -> None:
        """The clock was set back to `now`."""
        self._news_at = min(self._news_at, now)

    def look_for_news(self) -> None:
        """Somebody else has written something."""
        self._has_news = True

    async def make_sure(self) -> None:
        """Read the jobs of a round whose commit was not answered. What it may have claimed was never published."""
        if not self.unsure:
            return
        await self._reload(self.unsure)
        for id_ in sorted(self.unsure):
            job = self._living.jobs.get(id_)
            if job is not None and job.state in (JobState.DISPATCHED, JobState.CANCELLING):
                self._living.put_job(replaced(job, published_at=None))
        self.unsure = set()

    async def read_news(self, now: float) -> None:
        """Read what others have written, if somebody said so or it is time."""
        if not self._has_news and now < self.next_look:
            return
        self._has_news = False
        try:
            news = await self._ledger.news()
        except BaseException:
            self._has_news = True
            raise
        self._news_at = now
        self._has_news = self._has_news or news.more
        self._take_in(news)

    def _take_in(self, news: News) -> None:
        living = self._living
        if news.access is not None:
            log.info("what is allowed has changed (revision %d)", news.access.revision)
            living.set_access(news.access)
        for job in news.jobs:
            living.put_job(job)
        for name in sorted(news.removals):
            living.removals[name] = None
        for row in news.workers:
            known = living.workers.get(row.name)
            living.put_worker(row if known is None else replaced(known, desired=row.desired))
            living.unsaid[row.name] = None
            self.judged.add(row.name)

    async def load_unknown(self, work: list[Work], now: float) -> None:
        """Read the jobs that messages among `work` name, and that memory does not have."""
        draft = Draft(self._living, now)
        ids = {id_ for one in work if one.heard for id_ in self._reports.unknown_jobs(draft, one.heard)}
        if ids:
            for job in await self._ledger.jobs(sorted(ids)):
                self._living.put_job(job)

    async def after_conflict(self, conflict: Conflict, *, last: bool) -> frozenset[str]:
        """Read anew what others have changed; return the jobs whose rows are as we saw them, since somebody holds them.

        `last`: the next try shall succeed, whatever it leaves out.
        """
        before = {id_: _seen(self._living, id_) for id_ in conflict.jobs}
        await self._reload(conflict.jobs)
        return frozenset(id_ for id_ in conflict.jobs if last or _seen(self._living, id_) == before[id_])

    async def _reload(self, ids: Iterable[str]) -> None:
        wanted = sorted(ids)
        found = {job.id: job for job in await self._ledger.jobs(wanted)}
        for id_ in wanted:
            if id_ in found:
                self._living.put_job(found[id_])
            else:
                self._living.take_out(id_)


def _seen(living: Living, id_: str) -> object:
    job = living.jobs.get(id_)
    if job is not None:
        return job.state, job.attempt, job.cancel_reason
    waiting = living.waiting.get(id_)
    return waiting and waiting.attempt
