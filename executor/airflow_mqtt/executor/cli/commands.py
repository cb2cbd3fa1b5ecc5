"""The code behind `airflow mqtt`. It reads our tables, and changes them by `database.operations` alone."""

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, NoReturn

import orjson
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.platform import getuser
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from airflow_mqtt.database import desired, notes, operations, tables
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.errors import is_transient, lacks_tables, refusal
from airflow_mqtt.database.operations import Ending, Wish
from airflow_mqtt.executor import compat, core, fleet
from airflow_mqtt.executor.cli.output import print_rows, refuse, say
from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.execution_api import RIGHTS
from airflow_mqtt.protocol.jobs import TERMINAL, JobState
from airflow_mqtt.protocol.workers import GONE

_job = tables.job.c
_worker = tables.worker.c
_event = tables.job_event.c

#: What is printed of a job: not its token and its workload, which are most of it.
_JOB_COLUMNS: Final = (
    _job.id,
    _job.state,
    _job.attempt,
    _job.queue,
    _job.worker,
    _job.workload_type,
    _job.subject,
    _job.dag_id,
    _job.run_id,
    _job.task_id,
    _job.map_index,
    _job.try_number,
    _job.queued_at,
    _job.reason,
    _job.cancel_reason,
)


def _command(function: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Make a command as Airflow's own are: its logs do not mix with what is printed.

    A database that does not answer, or lacks our tables, is one line.
    """

    @wraps(function)
    def told(args: Namespace) -> None:
        try:
            function(args)
        except PayloadError as error:
            refuse(f"No worker could read that: {error}")
        except DBAPIError as error:
            if lacks_tables(error):
                refuse("the database has not the tables of airflow-mqtt: run `airflow db migrate`")
            if is_transient(error) or refusal(error):
                said = str(error.orig).strip().splitlines()[0]
                refuse(f"the database does not answer: {said}; check [database] sql_alchemy_conn")
            raise

    made: Callable[[Namespace], None] = suppress_logs_and_warning(providers_configuration_loaded(told))
    return made


@_command
def list_workers(args: Namespace) -> None:
    """Print one line a worker."""
    columns = (
        _worker.name, _worker.state, _worker.status, _worker.info, _worker.desired, _worker.revision, _worker.removal,
        _worker.seen_at, _worker.clock_offset, _worker.note,
    )  # fmt: skip
    statement = select(*columns).where(_worker.team_name == args.team_name).order_by(_worker.name)
    with compat.own_session() as session:
        rows = session.execute(statement).all()
        access = fleet.enforced(session, args.team_name)
    print_rows([_worker_line(row, time.time(), access) for row in rows], args.output)


def _worker_line(row: Any, now: float, access: Access) -> dict[str, Any]:
    status, info = orjson.loads(row.status), orjson.loads(row.info)
    return {
        "name": row.name,
        "state": row.state,
        "slots": status.get("slots", info.get("slots")),
        "free": 0 if row.state in GONE else status.get("free"),
        "queues": info.get("queues", []),
        "not_allowed": [queue for queue in _served(row, info) if not access.may_serve(row.name, queue)],
        "version": info.get("version"),
        "seen": f"{max(0, now - row.seen_at):.0f} s ago",
        "clock": "" if row.clock_offset is None else f"{-row.clock_offset:+.0f} s",
        "comment": _comment(row),
    }


def _served(row: Any, info: dict[str, Any]) -> Sequence[str]:
    try:
        wished = desired.parse(row.desired, row.revision).queues
    except PayloadError:  # `_comment` says so
        wished = None
    return info.get("queues") or [] if wished is None else wished


def _comment(row: Any) -> str:
    """What an operator said of it, and what one should know."""
    try:
        comment = desired.parse(row.desired, row.revision).comment
    except PayloadError as error:  # one row that is damaged must not hide all others
        comment = str(error)
    said = notes.of_worker(note=row.note, clock_offset=row.clock_offset, removal=row.removal)
    return " ".join([comment, *(f"({note})" for note in said)]).strip()


@_command
def list_jobs(args: Namespace) -> None:
    """Print one line a job, the newest first."""
    statement = select(*_JOB_COLUMNS).where(_job.team_name == args.team_name)
    if args.state:
        statement = statement.where(_job.state.in_(args.state))
    if args.queue:
        statement = statement.where(_job.queue == args.queue)
    if args.worker:
        statement = statement.where(_job.worker == args.worker)
    with compat.own_session() as session:
        rows = session.execute(statement.order_by(_job.queued_at.desc()).limit(args.limit)).all()
    print_rows([_job_line(row) for row in rows], args.output)


def _job_line(row: Any) -> dict[str, Any]:
    return {
        "job": row.id,
        "state": row.state,
        "attempt": row.attempt,
        "queue": row.queue,
        "worker": row.worker,
        "what": _what(row),
        "queued": _moment(row.queued_at),
        "reason": _reason(row),
    }


def _reason(row: Any) -> str:
    """Why it is where it is; before that, why somebody wants it ended and the bridge has not seen to it yet."""
    wished = row.cancel_reason is not None and row.state not in (JobState.CANCELLING, *TERMINAL)
    return f"to be ended: {row.cancel_reason}" if wished else str(row.reason)


def _what(row: Any) -> str:
    kind = kinds.of(row.workload_type)
    if kind is not None and not kind.tracked:
        return f"{kind.name} {row.subject}"
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
    print_rows([_job_line(job)], args.output)
    print_rows([_event_line(event) for event in events], args.output)


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


def _find_job(session: Session, args: Namespace) -> Any:
    statement = select(*_JOB_COLUMNS).where(_job.id == args.job, _job.team_name == args.team_name)
    return session.execute(statement).one_or_none() or _no_job(args)


def _no_job(args: Namespace) -> NoReturn:
    refuse(f"There is no job {args.job}; `airflow mqtt list-jobs` shows them")


@_command
def cancel_job(args: Namespace) -> None:
    """End a job. Its task fails, or is tried again if it has retries left."""
    reason = f"{core.BY_OPERATOR} {args.reason}"
    with compat.own_session() as session:
        done = operations.cancel(
            session, args.team_name, args.job, now=time.time(), by=f"cli:{getuser()}", reason=reason
        )
    match done.ending:
        case Ending.CANCELLED:
            say(f"Job {args.job} is cancelled")
        case Ending.WISHED:
            say(f"Job {args.job} is to be ended on worker {done.worker}; the leading bridge sees to it")
        case Ending.WISHED_BEFORE:
            say(f"Job {args.job} is being ended on worker {done.worker} already")
        case Ending.GONE:
            _no_job(args)
        case _:
            refuse(f"Job {args.job} has already ended: it is {done.state}")


# --- workers ----------------------------------------------------------------------------------------------


@_command
def request_maintenance(args: Namespace) -> None:
    """Have a worker take no more jobs."""
    _wish(args, operations.request_maintenance, args.comment)


@_command
def exit_maintenance(args: Namespace) -> None:
    """Have a worker take jobs again."""
    _wish(args, operations.exit_maintenance)


@_command
def shutdown_worker(args: Namespace) -> None:
    """Have a worker stop."""
    _wish(args, operations.shutdown_worker, args.comment)


@_command
def remove_worker(args: Namespace) -> None:
    """Have a worker forgotten."""
    _wish(args, operations.remove_worker)


@_command
def set_comment(args: Namespace) -> None:
    """Say something of a worker."""
    _wish(args, operations.set_comment, args.comment)


@_command
def set_slots(args: Namespace) -> None:
    """Have a worker run more or fewer tasks at once."""
    _wish(args, operations.set_slots, args.slots)


@_command
def add_queues(args: Namespace) -> None:
    """Have a worker serve more queues."""
    _wish(args, operations.add_queues, args.queues)


@_command
def remove_queues(args: Namespace) -> None:
    """Have a worker serve fewer queues."""
    _wish(args, operations.remove_queues, args.queues)


@_command
def reset_queues(args: Namespace) -> None:
    """Have a worker serve the queues with which it was started."""
    _wish(args, operations.reset_queues)


def _wish(args: Namespace, operation: Callable[..., Wish], *values: Any) -> None:
    with compat.own_session() as session:
        wish = operation(session, args.team_name, args.name, *values)
    match wish:
        case Wish.WISHED:
            say(f"{args.subcommand} is on its way to worker {args.name}; `airflow mqtt list-workers` shows how it goes")
        case Wish.WISHED_BEFORE:
            say(f"That is wished of worker {args.name} already; `airflow mqtt list-workers` shows how it goes")
        case Wish.GONE:
            refuse(f"There is no worker {args.name}; `airflow mqtt list-workers` shows them")
        case Wish.UNHEARD:
            refuse(f"Worker {args.name} has not said yet which queues it serves; try again once it has been online")
        case Wish.CONTESTED:
            refuse(f"Others keep changing what is wished of {args.name}; try again")


# --- what is allowed ----------------------------------------------------------------------------------------


@_command
def allow(args: Namespace) -> None:
    """Let workers serve queues, or print which may."""
    if args.list:
        with compat.own_session() as session:
            known = operations.allowed(session, args.team_name)
        if not known.listed and args.output == "table":  # the other forms are read by programs
            say("Nobody is listed yet: every worker may serve every queue, unless the bridge runs with allow=listed")
        print_rows([{"worker": worker, "queue": queue} for worker, queue in known.serve], args.output)
        return
    if not args.pattern or not args.queues:
        refuse(
            "Say which worker may serve which queues: airflow mqtt allow WORKER QUEUE…; --list shows what is allowed"
        )
    _change_access(args, operations.allow, args.pattern, args.queues)


@_command
def disallow(args: Namespace) -> None:
    """Take back what was allowed."""
    if not args.pattern:
        refuse(
            "Say what to take back, in the words of `airflow mqtt allow --list`: airflow mqtt disallow WORKER [QUEUE…]"
        )
    _change_access(args, operations.disallow, args.pattern, args.queues)
    with compat.own_session() as session:
        left = operations.allowed(session, args.team_name).lines_for(args.pattern)
    if left:
        say(f"Still allowed: {', '.join(f'{worker} {queue}' for worker, queue in left)}")


@_command
def allow_calls(args: Namespace) -> None:
    """Say what jobs of a queue may call, or print it."""
    if args.list:
        with compat.own_session() as session:
            known = operations.allowed(session, args.team_name)
        rows = [{"queue": queue, "rights": sorted(rights)} for queue, rights in sorted(known.calls.items())]
        print_rows(rows, args.output)
        return
    if not args.queue or (args.rights and args.all):
        refuse("Say what jobs of which queue may call: airflow mqtt allow-calls QUEUE [RIGHT…], or QUEUE --all")
    unknown = [right for right in args.rights if right not in RIGHTS]
    if unknown:
        refuse(f"There is no right {unknown[0]}: {', '.join(RIGHTS)}")
    _change_access(args, operations.allow_calls, args.queue, None if args.all else args.rights)


def _change_access(args: Namespace, operation: Callable[..., Wish], *values: Any) -> None:
    try:
        with compat.own_session() as session:
            wish = operation(session, args.team_name, *values)
    except PayloadError as error:
        refuse(str(error))
    match wish:
        case Wish.WISHED:
            say(f"Done; `airflow mqtt {args.subcommand.removeprefix('dis')} --list` shows what is allowed now")
        case Wish.WISHED_BEFORE:
            say("That is so already; nothing was changed")
        case _:
            refuse("Others keep changing what is allowed; try again")
