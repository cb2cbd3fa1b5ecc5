"""The commands that show: `database.queries`, as tables."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

from airflow_mqtt.database.queries import jobs, overview, queues, workers
from airflow_mqtt.database.queries.jobs import Jobs
from airflow_mqtt.database.queries.paging import MAX_LIMIT, Found, Page
from airflow_mqtt.database.queries.workers import Workers
from airflow_mqtt.executor import compat, fleet
from airflow_mqtt.executor.cli.command import command
from airflow_mqtt.executor.cli.output import print_parts, print_rows, refuse
from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.jobs import TERMINAL, JobState
from airflow_mqtt.protocol.messages import cut


def wanted_workers(args: Namespace) -> Workers:
    """Return which workers the filters of a command name."""
    return Workers(args.name or "", args.state or (), args.queue or "", args.label or ())


def no_worker(name: str) -> NoReturn:
    refuse(f"There is no worker {cut(name)}; `airflow mqtt list-workers` shows them")


def no_job(job_id: str) -> NoReturn:
    refuse(f"There is no job {cut(job_id)}; `airflow mqtt list-jobs` shows them")


def _up_to(limit: int | None, look: Callable[[int, int], Found]) -> Iterator[dict[str, Any]]:
    """Return as many rows as are wanted, page by page; `look` takes offset and limit. None: all."""
    offset = 0
    while limit is None or offset < limit:
        size = MAX_LIMIT if limit is None else min(MAX_LIMIT, limit - offset)
        rows = look(offset, size).rows
        yield from rows
        if len(rows) < size:
            return
        offset += size


# --- workers ----------------------------------------------------------------------------------------------------


@command
def list_workers(args: Namespace) -> None:
    """Print one line a worker."""
    wanted = wanted_workers(args)
    with compat.own_session() as session:
        access = fleet.enforced(session, args.team_name)

        def look(offset: int, limit: int) -> Found:
            page = Page(args.sort, args.descending, offset, limit)
            return workers.list_workers(session, args.team_name, wanted, page, access)

        rows = list(_up_to(args.limit, look))
    now = time.time()
    print_rows([_worker_line(row, now) for row in rows], args.output)


def _worker_line(row: dict[str, Any], now: float) -> dict[str, Any]:
    return {
        "name": row["name"],
        "state": row["state"],
        "running": row["running"],
        "slots": row["slots"],
        "free": row["free"],
        "queues": row["queues"],
        "not_allowed": row["not_allowed"],
        "labels": [f"{key}={value}" for key, value in sorted(row["labels"].items())],
        "version": row["version"],
        "seen": f"{max(0, now - row['seen_at']):.0f} s ago",
        "clock": "" if row["clock_offset"] is None else f"{-row['clock_offset']:+.0f} s",
        "comment": " ".join([row["comment"], *(f"({note})" for note in row["notes"])]).strip(),
    }


@command
def show_worker(args: Namespace) -> None:
    """Print a worker, the jobs that it holds, and what was done to it."""
    with compat.own_session() as session:
        access = fleet.enforced(session, args.team_name)
        worker = workers.find_worker(session, args.team_name, args.name, access)
        if worker is None:
            no_worker(args.name)
        held = Jobs(states=jobs.LIVING, worker=args.name)
        its_jobs = jobs.list_jobs(session, args.team_name, held, Page("queued_at", limit=MAX_LIMIT)).rows
        acts = overview.list_acts(session, args.team_name, Page(limit=20), subject=args.name).rows
    lines = [{"what": key, "is": _told(value)} for key, value in worker.items() if value not in ("", [], {}, None)]
    parts = {"worker": worker, "jobs": its_jobs, "acts": acts}
    print_parts(parts, [lines, [_job_line(job) for job in its_jobs], [_act_line(act) for act in acts]], args.output)


def _told(value: Any) -> Any:
    return [f"{key}={each}" for key, each in sorted(value.items())] if isinstance(value, dict) else value


# --- jobs -------------------------------------------------------------------------------------------------------


@command
def list_jobs(args: Namespace) -> None:
    """Print one line a job, the newest first."""
    words = {name: getattr(args, name) or "" for name in ("dag_id", "run_id", "task_id", "queue", "worker")}
    wanted = Jobs(args.state or (), **words)
    with compat.own_session() as session:

        def look(offset: int, limit: int) -> Found:
            page = Page(args.sort, not args.ascending, offset, limit)
            return jobs.list_jobs(session, args.team_name, wanted, page)

        rows = list(_up_to(args.limit, look))
    print_rows([_job_line(row) for row in rows], args.output)


def _job_line(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "job": row["id"],
        "state": row["state"],
        "attempt": row["attempt"],
        "queue": row["queue"],
        "worker": row["worker"],
        "what": _what(row),
        "queued": _moment(row["queued_at"]),
        "reason": _reason(row),
    }


def _reason(row: dict[str, Any]) -> str:
    """Why it is where it is; before that, why somebody wants it ended and the bridge has not seen to it yet."""
    wished = row["cancel_reason"] is not None and row["state"] not in (JobState.CANCELLING, *TERMINAL)
    return f"to be ended: {row['cancel_reason']}" if wished else str(row["reason"])


def _what(row: dict[str, Any]) -> str:
    kind = kinds.of(row["workload_type"])
    if kind is not None and not kind.tracked:
        return f"{kind.name} {row['subject']}"
    mapped = f"[{row['map_index']}]" if row["map_index"] >= 0 else ""
    return f"{row['dag_id']} {row['run_id']} {row['task_id']}{mapped} try {row['try_number']}"


def _moment(at: float | None) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at is not None else ""


@command
def show_job(args: Namespace) -> None:
    """Print a job, what happened to it, and what was done to it."""
    with compat.own_session() as session:
        job = jobs.find_job(session, args.team_name, args.job)
        if job is None:
            no_job(args.job)
        note = queues.note_of_job(session, args.team_name, job, fleet.enforced(session, args.team_name))
        events = jobs.events_of(session, args.job)
        acts = overview.list_acts(session, args.team_name, Page(limit=20), subject=args.job).rows
    parts = {"job": job | {"note": note}, "events": events, "acts": acts}
    line = _job_line(job) | ({"note": note} if note else {})
    lines = [[line], [_event_line(event) for event in events], [_act_line(act) for act in acts]]
    print_parts(parts, lines, args.output)


def _event_line(event: dict[str, Any]) -> dict[str, Any]:
    order = ("at", "attempt", "event", "before", "after", "by", "reason")
    return {name: event[name] for name in order} | {"at": _moment(event["at"]), "before": event["before"] or ""}


# --- queues, and what people did --------------------------------------------------------------------------------


@command
def list_queues(args: Namespace) -> None:
    """Print one line a queue."""
    with compat.own_session() as session:
        rows = queues.list_queues(session, args.team_name, fleet.enforced(session, args.team_name))
    now = time.time()
    print_rows([_queue_line(row, now) for row in rows], args.output)


def _queue_line(row: dict[str, Any], now: float) -> dict[str, Any]:
    oldest = row["oldest_at"]
    return {
        "queue": row["queue"],
        "waiting": row["waiting"],
        "oldest": "" if oldest is None else f"{max(0, now - oldest):.0f} s",
        "running": row["running"],
        "workers": row["workers"],
        "free": row["free"],
        "note": row["note"],
    }


@command
def list_acts(args: Namespace) -> None:
    """Print what people did, the last first."""
    with compat.own_session() as session:

        def look(offset: int, limit: int) -> Found:
            return overview.list_acts(session, args.team_name, Page(offset=offset, limit=limit), args.subject or "")

        rows = list(_up_to(args.limit, look))
    print_rows([_act_line(row) for row in rows], args.output)


def _act_line(act: dict[str, Any]) -> dict[str, Any]:
    order = ("at", "by", "act", "subject", "detail", "outcome")
    return {name: act[name] for name in order} | {"at": _moment(act["at"])}
