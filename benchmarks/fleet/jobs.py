"""`python -m fleet.jobs URL COUNT QUEUES RATE`: commit jobs as the executor does. RATE is jobs a second; 0: at once."""

import json
import sys
import time
import uuid
from typing import Any, Final

import sqlalchemy as sa

from airflow_mqtt.database import tables, transitions

#: Jobs of one transaction, as many as a scheduler queues at a time.
_BATCH: Final = 32

#: Bytes of a token of Airflow.
_TOKEN: Final = "t" * 300


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))


def make_tables(url: str) -> None:
    engine = engine_of(url)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=wal")  # as Airflow sets it
    tables.metadata.create_all(engine)
    engine.dispose()


def queue_name(number: int, queues: int) -> str:
    return f"q{number % queues}"


def job_values(number: int, queues: int, *, now: float, dag_id: str = "bench") -> dict[str, Any]:
    """Return the columns of a job, with a workload as Airflow's is."""
    subject = str(uuid.uuid4())
    queue = queue_name(number, queues)
    instance = {
        "id": subject, "task_id": "noop", "dag_id": dag_id, "run_id": "manual__2026-01-01T00:00:00+00:00",
        "try_number": 1, "map_index": number, "pool_slots": 1, "queue": queue, "priority_weight": 1,
        "context_carrier": {}, "dag_version_id": str(uuid.uuid4()),
    }  # fmt: skip
    workload = {
        "type": "ExecuteTask", "ti": instance, "dag_rel_path": "bench.py",
        "bundle_info": {"name": "dags-folder", "version": None},
        "log_path": f"dag_id={dag_id}/run_id=x/task_id=noop/attempt=1.log",
    }  # fmt: skip
    return {
        "id": str(uuid.uuid4()), "kind": "airflow", "workload_type": "ExecuteTask", "workload": json.dumps(workload),
        "token": _TOKEN, "token_at": now, "queue": queue, "priority": 1, "slots": 1, "subject": subject,
        "dag_id": dag_id, "run_id": "run", "task_id": "noop", "map_index": number, "try_number": 1, "owner": "1",
    }  # fmt: skip


def commit_jobs(url: str, count: int, queues: int, rate: float = 0.0) -> None:
    """Commit `count` jobs, and wake the bridge at each commit."""
    engine, began, done = engine_of(url), time.monotonic(), 0
    while done < count:
        size = min(_BATCH, count - done)
        now = time.time()
        made = [
            transitions.creation(job_values(done + number, queues, now=now), now=now, by="bench")
            for number in range(size)
        ]
        with engine.begin() as connection:
            connection.execute(sa.insert(tables.job), [dict(job.compile().params) for job, _ in made])
            connection.execute(sa.insert(tables.job_event), [dict(event.compile().params) for _, event in made])
            if engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_notify(tables.NOTIFY_CHANNEL, "")))
        done += size
        if rate:
            time.sleep(max(0.0, began + done / rate - time.monotonic()))
    engine.dispose()


def make_history(url: str, count: int) -> None:
    """Make `count` jobs that ended yesterday, by doubling one."""
    engine = engine_of(url)
    at = time.time() - 86400.0
    first = job_values(0, 1, now=at, dag_id="history") | {
        "state": "succeeded", "attempt": 1, "queued_at": at, "finished_at": at, "worker": "w0",
        "final_state": "success", "news": False,
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(sa.insert(tables.job).values(**first))
        made = 1
        while made < count:
            size = min(made, count - made)
            connection.execute(_copies(made, size))
            made += size
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()


def _copies(made: int, size: int) -> sa.Insert:
    number = tables.job.c.map_index + made
    changed: dict[str, sa.ColumnElement[Any]] = {
        "id": sa.literal("00000000-0000-7000-8000-") + sa.cast(number, sa.Text),
        "map_index": number,
    }
    columns = [changed.get(column.name, column) for column in tables.job.c]
    ended = sa.select(*columns).where(tables.job.c.dag_id == "history").limit(size)
    return sa.insert(tables.job).from_select([column.name for column in tables.job.c], ended)


if __name__ == "__main__":
    commit_jobs(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
