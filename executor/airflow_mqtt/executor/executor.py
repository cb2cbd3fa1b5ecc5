"""`MqttExecutor`: the shell between Airflow's scheduler and our tables. What it reports is decided in `core`."""

import re
import time
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple

from airflow.configuration import conf
from airflow.executors.base_executor import BaseExecutor
from airflow.models.taskinstancekey import TaskInstanceKey
from sqlalchemy import select
from sqlalchemy.orm import Session, object_session

from airflow_mqtt.config.broker_url import parse_broker_url
from airflow_mqtt.database import operations
from airflow_mqtt.database.operations import Ending
from airflow_mqtt.executor import compat, core, edge_metrics, fleet, log_reader, store
from airflow_mqtt.executor.cli.definition import get_mqtt_cli_commands
from airflow_mqtt.executor.edge_metrics import EdgeMetrics
from airflow_mqtt.executor.options import Options, start_within
from airflow_mqtt.executor.store import JobReport, Record
from airflow_mqtt.executor.workload import Dispatch, options_of, row_of, subject_of
from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.errors import PayloadError, SettingError
from airflow_mqtt.protocol.jobs import TERMINAL, JobState
from airflow_mqtt.protocol.kinds import Kind

#: Seconds between two looks at the tokens, and at what schedulers that died have left behind.
HOUSEKEEPING_INTERVAL: Final = 30.0

#: Seconds for which a job may wait in a queue without workers before that is said.
UNSERVED_AFTER: Final = 60.0

_REVOKED: Final = "revoked by the scheduler"
_SUPERSEDED: Final = "superseded by a newer dispatch"

#: As `str(uuid.UUID)` writes it.
_TASK_INSTANCE_ID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Heard(NamedTuple):
    """One row with what is to be said of it. Without a decision it was set aside."""

    row: JobReport
    key: Any
    decision: core.Decision | None


class MqttExecutor(BaseExecutor):  # type: ignore[misc]
    """Runs tasks on workers that can reach nothing but an MQTT broker.

    The scheduler's process never talks to the broker: a job is a row, written in the session in which the
    scheduler sets the task instance to queued, and committed with it. The bridge takes it from there.
    """

    supports_multi_team: bool = True
    supports_callbacks: bool = compat.RUNS_CALLBACKS
    supports_connection_test: bool = compat.TESTS_CONNECTIONS
    pre_assigns_external_executor_id: ClassVar[bool] = compat.PRE_ASSIGNS
    is_local: bool = False
    is_production: bool = True
    serve_logs: bool = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Of each key in `running`, the newest job: a report of an older one must not remove the key.
        self._jobs: dict[Any, str] = {}
        #: Jobs whose rows may still be rolled back by the scheduler.
        self._unconfirmed: set[str] = set()
        #: Jobs whose reports were being marked as heard when the database stopped answering: it may have committed.
        self._unsure: set[str] = set()
        #: Callbacks whose end was told and is not marked as heard yet.
        self._told: set[str] = set()
        self._next_housekeeping = 0.0
        self._next_look = 0.0  # at the workers
        #: Queues of which it was said that jobs wait in them and no worker serves them.
        self._unserved: set[str] = set()
        #: Rows that could not be understood since the start.
        self.set_aside = 0

    @cached_property
    def log(self) -> Any:
        """Assembled once: structlog would do so at each call, which takes a fifth of a pass with many reports."""
        log = super().log
        return log.bind() if hasattr(log, "bind") else log

    @cached_property
    def _start_within(self) -> dict[str, float]:
        return start_within(self.conf.get("mqtt", "start_within", fallback=None) or "")

    @property
    def _owner(self) -> str:
        return str(self.job_id or "")

    @property
    def _team(self) -> str:
        return self.team_name or ""

    @property
    def _by(self) -> str:
        return f"scheduler:{self._owner}"

    def start(self) -> None:
        """Say what can be said before anything goes wrong. The executor itself never talks to the broker."""
        super().start()
        _ = self._start_within  # a mistake there is said now
        with suppress(SettingError):  # the bridge says what is wrong with it
            if warning := parse_broker_url(self.conf.get("mqtt", "broker_url", fallback=None) or "").warning:
                self.log.warning("[mqtt] broker_url: %s", warning)

    # --- from the scheduler -------------------------------------------------------------------------------

    def queue_workload(self, workload: Any, session: Session) -> None:
        """Write the job in the scheduler's session, which commits it together with the state "queued"."""
        if not self._supports(workload):
            super().queue_workload(workload, session)  # says what is not supported
            return
        now = time.time()
        job_id, key = self._begin(workload, session, now)
        queue = self._callback_queue(workload, session)
        options, mistake = _options(workload)
        dispatch = Dispatch(
            job_id, self._owner, self._team, queue, self._default_queue(), now, options, self._start_within
        )
        store.create(session, row_of(workload, dispatch), now=now, by=self._by)
        if mistake:
            store.fail(session, job_id, now=now, by=self._by, reason=mistake)
        self._remember(key, job_id)
        self._unconfirmed.add(job_id)

    def _supports(self, workload: Any) -> bool:
        kind = kinds.of(getattr(workload, "type", ""))
        return kind is not None and (not kind.flag or getattr(self, kind.flag))

    def _begin(self, workload: Any, session: Session, now: float) -> tuple[str, Any]:
        """Return job id and key of `workload`, and see to it that no older dispatch of it can start."""
        kind = kinds.of(workload.type)
        assert kind is not None
        subject = subject_of(kind, workload)
        if not kind.tracked:
            self._supersede(store.jobs_of_subject(session, None, subject), session, now)
            return uuid.uuid4().hex, compat.untracked_key(kind, subject)
        assigned = workload.ti.external_executor_id if compat.PRE_ASSIGNS else None
        earlier = store.jobs_of_subject(session, assigned, subject)
        self._supersede(earlier, session, now)
        if not assigned or assigned in {job.id for job in earlier}:
            # Airflow 3.1, or a scheduler with other executors, which left the id of an earlier dispatch there.
            assigned = str(uuid.uuid4())
            compat.set_dispatch(session, subject, assigned)
        return assigned, workload.ti.key

    def _supersede(self, jobs: Sequence[Record], session: Session, now: float) -> None:
        """End those of `jobs` that have not started. What has passed the start gate runs on, and is not heard of."""
        for job in jobs:
            if job.state in operations.UNSTARTED:
                self._end(session, job.team_name, job.id, now=now, reason=_SUPERSEDED, unstarted_only=True)

    def _end(self, session: Session, team_name: str, job_id: str, **how: Any) -> None:
        """End a job, as `operations.cancel`. Raises when others keep moving it: whoever asks may ask again."""
        if operations.cancel(session, team_name, job_id, by=self._by, **how).ending is Ending.CONTESTED:
            raise RuntimeError(f"others kept moving job {job_id} while it was to be ended")

    def _callback_queue(self, workload: Any, session: Session) -> str:
        if workload.type != kinds.CALLBACK.workload:
            return ""
        if named := self.conf.get("mqtt", "callback_queue", fallback=None):
            return str(named)
        run = compat.run_of_callback(workload)
        last = store.last_queue(session, self._team, *run) if run else None
        served = fleet.served(session, self._team) if last is None else {}
        return fleet.queue_of_callback(last, self._default_queue(), served)

    @staticmethod
    def _default_queue() -> str:
        return str(conf.get("operators", "default_queue", fallback="default"))

    def revoke_task(self, *, ti: Any) -> None:
        """End whatever runs or waits for `ti`, and forget it. Never raises (`BaseExecutor.revoke_task`)."""
        try:
            with compat.own_session() as session:
                now = time.time()
                for job in store.jobs_of_subject(session, ti.external_executor_id, str(ti.id)):
                    reason = _REVOKED + store.why_it_waits(session, job.id, now)
                    self._end(session, job.team_name, job.id, now=now, reason=reason)
        except Exception:
            self.log.exception("Could not revoke %s; the database was asked to and did not answer", ti)
        self._forget(ti.key)

    def fail_connection_test(self, key: Any) -> None:
        """End the test that Airflow has given up, and forget it. Never raises, as `revoke_task`."""
        try:
            with compat.own_session() as session:
                for job in store.jobs_of_subject(session, None, str(key)):
                    self._end(session, job.team_name, job.id, now=time.time(), reason=_REVOKED)
        except Exception:
            self.log.exception(
                "Could not end the connection test %s; the database was asked to and did not answer", key
            )
        self._forget(key)

    def try_adopt_task_instances(self, tis: Sequence[Any]) -> Sequence[Any]:
        """Take over the jobs of a scheduler that died, and return the task instances that have none.

        It writes in the session that holds these task instances: the scheduler changes them in the same
        transaction, and on SQLite a second one would wait for the first for ever. An error of the database is left
        to the scheduler, which tries the whole adoption again (`run_with_db_retries`).
        """
        session = object_session(tis[0]) if tis else None
        if session is not None:
            return self._adopt(tis, session)
        with compat.own_session() as own:
            return self._adopt(tis, own)

    def _adopt(self, tis: Sequence[Any], session: Session) -> list[Any]:
        wanted = [ti.external_executor_id for ti in tis if ti.external_executor_id]
        rows = store.by_id(session, wanted, self._team) if wanted else {}
        adopted = {job_id for job_id, row in rows.items() if _is_adoptable(row)}
        if adopted:
            store.adopt(session, adopted, self._owner)
        for ti in tis:
            if ti.external_executor_id in adopted:
                self._remember(ti.key, ti.external_executor_id)
        return [ti for ti in tis if ti.external_executor_id not in adopted]

    def get_task_log(self, ti: Any, try_number: int) -> tuple[list[str], list[str]]:
        """Return what the devices have sent so far of this try's log: (where it is from, its text)."""
        return log_reader.of_running(ti, try_number)

    def end(self) -> None:
        """Do nothing: the jobs are in the database, and another scheduler adopts them."""

    def terminate(self) -> None:
        """Do nothing: see `end`."""

    @staticmethod
    def get_cli_commands() -> list[Any]:
        """Return the group `airflow mqtt`. Airflow 3.1 asks the executor; later ones ask the provider."""
        return get_mqtt_cli_commands()

    # --- to the scheduler ---------------------------------------------------------------------------------

    def sync(self) -> None:
        """Hear what the bridge has to say. Never raises: a scheduler must outlive what is in our tables."""
        began = time.monotonic()
        for step in (self._hear, self._keep_house, self._look_at_workers):
            try:
                step()
            except Exception:
                self.log.exception("%s failed; the next heartbeat tries it again", step.__name__)
        if self._metrics is not None:
            with suppress(Exception):
                self._metrics.took(time.monotonic() - began)

    def _hear(self) -> None:
        with compat.own_session() as session:
            rows, ends = self._reports(session)
            rolled_back = self._rolled_back(session, {row.id for row in rows})
            heard = self._understand([row for row in rows if row.id not in self._told] + ends, session)
            self._unsure = {row.id for row in rows}
        # Only what is committed as heard is passed on. Until then it is read again.
        self._unsure = set()
        self._unconfirmed.clear()
        self._told = self._told - {row.id for row in rows} | {row.id for row in ends}
        self._forget_jobs(rolled_back | {item.row.id for item in heard if item.decision is None})
        for item in heard:
            self._tell(item)

    def _reports(self, session: Session) -> tuple[list[JobReport], list[JobReport]]:
        """Return the jobs to hear of, which are marked as heard, and those untracked that have ended, which are not.

        The end of a callback is told before it is marked as heard, which the next pass does. In between the scheduler
        has written it down. If it dies before, another one hears of it: a task instance would be adopted, and a
        callback is not. The same is done with a connection test.
        """
        mine = (session, self._owner, self._team)
        rows = store.take_reports(*mine, unsure=self._unsure, told=self._told)
        ends = store.untracked_ends(*mine, self._told) if self.supports_callbacks else []
        return rows, ends

    def _rolled_back(self, session: Session, reported: set[str]) -> set[str]:
        """Return the jobs whose transaction the scheduler rolled back: they hold slots. Those `reported` are there."""
        doubtful = self._unconfirmed - reported
        return doubtful - store.existing(session, doubtful) if doubtful else set()

    def _understand(self, rows: Sequence[JobReport], session: Session) -> list[_Heard]:
        tasks = [row for row in rows if row.workload_type == kinds.TASK.workload]
        subjects = [row.subject for row in tasks if _TASK_INSTANCE_ID.fullmatch(row.subject)]
        dispatches = compat.dispatches_of(session, subjects) if subjects else {}
        gone = [row for row in tasks if row.subject not in dispatches]
        keys = {(row.dag_id, row.run_id, row.task_id, row.map_index) for row in gone}
        cleared = compat.cleared_dispatches(session, keys) if keys else set()
        dispatches |= {row.subject: row.id for row in gone if row.id in cleared}
        return [self._understand_one(row, dispatches) for row in rows]

    def _understand_one(self, row: JobReport, dispatches: dict[str, str | None]) -> _Heard:
        try:
            kind = _kind_of(row)
            job = _job_of(row, kind, newest=_is_newest(row, kind, dispatches))
            return _Heard(row, _key_of(row, kind), core.decide(job))
        except Exception as error:
            self.log.error("Job %s is set aside, since its row cannot be understood: %s", row.id, error)
            self.set_aside += 1
            with suppress(Exception):  # metrics that fail must not bring the row back
                compat.stats().incr("mqtt.jobs_set_aside")
            return _Heard(row, None, None)

    def _tell(self, heard: _Heard) -> None:
        decision = heard.decision
        if decision is None:
            return
        if self._metrics is not None and heard.row.workload_type == kinds.TASK.workload:
            with suppress(Exception):
                self._metrics.count(heard.row, ended=decision.ended)
        match decision.report:
            case core.Report.RUNNING:
                self.running_state(heard.key, decision.info)
            case core.Report.SUCCESS:
                self.success(heard.key, decision.info)
            case core.Report.FAILED:
                self.fail(heard.key, decision.info)
            case core.Report.SILENT:
                pass
        if decision.ended and self._jobs.get(heard.key) == heard.row.id:
            self._forget(heard.key)

    # --- housekeeping -------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        if time.monotonic() < self._next_housekeeping:
            return
        lives = [compat.token_life(waiting=waiting) for waiting in (True, False)]
        self._next_housekeeping = time.monotonic() + min(HOUSEKEEPING_INTERVAL, *(life / 4 for life in lives))
        now = time.time()
        self._renew_tokens(now, *lives)
        if self.supports_callbacks:
            self._take_over()
            self._end_callbacks(now)
        self._say_what_waits(now)

    def _renew_tokens(self, now: float, waiting_life: float, started_life: float) -> None:
        """Replace tokens past half their life, so that neither a long wait nor a long outage kills a task.

        Those of jobs whose scheduler died too, adopted or not; where several schedulers try, one of them succeeds.
        """
        limits = {"waiting_before": now - waiting_life / 2, "started_before": now - started_life / 2}
        with compat.own_session() as session:
            living = self._living_schedulers(session)
            aging = store.aging_tokens(session, self._owner, self._team, living=living, **limits)
            for row in aging:
                waiting = row.state in operations.UNSTARTED or not _exchanges(row)
                token = compat.mint(self.jwt_generator, row.subject, waiting=waiting)
                store.renew_token(session, row, token, now)
            if aging:
                operations.notify(session, self._team)

    def _take_over(self) -> None:
        """Adopt what else there is of schedulers that died: Airflow itself adopts only task instances."""
        with compat.own_session() as session:
            found = store.ownerless(session, self._living_schedulers(session), self._team)
            taken = [job for job in found if store.take_over(session, job.id, job.owner, self._owner)]
        for job in taken:
            self._remember(_key_of(job, _kind_of(job)), job.id)

    def _end_callbacks(self, now: float) -> None:
        """End callbacks that no worker has started in time, as Airflow does with tasks (`task_queued_timeout`)."""
        timeout = compat.callback_timeout()
        with compat.own_session() as session:
            waiting = store.unstarted_callbacks(session, self._team, now - timeout)
            served = fleet.served(session, self._team) if waiting else Counter()
            for job in waiting:
                why = f"no worker has started it in {timeout:.0f} s (queue {job.queue!r}, workers: {served[job.queue]})"
                self._end(session, self._team, job.id, now=now, reason=why, unstarted_only=True)
                self.log.warning("Callback job %s is ended: %s", job.id, why)

    def _say_what_waits(self, now: float) -> None:
        """Say of each queue, once, that jobs wait in it and nobody serves it."""
        with compat.own_session() as session:
            waiting = store.waiting(session, self._team, now - UNSERVED_AFTER)
            served = fleet.served(session, self._team) if waiting else {}
        unserved = {queue for queue in waiting if queue not in served}
        for queue in sorted(unserved - self._unserved):
            self.log.warning(
                "No worker serves queue %r now, and %d jobs wait in it; see `airflow mqtt list-workers`",
                queue, waiting[queue],
            )  # fmt: skip
        self._unserved = unserved

    @cached_property
    def _metrics(self) -> EdgeMetrics | None:
        """Figures of workers and jobs, where Airflow has metrics and `[mqtt] edge_metrics` does not say no."""
        said = str(self.conf.get("mqtt", "edge_metrics", fallback=None) or "true").strip().lower()
        if said not in ("true", "false"):
            self.log.error("[mqtt] edge_metrics is %r, which is neither true nor false; it counts as false", said[:80])
        return EdgeMetrics(self._team) if said == "true" and compat.has_metrics() else None

    def _look_at_workers(self) -> None:
        """Say the figures of the workers; one of several schedulers does."""
        if self._metrics is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + edge_metrics.INTERVAL
        with compat.own_session() as session:
            if self._owner == edge_metrics.first_of(self._living_schedulers(session)):
                self._metrics.look(store.workers(session, self._team, edge_metrics.MOST_WORKERS))

    def _living_schedulers(self, session: Session) -> set[str]:
        """Return the owners that see to their own jobs: this scheduler, and those that Airflow holds to be running."""
        from airflow.jobs.job import Job  # noqa: PLC0415 - heavy, and the API server does not need it

        running = select(Job.id).where(Job.job_type == "SchedulerJob", Job.state == "running")
        return {self._owner, *map(str, session.scalars(running))}

    def _remember(self, key: Any, job_id: str) -> None:
        # At once, since `parallelism` counts what is in `running`.
        self.running.add(key)
        self._jobs[key] = job_id

    def _forget(self, key: Any) -> None:
        self._jobs.pop(key, None)
        self.running.discard(key)

    def _forget_jobs(self, job_ids: Collection[str]) -> None:
        if job_ids:
            for key in [key for key, known in self._jobs.items() if known in job_ids]:
                self._forget(key)


def _options(workload: Any) -> tuple[Options, str]:
    """Return what a task asks for, and what is wrong with that: its author's mistake must not stop a scheduler."""
    try:
        return options_of(workload), ""
    except PayloadError as error:
        return Options(), str(error)
    except Exception as error:  # values that are objects, and raise when they are looked at
        return Options(), f"the task's executor_config cannot be read: {type(error).__name__}"


def _is_newest(row: JobReport, kind: Kind, dispatches: dict[str, str | None]) -> bool:
    """Whether Airflow knows the subject of `row` by this dispatch. What is no task is dispatched once.

    Raises `ValueError` for a subject that is no task instance's id.
    """
    if not kind.tracked:
        return True
    if row.subject not in dispatches and not _TASK_INSTANCE_ID.fullmatch(row.subject):
        raise ValueError(f"{row.subject!r} is no id of a task instance")
    return bool(dispatches.get(row.subject) == row.id)


def _job_of(row: JobReport, kind: Kind, *, newest: bool) -> core.Job:
    """Raises `ValueError` for a row of a version of ours that this one does not know."""
    return core.Job(row.id, kind, JobState(row.state), row.reason, row.final_state, newest)


def _kind_of(row: Record) -> Kind:
    """Raises `ValueError` for a row of a version of ours that this one does not know."""
    kind = kinds.of(row.workload_type)
    if kind is None:
        raise ValueError(f"{row.workload_type!r} is no kind of work that is known here")
    return kind


def _exchanges(row: Record) -> bool:
    kind = kinds.of(row.workload_type)
    return kind is None or kind.exchanged


def _is_adoptable(row: JobReport) -> bool:
    """Whether the job lives, or its end still means something to the task instance that waits for it."""
    try:
        job = _job_of(row, _kind_of(row), newest=True)
    except ValueError:
        return False
    return job.state not in TERMINAL or core.decide(job).report is not core.Report.SILENT


def _key_of(row: Record, kind: Kind) -> Any:
    if not kind.tracked:
        return compat.untracked_key(kind, row.subject)
    return TaskInstanceKey(row.dag_id, row.task_id, row.run_id, row.try_number, row.map_index)
