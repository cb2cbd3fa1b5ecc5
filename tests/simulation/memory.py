"""A database in memory behind the real writer: rows, the fence of the lease, and others who write at the same time."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from tasks import Pause

from airflow_mqtt.database.errors import DeposedError
from airflow_mqtt.database.ledger import Committed, Conflict, News, Snapshot, Waiting, Writes
from airflow_mqtt.database.records import JOB_COLUMNS, REPORTED, Job, Worker
from airflow_mqtt.protocol.jobs import TERMINAL, JobState


class MemoryDatabase:
    """Rows as dictionaries. It outlives every bridge."""

    def __init__(self) -> None:
        self.epoch = 0
        self.rows: dict[str, dict[str, Any]] = {}
        self.workers: dict[str, Worker] = {}
        self.logs: dict[tuple[str, int], bytes] = {}
        self.heard: dict[str, list[float]] = {}  # worker -> when a sign of life of it was applied; for the judge
        self.locked: set[str] = set()  # jobs whose rows a scheduler holds in a transaction that has not ended
        self.superseded: dict[str, float] = {}  # jobs whose end was wished before they started -> when that committed

    def job(self, id_: str) -> Job:
        return _job(self.rows[id_])

    def wish_for_end(self, id_: str, now: float) -> None:
        """Commit what `operations.cancel(…, unstarted_only=True)` writes."""
        row = self.rows[id_]
        if row["state"] == JobState.QUEUED:
            row |= {"state": JobState.CANCELLED, "reason": "superseded", "finished_at": now, "report_pending": True}
        elif row["state"] in (JobState.DISPATCHED, JobState.ACCEPTED) and row["cancel_reason"] is None:
            row |= {"cancel_reason": "superseded", "cancel_by": "scheduler"}
        else:
            return
        row["news"] = True
        self.superseded[id_] = now


class MemoryLedger:
    """`Ledger` of one leader. Between the scripts and the commit time passes, in which others write."""

    def __init__(
        self, database: MemoryDatabase, epoch: int, pause: Callable[[], Pause], fate: Callable[[str], Any]
    ) -> None:
        """`fate` is asked before and after a commit: what it returns is awaited, and may be never done, or raise."""
        self._db, self._epoch, self._pause, self._fate = database, epoch, pause, fate

    async def snapshot(self) -> Snapshot:
        await self._begin()
        living = [_job(row) for row in self._db.rows.values() if row["state"] not in TERMINAL]
        waiting = [Waiting.of(job) for job in living if job.state is JobState.QUEUED and job.cancel_reason is None]
        ids = {one.id for one in waiting}
        return Snapshot(
            waiting, [job for job in living if job.id not in ids], list(self._db.workers.values()), frozenset()
        )

    async def commit(self, writes: Writes) -> Committed | Conflict:
        await self._begin()
        conflict = frozenset(change.id for change in writes.changes if not self._is_as_seen(change))
        if conflict:
            return Conflict(conflict)
        await self._fate("before")
        if self._epoch != self._db.epoch:
            raise DeposedError("deposed")
        dispatched = self._write(writes)
        await self._fate("after")
        return Committed(dispatched)

    def _is_as_seen(self, change: Any) -> bool:
        row, seen = self._db.rows[change.id], change.seen
        as_seen = (row["state"], row["attempt"], row["cancel_reason"]) == (seen.state, seen.attempt, seen.cancel_reason)
        return as_seen and change.id not in self._db.locked

    def _write(self, writes: Writes) -> dict[str, tuple[Job, str]]:
        database = self._db
        if writes.excused:
            for name, worker in database.workers.items():
                if worker.seen_at > 0:
                    database.workers[name] = replace(worker, seen_at=min(writes.now, worker.seen_at + writes.excused))
        dispatched = {}
        for change in writes.changes:
            row = database.rows[change.id]
            row |= change.fields
            if change.fields["state"] in REPORTED and change.fields["state"] != change.seen.state:
                row["report_pending"] = True
            if change.seen.state == JobState.QUEUED and change.fields["state"] == JobState.DISPATCHED:
                dispatched[change.id] = (_job(row), row["workload"])
        for chunk in writes.chunks:
            key = (chunk.job_id, chunk.attempt)
            assert len(database.logs.get(key, b"")) == chunk.offset, "a chunk of log twice, or behind a gap"
            database.logs[key] = database.logs.get(key, b"") + chunk.data
        for worker in writes.workers:
            database.workers[worker.name] = worker
        for name, (seq, seen_at) in writes.positions.items():
            database.workers[name] = replace(database.workers[name], seq=seq, seen_at=seen_at)
        return dispatched

    async def news(self) -> News:
        await self._begin()
        rows = [row for id_, row in self._db.rows.items() if row["news"] and id_ not in self._db.locked]
        for row in rows:
            row["news"] = False
        return News([_job(row) for row in rows], [], frozenset(), more=False)

    async def jobs(self, ids: Collection[str]) -> list[Job]:
        await self._begin()
        return [_job(self._db.rows[id_]) for id_ in ids if id_ in self._db.rows]

    async def workloads(self, ids: Collection[str]) -> dict[str, str]:
        await self._begin()
        return {id_: self._db.rows[id_]["workload"] for id_ in ids if id_ in self._db.rows}

    async def close(self) -> None:
        pass

    async def _begin(self) -> None:
        await self._pause()
        if self._epoch != self._db.epoch:
            raise DeposedError(f"epoch {self._db.epoch}, not {self._epoch}")


def _job(row: dict[str, Any]) -> Job:
    return Job(**({name: row[name] for name in JOB_COLUMNS} | {"state": JobState(row["state"])}))


def new_row(id_: str, subject: str, now: float, **values: Any) -> dict[str, Any]:
    """A row of `mqtt_job` as the executor makes it."""
    row: dict[str, Any] = dict.fromkeys(JOB_COLUMNS) | {
        "id": id_, "kind": "airflow", "workload_type": "ExecuteTask", "queue": "default", "priority": 1, "slots": 1,
        "state": JobState.QUEUED.value, "attempt": 1, "reason": "", "cancel_by": "", "subject": subject,
        "dag_id": "dag", "run_id": "run", "task_id": id_, "map_index": -1, "try_number": 1, "api_version": "",
        "log_bytes": 0, "log_stored": 0, "log_size": 0, "publishes": 0, "queued_at": now, "token": "token",
        "workload": '{"type":"ExecuteTask"}', "report_pending": False, "news": True,
        "labels": (),
    }  # fmt: skip
    return row | values
