"""The code behind `airflow mqtt`. It reads and writes our tables; the bridge carries wishes and cancels on."""

import time
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, NoReturn

import orjson
from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.platform import getuser
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.database.errors import is_transient, lacks_tables, refusal
from airflow_mqtt.executor import compat, core, store, wishes
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.workers import GONE

_job = tables.job.c
_worker = tables.worker.c
_event = tables.job_event.c

#: Two people may wish at once; the one who was second reads again and tries this often.
_TRIES: Final = 5


def _command(function: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Make a command as Airflow's own are: its logs do not mix with what is printed.

    A database that does not answer, or lacks our tables, is one line.
    """

    @wraps(function)
    def told(args: Namespace) -> None:
        try:
            function(args)
        except DBAPIError as error:
            if lacks_tables(error):
                _refuse("the database has not the tables of airflow-mqtt: run `airflow db migrate`")
            if is_transient(error) or refusal(error):
                said = str(error.orig).strip().splitlines()[0]
                _refuse(f"the database does not answer: {said}; check [database] sql_alchemy_conn")
            raise

    made: Callable[[Namespace], None] = suppress_logs_and_warning(providers_configuration_loaded(told))
    return made


@_command
def list_workers(args: Namespace) -> None:
    """Print one line a worker."""
    statement = select(tables.worker).where(_worker.team_name == args.team_name).order_by(_worker.name)
    with compat.own_session() as session:
        rows = session.execute(statement).all()
    AirflowConsole().print_as(data=[_worker_line(row, time.time()) for row in rows], output=args.output)


def _worker_line(row: Any, now: float) -> dict[str, Any]:
    status, info = orjson.loads(row.status), orjson.loads(row.info)
    return {
        "name": row.name,
        "state": row.state,
        "slots": status.get("slots", info.get("slots")),
        "free": 0 if row.state in GONE else status.get("free"),
        "queues": info.get("queues", []),
        "version": info.get("version"),
        "seen": f"{max(0, now - row.seen_at):.0f} s ago",
        "comment": wishes.parse(row.desired, row.revision).comment,
    }


@_command
def list_jobs(args: Namespace) -> None:
    """Print one line a job, the newest first."""
    statement = select(tables.job).where(_job.team_name == args.team_name)
    if args.state:
        statement = statement.where(_job.state.in_(args.state))
    if args.queue:
        statement = statement.where(_job.queue == args.queue)
    if args.worker:
        statement = statement.where(_job.worker == args.worker)
    with compat.own_session() as session:
        rows = session.execute(statement.order_by(_job.queued_at.desc()).limit(args.limit)).all()
    AirflowConsole().print_as(data=[_job_line(row) for row in rows], output=args.output)


def _job_line(row: Any) -> dict[str, Any]:
    return {
        "job": row.id,
        "state": row.state,
        "attempt": row.attempt,
        "queue": row.queue,
        "worker": row.worker,
        "what": _what(row),
        "queued": _moment(row.queued_at),
        "reason": row.reason,
    }


def _what(row: Any) -> str:
    if row.workload_type == core.Subject.CALLBACK:
        return f"callback {row.subject}"
    mapped = f"[{row.map_index}]" if row.map_index >= 0 else ""
    return f"{row.dag_id} {row.run_id} {row.task_id}{mapped} try {row.try_number}"


def _moment(at: float | None) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at is not None else ""


@_command
def show_job(args: Namespace) -> None:
    """Print a job, and below it what happened to it."""
    statement = select(tables.job_event).where(_event.job_id == args.job).order_by(_event.id)
    with compat.own_session() as session:
        job = _find_job(session, args)
        events = session.execute(statement).all()
    console = AirflowConsole()
    console.print_as(data=[_job_line(job)], output=args.output)
    console.print_as(data=[_event_line(event) for event in events], output=args.output)


def _event_line(event: Any) -> dict[str, Any]:
    return {
        "at": _moment(event.at),
        "attempt": event.attempt,
        "event": event.event,
        "before": event.before or "",
        "after": event.after,
        "by": event.by,
        "reason": event.reason,
    }


@_command
def cancel_job(args: Namespace) -> None:
    """End a job. Its task fails, or is tried again if it has retries left."""
    reason = f"{core.BY_OPERATOR} {args.reason}"
    with compat.own_session() as session:
        job = _find_job(session, args)
        after = store.cancel(session, job, now=time.time(), by=_by(), reason=reason)
        store.notify(session, args.team_name)
    if after is None:
        _refuse(f"Job {args.job} has already ended: it is {job.state}")
    told = "is cancelled" if after is JobState.CANCELLED else f"is being cancelled on worker {job.worker}"
    print(f"Job {args.job} {told}")  # noqa: T201 - a command's answer


def _find_job(session: Session, args: Namespace) -> Any:
    statement = select(tables.job).where(_job.id == args.job, _job.team_name == args.team_name)
    job = session.execute(statement).one_or_none()
    return job if job is not None else _refuse(f"There is no job {args.job}; `airflow mqtt list-jobs` shows them")


@_command
def request_maintenance(args: Namespace) -> None:
    """Have a worker take no more jobs."""
    _wish(args, wishes.Command.ENTER, args.comment)


@_command
def exit_maintenance(args: Namespace) -> None:
    """Have a worker take jobs again."""
    _wish(args, wishes.Command.EXIT, "")


@_command
def shutdown_worker(args: Namespace) -> None:
    """Have a worker stop."""
    _wish(args, wishes.Command.STOP, args.comment)


def _wish(args: Namespace, command: wishes.Command, comment: str) -> None:
    with compat.own_session() as session:
        for _ in range(_TRIES):
            if _wished(session, args, command, comment):
                store.notify(session, args.team_name)
                break
        else:
            _refuse(f"Others keep changing what is wished of {args.name}; try again")
    print(f"{command} is on its way to worker {args.name}; `airflow mqtt list-workers` shows how it goes")  # noqa: T201


def _wished(session: Session, args: Namespace, command: wishes.Command, comment: str) -> bool:
    """Write the wish; False when somebody else wrote one since it was read."""
    this = (_worker.team_name == args.team_name, _worker.name == args.name)
    statement = select(_worker.desired, _worker.revision).where(*this)
    row = session.execute(statement).one_or_none()
    if row is None:
        _refuse(f"There is no worker {args.name}; `airflow mqtt list-workers` shows them")
    after = wishes.change(wishes.parse(row.desired, row.revision), command, comment)
    written = update(tables.worker).where(*this, _worker.revision == row.revision)
    return store.changed(session, written.values(desired=wishes.render(after), revision=after.revision)) == 1


def _by() -> str:
    return f"cli:{getuser()}"


def _refuse(message: str) -> NoReturn:
    raise SystemExit(message)
