"""Task instances to queue, executors to queue them with, and hands in place of the bridge's."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import delete, insert, select, update
from sqlalchemy.event import listen, remove

from airflow_mqtt.database import operations, tables
from airflow_mqtt.database.transitions import move
from airflow_mqtt.protocol.jobs import JobEvent, JobState, next_state

_NUMBERS = count(1)

#: Events that bring a queued job where a test wants it.
TO_RUNNING = (JobEvent.DISPATCH, JobEvent.ACCEPT, JobEvent.START)

_SITE = {
    "AIRFLOW__CORE__EXECUTOR": "airflow_mqtt.executor.MqttExecutor",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of these tests, long enough for HS512 to be content with it, really",
    "AIRFLOW__DATABASE__EXTERNAL_DB_MANAGERS": "airflow_mqtt.executor.db.MqttDBManager",
}


@contextmanager
def bound_to(home: Path, url: str = "") -> Iterator["World"]:
    """Airflow in this process, bound to an empty database of PostgreSQL, or to a file in `home`; its tables are made."""
    changed = {
        **_SITE,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url.replace("postgresql://", "postgresql+psycopg2://")
        or f"sqlite:///{home}/airflow.db",
    }
    with patch.dict(os.environ, changed):
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        done = subprocess.run(migrate, env=dict(os.environ), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        from airflow import settings

        settings.configure_vars()
        settings.configure_orm()
        yield World(home)
        settings.dispose_orm()


def _queued() -> dict[str, Any]:
    """What the scheduler writes into a task instance whose first try it queues."""
    from airflow_mqtt.executor import compat

    executor_id = str(uuid.uuid4()) if compat.PRE_ASSIGNS else None
    return {"try_number": 1, "state": "queued", "external_executor_id": executor_id}


class World:
    """One database of Airflow's. Everything is written as the real parts would write it."""

    def __init__(self, home: Path, dag_id: str = "", run_id: str = "manual__1") -> None:
        """Look at a run that is there; without `dag_id` make one, of a Dag that has no tasks of its own."""
        self.home = home
        self.dag_id = dag_id or f"dag-{uuid.uuid4().hex[:8]}"
        self.run_id = run_id
        if not dag_id:
            self._make_run()

    # --- Airflow's side -----------------------------------------------------------------------------------

    def session(self):
        from airflow_mqtt.executor import compat

        return compat.own_session()

    def _make_run(self) -> None:
        from airflow.models.dag import DagModel
        from airflow.models.dag_version import DagVersion
        from airflow.models.dagbundle import DagBundleModel
        from airflow.models.dagrun import DagRun

        now = datetime.now(UTC)
        with self.session() as session:
            session.add(DagBundleModel(name=self.dag_id))
            session.flush()
            session.add(DagModel(dag_id=self.dag_id, bundle_name=self.dag_id, relative_fileloc="dag.py"))
            session.flush()
            version = DagVersion(dag_id=self.dag_id, version_number=1, bundle_name=self.dag_id)
            session.add(version)
            session.flush()
            self.version = version.id
            run = DagRun(
                dag_id=self.dag_id,
                run_id=self.run_id,
                run_type="manual",
                state="running",
                logical_date=now,
                run_after=now,
            )
            session.add(run)

    def start_run(self) -> None:
        """Start a run as the scheduler does. The Execution API of Airflow 3.1 tells no task of one that has no start."""
        from airflow.models.dagrun import DagRun

        with self.session() as session:
            started = {"state": "running", "start_date": datetime.now(UTC)}
            session.execute(update(DagRun).filter_by(dag_id=self.dag_id, run_id=self.run_id).values(**started))

    def queued_task(self, **changes: Any) -> Any:
        """Make a task instance as `_executable_task_instances_to_queued` leaves it, and return it detached."""
        from airflow.models.taskinstance import TaskInstance

        from airflow_mqtt.executor import compat

        ti_id = compat._key(str(uuid.uuid4()))
        values = {
            "id": ti_id, "dag_id": self.dag_id, "run_id": self.run_id, "task_id": f"task-{next(_NUMBERS)}",
            "map_index": -1, "pool": "default_pool", "pool_slots": 1, "queue": "default", "priority_weight": 1,
            "dag_version_id": self.version, "executor_config": {}, **_queued(),
        }  # fmt: skip
        with self.session() as session:
            session.execute(insert(TaskInstance).values(**values | changes))
        return self.task(ti_id)

    def queued_task_of_the_run(self, task_id: str) -> Any:
        """Like `queued_task`, of a task that its Dag has, and which is not mapped."""
        from airflow.models.taskinstance import TaskInstance

        of_it = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": task_id}
        with self.session() as session:
            ti_id = session.scalars(select(TaskInstance.id).filter_by(**of_it)).one()
        self.set_task(self.task(ti_id), **_queued())
        return self.task(ti_id)

    def task(self, ti_id: Any) -> Any:
        from airflow.models.taskinstance import TaskInstance

        with self.session() as session:
            ti = session.scalar(select(TaskInstance).where(TaskInstance.id == ti_id))
            ti.dag_model, ti.dag_run, ti.dag_run.dag_model  # noqa: B018 - loaded while there is a session
            session.expunge_all()
            return ti

    def set_task(self, ti: Any, **values: Any) -> None:
        from airflow.models.taskinstance import TaskInstance

        with self.session() as session:
            session.execute(update(TaskInstance).where(TaskInstance.id == ti.id).values(**values))

    def scheduler(self, state: str = "running") -> int:
        """Make a scheduler as Airflow knows it, and return its job id."""
        from airflow.jobs.job import Job

        with self.session() as session:
            values = {"job_type": "SchedulerJob", "state": state, "latest_heartbeat": datetime.now(UTC)}
            made = session.execute(insert(Job.__table__).values(**values))
            return int(made.inserted_primary_key[0])

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """What is asked of the database in this time; "BEGIN" for each transaction."""
        from airflow import settings

        seen: list[str] = []
        noted = {
            "begin": lambda _: seen.append("BEGIN"),
            "before_cursor_execute": lambda _connection, _cursor, statement, *_: seen.append(statement),
        }
        for name, note in noted.items():
            listen(settings.engine, name, note)
        try:
            yield seen
        finally:
            for name, note in noted.items():
                remove(settings.engine, name, note)

    # --- the executor's side ------------------------------------------------------------------------------

    def executor(self, job_id: Any = 1, **kwargs: Any) -> Any:
        from airflow_mqtt.executor import MqttExecutor

        executor = MqttExecutor(**kwargs)
        executor.job_id = job_id
        return executor

    def workload(self, executor: Any, ti: Any) -> Any:
        from airflow.executors import workloads

        return workloads.ExecuteTask.make(ti, generator=executor.jwt_generator)

    def queue(self, executor: Any, ti: Any = None, **changes: Any) -> tuple[Any, Any]:
        """Queue a task as the scheduler does, commit, and return the task instance and its job's row."""
        ti = ti or self.queued_task(**changes)
        with self.session() as session:
            executor.queue_workload(self.workload(executor, ti), session=session)
        return self.task(ti.id), self.jobs(subject=str(ti.id))[-1]

    # --- the bridge's side --------------------------------------------------------------------------------

    def jobs(self, **where: Any) -> list[Any]:
        statement = select(tables.job).filter_by(**where).order_by(tables.job.c.queued_at)
        with self.session() as session:
            return list(session.execute(statement).all())

    def job(self, job_id: str) -> Any:
        return self.jobs(id=job_id)[0]

    def events(self, job_id: str) -> list[str]:
        statement = select(tables.job_event.c.event).filter_by(job_id=job_id).order_by(tables.job_event.c.id)
        with self.session() as session:
            return list(session.scalars(statement))

    def drive(self, job_id: str, *events: JobEvent, reason: str = "", **values: Any) -> Any:
        """Move a job by `events`, as bridge and worker would; `values` go with the last."""
        for number, event in enumerate(events, 1):
            job = self.job(job_id)
            assert next_state(JobState(job.state), event) is not None, (job.state, event)
            last = values if number == len(events) else {}
            step = move(
                job_id, JobState(job.state), job.attempt, event, now=time.time(), by="test", reason=reason, **last
            )
            with self.session() as session:
                assert session.execute(step.statement).rowcount == 1
                session.execute(step.record)
        return self.job(job_id)

    def carry_out(self, job_id: str, *events: JobEvent) -> Any:
        """Do what was wished of a job, as the leading bridge does, and then `events`; all for the wish's reason."""
        reason = self.job(job_id).cancel_reason
        assert reason is not None
        return self.drive(job_id, JobEvent.CANCEL, *events, reason=reason)

    def set_job(self, job_id: str, **values: Any) -> None:
        with self.session() as session:
            session.execute(update(tables.job).where(tables.job.c.id == job_id).values(**values))

    def worker(self, name: str, *queues: str, state: str = "idle", **values: Any) -> None:
        """Make a worker as the bridge writes it, which may serve what it says that it serves."""
        info = {"version": "1", "instance": "i", "queues": list(queues), "kinds": ["airflow"], "slots": 2}
        row = {"name": name, "state": state, "seen_at": time.time(), "journal": "j", "info": json.dumps(info)}
        with self.session() as session:
            session.execute(insert(tables.worker).values(**row | values))
            operations.allow(session, "", name, queues)

    def log(self, job_id: str, offset: int, data: bytes, attempt: int = 1) -> None:
        with self.session() as session:
            row = {"job_id": job_id, "attempt": attempt, "offset": offset, "data": data}
            session.execute(insert(tables.job_log).values(**row))

    def vacuum(self) -> None:
        """Do what autovacuum does within a minute. SQLite needs none."""
        from airflow import settings

        if settings.engine.dialect.name == "postgresql":
            with settings.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE mqtt_job")

    def clear(self) -> None:
        from airflow.jobs.job import Job
        from airflow.models.log import Log
        from airflow.models.taskinstance import TaskInstance

        with self.session() as session:
            for table in tables.metadata.tables.values():
                session.execute(delete(table))
            session.execute(delete(TaskInstance))
            session.execute(delete(Job))
            session.execute(delete(Log))
