"""A database in memory that the real `Dispatcher` works on, with the fence of the lease and transactions."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from airflow_mqtt.bridge.dispatch.placement import Room, placement_order
from airflow_mqtt.database import transitions
from airflow_mqtt.database.errors import DeposedError
from airflow_mqtt.database.records import JOB_COLUMNS, Job, Worker
from airflow_mqtt.protocol.jobs import HELD, JobEvent, JobState


class MemoryDatabase:
    """Rows as dictionaries. It outlives every bridge."""

    def __init__(self) -> None:
        self.epoch = 0
        self.rows: dict[str, dict[str, Any]] = {}
        self.workers: dict[str, Worker] = {}
        self.logs: dict[tuple[str, int], bytes] = {}
        self.heard: dict[str, list[float]] = {}  # worker -> when a sign of life of it was applied; for the judge
        self.history: list[tuple[float, str, int, str, str, str]] = []

    def transaction(self, epoch: int) -> "MemoryTx":
        """Begin; as `database.Database.write`, only for the bridge with the newest epoch."""
        if epoch != self.epoch:
            raise DeposedError(f"epoch {self.epoch}, not {epoch}")
        return MemoryTx(self)

    def snapshot(self) -> Any:
        """What `restore` takes: a copy of everything, as it is between two transactions."""
        rows = {id_: dict(row) for id_, row in self.rows.items()}
        return rows, dict(self.workers), dict(self.logs), list(self.history)

    def restore(self, snapshot: Any) -> None:
        """Undo what came after `snapshot`: a transaction that did not commit."""
        self.rows, self.workers, self.logs, self.history = snapshot

    def job(self, id_: str) -> Job:
        return _job(self.rows[id_])


class MemoryTx:
    """`store.Tx` over a `MemoryDatabase`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._db = database

    def _select(self, condition: Any) -> list[Job]:
        return [_job(row) for row in self._db.rows.values() if condition(row)]

    async def jobs(self, ids: Collection[str]) -> dict[str, Job]:
        return {id_: _job(self._db.rows[id_]) for id_ in ids if id_ in self._db.rows}

    async def jobs_of(self, worker: str) -> list[Job]:
        return self._select(lambda row: row["worker"] == worker and row["state"] in HELD)

    async def due(self, gone: Collection[str]) -> list[Job]:
        waiting = (JobState.DISPATCHED, JobState.CANCELLING)
        started = (JobState.ACCEPTED, JobState.RUNNING)
        return self._select(lambda row: row["state"] in waiting or (row["state"] in started and row["worker"] in gone))

    async def queued(self, room: Room, limit: int) -> list[Job]:
        def fits(row: dict[str, Any]) -> bool:
            kind, slots, queue = row["kind"], row["slots"], row["queue"]
            return any(kind == of and slots <= free and queue in queues for (of, free), queues in room.items())

        found = self._select(lambda row: row["state"] == JobState.QUEUED and fits(row))
        return sorted(found, key=placement_order)[:limit]

    async def used_slots(self) -> dict[str, int]:
        used: dict[str, int] = {}
        for job in self._select(lambda row: row["state"] in HELD):
            used[job.worker or ""] = used.get(job.worker or "", 0) + job.slots
        return used

    async def workloads(self, ids: Collection[str]) -> dict[str, str]:
        return {id_: self._db.rows[id_]["workload"] for id_ in ids}

    async def move(
        self, job: Job, event: JobEvent, *, now: float, by: str, reason: str = "", **values: Any
    ) -> Job | None:
        row = self._db.rows[job.id]
        if (row["state"], row["attempt"]) != (job.state, job.attempt):
            return None
        row |= transitions.changes(job.state, job.attempt, event, now=now, reason=reason, values=values)
        self._db.history.append((now, job.id, job.attempt, by, event.value, row["state"]))
        return _job(row)

    async def published(self, ids: Collection[str], now: float) -> None:
        for id_ in ids:
            row = self._db.rows[id_]
            if row["state"] in HELD:
                row |= {"published_at": now, "publishes": row["publishes"] + 1}

    async def workers(self, names: Collection[str] | None = None) -> dict[str, Worker]:
        return {name: w for name, w in self._db.workers.items() if names is None or name in names}

    async def save_worker(self, worker: Worker) -> None:
        self._db.workers[worker.name] = worker

    async def save_worker_state(self, worker: Worker) -> None:
        self._db.workers[worker.name] = replace(self._db.workers[worker.name], state=worker.state)

    async def last_heard(self) -> float | None:
        return max((worker.seen_at for worker in self._db.workers.values() if worker.seen_at), default=None)

    async def forgive(self, seconds: float, now: float) -> None:
        for name, worker in self._db.workers.items():
            if worker.seen_at:
                self._db.workers[name] = replace(worker, seen_at=min(now, worker.seen_at + seconds))

    async def append_log(self, job: Job, offset: int, data: bytes, end: int) -> bool:
        row = self._db.rows[job.id]
        if (row["attempt"], row["log_bytes"]) != (job.attempt, job.log_bytes):
            return False
        row["log_bytes"] = end
        key = (job.id, job.attempt)
        self._db.logs[key] = self._db.logs.get(key, b"") + data
        return True

    async def set_running_since(self, job: Job, now: float) -> None:
        row = self._db.rows[job.id]
        if row["attempt"] == job.attempt and row["state"] in (JobState.RUNNING, JobState.CANCELLING):
            row["running_since"] = now

    async def set_final_state(self, job: Job, final_state: str) -> None:
        row = self._db.rows[job.id]
        if row["attempt"] == job.attempt and row["state"] in (JobState.RUNNING, JobState.CANCELLING):
            row["final_state"] = final_state


def _job(row: dict[str, Any]) -> Job:
    return Job(**({name: row[name] for name in JOB_COLUMNS} | {"state": JobState(row["state"])}))


def new_row(id_: str, subject: str, now: float, **values: Any) -> dict[str, Any]:
    """A row of `mqtt_job` as the executor makes it."""
    row: dict[str, Any] = {
        "id": id_, "kind": "airflow", "workload_type": "ExecuteTask", "queue": "default", "priority": 1, "slots": 1,
        "state": JobState.QUEUED.value, "attempt": 1, "reason": "", "worker": None, "subject": subject,
        "dag_id": "dag", "run_id": "run", "task_id": id_, "map_index": -1, "try_number": 1, "gate_request": None, "accept_journal": None, "accept_seq": None,
        "pid": None, "final_state": None, "log_bytes": 0, "publishes": 0, "published_at": None, "queued_at": now,
        "started_at": None, "running_since": None, "workload": '{"type":"ExecuteTask"}', "report_pending": False,
    }  # fmt: skip
    return row | values


def drive(script: Any) -> Any:
    """Run a coroutine that never waits, and return its result."""
    try:
        script.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the script waited for something")
