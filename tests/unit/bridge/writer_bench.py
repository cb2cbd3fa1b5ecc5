"""The one writer over a ledger in memory."""

import asyncio
from dataclasses import replace

from airflow_mqtt.bridge.dispatch.duties import Duties
from airflow_mqtt.bridge.dispatch.outage import Outage
from airflow_mqtt.bridge.dispatch.reports import Reports
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.outbox import Messages
from airflow_mqtt.bridge.writer import Writer
from airflow_mqtt.database.ledger import Committed, Conflict, News, Snapshot, Waiting
from airflow_mqtt.protocol.jobs import HELD, JobEvent, JobState
from airflow_mqtt.protocol.topics import Topics
from bridge_samples import NOW, RULES, job


class FakeLedger:
    """Rows in a dictionary, a compare-and-set, and faults: `locked` rows, `fails` (the next errors of commit)."""

    def __init__(self, *rows):
        self.rows = {row.id: row for row in rows if not hasattr(row, "seen_at")}
        self.workers = [row for row in rows if hasattr(row, "seen_at")]
        self.locked: set[str] = set()
        self.fails: list[tuple[BaseException, bool]] = []  # and whether the batch has committed all the same
        self.batches = []
        self.news_ids: set[str] = set()

    def others(self, id_, **values):
        """Somebody else writes."""
        self.rows[id_] = replace(self.rows[id_], **values)
        self.news_ids.add(id_)

    def snapshot(self):
        waits = [row for row in self.rows.values() if row.state is JobState.QUEUED and row.cancel_reason is None]
        return Snapshot(
            list(map(Waiting.of, waits)), [row for row in self.rows.values() if row.state in HELD], self.workers,
            frozenset(),
        )  # fmt: skip

    async def commit(self, writes):
        error, commits = self.fails.pop(0) if self.fails else (None, True)
        outcome = self._commit(writes) if commits else None
        if error is not None:
            raise error
        return outcome

    def _commit(self, writes):
        def as_seen(change):
            row = self.rows.get(change.id)
            return row is not None and change.id not in self.locked and (
                (row.state, row.attempt, row.cancel_reason)
                == (change.seen.state, change.seen.attempt, change.seen.cancel_reason)
            )  # fmt: skip

        missing = {change.id for change in writes.changes if not as_seen(change)}
        if missing:
            return Conflict(frozenset(missing))
        self.batches.append(writes)
        given = {}
        for change in writes.changes:
            self.rows[change.id] = replace(self.rows[change.id], **change.fields)
            if change.seen.state is JobState.QUEUED and change.fields["state"] is JobState.DISPATCHED:
                given[change.id] = (self.rows[change.id], "{}")
        return Committed(given)

    async def news(self):
        ids, self.news_ids = self.news_ids, set()
        return News([self.rows[id_] for id_ in sorted(ids)], [], frozenset(), more=False)

    async def jobs(self, ids):
        return [self.rows[id_] for id_ in ids if id_ in self.rows]

    async def workloads(self, ids):
        return {id_: '{"x":1}' for id_ in ids if id_ in self.rows}


class Bench:
    def __init__(self, *rows, connected=False, keeps_workers=0.0):
        self.now, self.out = NOW, []
        self.ledger = FakeLedger(*rows)
        self.messages = Messages(Topics("airflow"), 31)
        self.living = Living.of(self.ledger.snapshot(), lambda _: RULES)
        self.writer = Writer(
            self.ledger, self.living, Reports(self.messages, 1, "bridge:b", 10**6),
            Duties(self.messages, "bridge:b", lambda _: RULES, 10.0, keeps_workers), Outage(NOW), clock=lambda: self.now,
            future=asyncio.get_running_loop().create_future, publish=self.out.extend, wake=lambda: None,
            max_message_bytes=10**6,
        )  # fmt: skip
        if connected:
            self.writer.connect(NOW)
            self.writer.outage.unheard = 0.0

    def submit(self, name, script):
        return self.writer.submit(name, script)

    def start(self, id_, name="edge-1"):
        """Move a job that is accepted."""
        return self.submit(name, lambda draft: draft.move(draft.job(id_), JobEvent.START, by="test").state)

    async def turn(self, later=0.0):
        self.now += later
        await self.writer.round()


def accepted(id_, name="edge-1", **values):
    return job(**({"id": id_, "state": JobState.ACCEPTED, "worker": name, "accept_journal": "j"} | values))


AWAY = ConnectionError("away")
