"""Jobs as the executor commits them, its ear, and the verdict on each job at the end."""

import random
import re
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.executor import core, store
from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.jobs import TERMINAL, JobState
from faults.api import ExecutionApi, TaskInstance

OWNER = "1"
_LINE = re.compile(rb'"event": "line (\d+) ')


@dataclass(frozen=True)
class Planned:
    """A job that was committed, and what is to become of it."""

    id: str
    subject: str
    outcome: str
    lines: int


@dataclass
class Verdict:
    """What became of all jobs of one row of the table."""

    jobs: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    doubled: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    log_cut: dict[str, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)


class Jobs:
    """Commits jobs, hears of their ends, and judges."""

    def __init__(self, url: str, api: ExecutionApi, evidence: Path, *, seed: int, longest: float = 2.0) -> None:
        evidence.mkdir(parents=True, exist_ok=True)
        self._url = url.replace("postgresql://", "postgresql+psycopg2://")
        self._api = api
        self._evidence = evidence
        self._random = random.Random(f"jobs {seed}")
        self._longest = longest
        self.planned: list[Planned] = []
        self.heard: dict[str, list[str]] = {}
        self._stop = threading.Event()
        self._ear = threading.Thread(target=self._listen, name="ear", daemon=True)
        self.engine = sa.create_engine(
            self._url, pool_size=4, max_overflow=0, pool_pre_ping=True, connect_args={"application_name": "faults"}
        )

    def open(self) -> None:
        tables.metadata.create_all(self.engine)
        connections = [self.engine.connect() for _ in range(4)]  # made now: one fault takes all that are left
        for connection in connections:
            connection.close()
        self._ear.start()

    def close(self) -> None:
        self._stop.set()
        self._ear.join(60)
        self.engine.dispose()

    # --- as the executor does -----------------------------------------------------------------------------

    def commit(self) -> Planned:
        """Commit one job. While the database does not answer, the scheduler would try again as well."""
        plan, row = self._new()
        self._api.tasks[plan.subject] = TaskInstance()
        while True:
            try:
                with Session(self.engine) as session, session.begin():
                    store.create(session, row, now=time.time(), by="faults")
                break
            except IntegrityError:
                break  # the commit before had happened
            except SQLAlchemyError:
                time.sleep(0.3)
        self.planned.append(plan)
        return plan

    def _new(self) -> tuple[Planned, dict[str, Any]]:
        subject = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        outcome = "failed" if self._random.random() < 0.05 else "success"
        plan = Planned(str(uuid.UUID(int=self._random.getrandbits(128), version=4)), subject, outcome, 5)
        seconds = self._random.uniform(0.1, self._longest)
        xcom = self._random.choice([10, 10, 10, 12_000])
        names = {"dag_id": "dag", "run_id": "run", "task_id": subject}
        light = {
            "seconds": seconds, "lines": plan.lines, "outcome": outcome, "xcom": xcom, "evidence": str(self._evidence),
        }  # fmt: skip
        workload = {"type": "ExecuteTask", "ti": {"id": subject, **names}, "light": light}
        row = {
            "id": plan.id, "team_name": "", "kind": "airflow", "workload_type": "ExecuteTask",
            "workload": orjson.dumps(workload).decode(), "token": "token", "token_at": time.time(), "queue": "default",
            "priority": 1, "slots": 1, "subject": subject, **names, "owner": OWNER,
        }  # fmt: skip
        return plan, row

    def _listen(self) -> None:
        """As `MqttExecutor._hear` in each scheduler loop."""
        unsure: set[str] = set()
        while not self._stop.wait(0.3):
            try:
                with Session(self.engine) as session, session.begin():
                    rows = store.take_reports(session, OWNER, "", unsure=unsure, told=())
                    unsure = {row.id for row in rows}
                    heard = [(row, core.decide(_as_job(row))) for row in rows]
            except SQLAlchemyError:
                continue
            unsure = set()
            for row, decision in heard:
                self._tell(row, decision)

    def _tell(self, row: Any, decision: core.Decision) -> None:
        if decision.ended:
            self.heard.setdefault(row.id, []).append(f"{row.state} {decision.report}")
        if decision.report in (core.Report.SUCCESS, core.Report.FAILED):
            self._api.executor_says(row.subject, decision.report is core.Report.FAILED, decision.info)

    # --- at the end ---------------------------------------------------------------------------------------

    def rows(self) -> dict[str, Any]:
        while True:
            try:
                with self.engine.connect() as connection:
                    return {row.id: row for row in connection.execute(sa.select(tables.job))}
            except SQLAlchemyError:
                time.sleep(0.3)

    def unfinished(self) -> list[str]:
        """Return what is still to come: jobs without an end, ends that were not heard, or else logs with gaps."""
        query = sa.select(tables.job.c.id, tables.job.c.state)
        try:
            with self.engine.connect() as connection:
                states = {row.id: row.state for row in connection.execute(query)}
        except SQLAlchemyError as error:
            return [f"the database does not answer: {error}"]
        open_ = [
            f"{plan.id} {states.get(plan.id, 'missing')}"
            for plan in self.planned
            if states.get(plan.id) not in TERMINAL or plan.id not in self.heard
        ]
        if open_:
            return open_
        logs = self._logs()
        return [f"{plan.id} {gap}" for plan in self.planned if (gap := self._log_gap(plan, logs))]

    def _logs(self) -> dict[str, bytes]:
        query = sa.select(tables.job_log).order_by(
            tables.job_log.c.job_id, tables.job_log.c.attempt, tables.job_log.c.offset
        )
        found: dict[str, bytes] = {}
        with self.engine.connect() as connection:
            for row in connection.execute(query):
                found[row.job_id] = found.get(row.job_id, b"") + row.data
        return found

    def _log_gap(self, plan: Planned, logs: dict[str, bytes]) -> str:
        """What is wrong with the log of a job whose final state the worker took; each line is there once, in order."""
        if not self._lines_of(plan, "taken") or self._lines_of(plan, "unlogged"):
            return ""
        numbers = [int(number) for number in _LINE.findall(logs.get(plan.id, b""))]
        return "" if numbers == list(range(plan.lines)) else f"log has lines {numbers}"

    def _lines_of(self, plan: Planned, kind: str) -> list[str]:
        path = self._evidence / f"{plan.subject}.{kind}"
        return path.read_text().splitlines() if path.exists() else []

    def started_after(self, moment: float, worker: str | None = None) -> float | None:
        """Return when the first job after `moment` passed the start gate (on `worker`); None while none has."""
        query = sa.select(sa.func.min(tables.job.c.started_at)).where(tables.job.c.started_at > moment)
        if worker is not None:
            query = query.where(tables.job.c.worker == worker)
        try:
            with self.engine.connect() as connection:
                return connection.execute(query).scalar()
        except SQLAlchemyError:
            return None

    def judge(self) -> Verdict:
        rows, logs = self.rows(), self._logs()
        verdict = Verdict(jobs=len(self.planned))
        for plan in self.planned:
            self._judge(plan, rows.get(plan.id), logs, verdict)
        return verdict

    def _judge(self, plan: Planned, row: Any, logs: dict[str, bytes], verdict: Verdict) -> None:
        task = self._api.tasks[plan.subject]
        starts, taken = self._lines_of(plan, "starts"), self._lines_of(plan, "taken")
        story = (
            f"airflow {task.state}, job {row and (row.state, row.reason, row.attempt)}, heard {self.heard.get(plan.id)}"
        )
        if row is None or row.state not in TERMINAL:
            verdict.lost[plan.id] = f"no end: {story}"
        elif len(self.heard.get(plan.id, [])) != 1:
            verdict.lost[plan.id] = f"not heard of once: {story}"
        elif taken and task.state != taken[-1].rpartition(" ")[2]:
            verdict.lost[plan.id] = f"the worker took {taken}: {story} {task.history}"
        elif task.state != plan.outcome:
            verdict.wrong[plan.id] = (
                f"{story} {task.history} {self._lines_of(plan, 'errors')} {self._lines_of(plan, 'stopped')}"
            )
            verdict.reasons[row.reason] += 1
        if len(starts) > 1 or task.runs > 1:
            verdict.doubled[plan.id] = f"{starts} runs={task.runs}: {story}"
        if gap := self._log_gap(plan, logs):
            verdict.log_cut[plan.id] = f"{gap}: {story}"


def _as_job(row: Any) -> core.Job:
    kind = kinds.of(row.workload_type)
    assert kind is not None
    return core.Job(row.id, kind, JobState(row.state), row.reason, row.final_state, newest=True)
