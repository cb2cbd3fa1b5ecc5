"""Values for the bridge's unit tests."""

from typing import Any

from airflow_mqtt.bridge.dispatch.timeouts import Rules
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.database.ledger import Snapshot, Waiting
from airflow_mqtt.database.records import Job, Worker
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import Desired, WorkerInfo, WorkerStatus
from airflow_mqtt.protocol.versions import Version
from airflow_mqtt.protocol.workers import WorkerState

NOW = 1_000_000.0


def job(**values: Any) -> Job:
    base: dict[str, Any] = {
        "id": "job-1", "kind": "airflow", "workload_type": "ExecuteTask", "queue": "default", "priority": 1,
        "slots": 1, "state": JobState.QUEUED, "attempt": 1, "reason": "", "worker": None, "cancel_reason": None,
        "cancel_by": "", "subject": "ti-1", "dag_id": "dag", "run_id": "run", "task_id": "task", "map_index": -1,
        "try_number": 1, "accept_journal": None, "accept_seq": None, "gate_request": None, "api_version": "",
        "unixname": None, "pid": None, "final_state": None, "exit_code": None, "log_bytes": 0, "log_stored": 0,
        "log_size": 0, "log_tail": None, "publishes": 0,
        "published_at": None, "queued_at": NOW, "dispatched_at": None, "accepted_at": None, "started_at": None,
        "running_since": None, "finished_at": None, "token": "token of job-1",
    }  # fmt: skip
    return Job(**(base | values))


def status(**values: Any) -> WorkerStatus:
    base: dict[str, Any] = {
        "state": "idle", "connection": 1, "instance": "i", "ts": NOW, "interval": 30.0, "slots": 2, "free": 2,
        "running": 0,
    }  # fmt: skip
    return WorkerStatus(**(base | values))


def info(**values: Any) -> WorkerInfo:
    base: dict[str, Any] = {
        "version": "1", "instance": "i", "queues": ["default"], "kinds": ["airflow"], "slots": 2,
    }  # fmt: skip
    return WorkerInfo(**(base | values))


def worker(**values: Any) -> Worker:
    base: dict[str, Any] = {
        "name": "edge-1", "desired": Desired(revision=0), "state": WorkerState.IDLE, "status": status(), "info": info(),
        "instance": "i", "connection": 1, "seen_at": NOW, "journal": "j", "past_journals": (), "seq": 0, "birth": 1,
    }  # fmt: skip
    return Worker(**(base | values))


RULES = Rules(accept_timeout=10, accept_tries=3, start_timeout=600, lost_after=900)


def living_of(*rows: Job | Worker, least: str = "") -> Living:
    """What a leader begins with that finds these rows: jobs that wait, jobs that workers hold, workers."""
    jobs = [row for row in rows if isinstance(row, Job)]
    waiting = [one for one in jobs if _waits(one)]
    held = [one for one in jobs if not _waits(one)]
    workers = [row for row in rows if isinstance(row, Worker)]
    snapshot = Snapshot(list(map(Waiting.of, waiting)), held, workers, frozenset())
    return Living.of(snapshot, lambda _: RULES, least=Version.of(least) if least else None)


def _waits(one: Job) -> bool:
    return one.state is JobState.QUEUED and one.cancel_reason is None
