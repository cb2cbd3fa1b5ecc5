"""The acts of a person, from the command line, the page or the API: done, recorded, and in Airflow's audit log.

Many are done some at a time, each time in a transaction of its own: what the leading bridge has to say of a row that
somebody else is writing waits.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from airflow.models.log import Log
from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_mqtt.database import acts, tables
from airflow_mqtt.database.acts import Act, Order, Result
from airflow_mqtt.executor import compat, core
from airflow_mqtt.protocol.messages import sanitise

_job = tables.job.c

#: Workers or jobs of one transaction.
_BATCH: Final = 100

#: What Airflow's audit log says of a job beside the act, so that the page of its task shows it.
_TASK: Final = (_job.id, _job.dag_id, _job.run_id, _job.task_id, _job.map_index, _job.try_number)


def on_workers(team_name: str, order: Order, names: Iterable[str], *, by: str) -> list[Result]:
    """Do one act to workers. Raises `PayloadError` for what no worker could read: then nothing is done."""
    results = []
    for some in _batches(names):
        with compat.own_session() as session:
            done = acts.on_workers(session, team_name, order, some, by=by, now=time.time())
            _audit(session, order.act, acts.outcomes_of(done), by=by, detail=acts.detail_of(order))
        results += done
    return results


def on_jobs(team_name: str, job_ids: Iterable[str], *, by: str, reason: str) -> list[Result]:
    """End jobs; their tasks fail, or are tried again if they have retries left."""
    told = f"{core.BY_OPERATOR} {sanitise(reason)}"
    results = []
    for some in _batches(job_ids):
        with compat.own_session() as session:
            done = acts.on_jobs(session, team_name, some, by=by, now=time.time(), reason=told)
            _audit(
                session,
                Act.CANCEL,
                acts.outcomes_of(done),
                by=by,
                detail=told,
                tasks=_tasks_of(session, team_name, some),
            )
        results += done
    return results


def record(
    session: Session, team_name: str, act: Act, outcomes: Mapping[str, str], *, by: str, detail: str, now: float
) -> None:
    """Write down what was done otherwise, here and in Airflow's audit log: subject -> what came of it."""
    acts.record(session, team_name, act, outcomes, by=by, detail=detail, now=now)
    _audit(session, act, outcomes, by=by, detail=detail)


def _audit(
    session: Session,
    act: Act,
    outcomes: Mapping[str, str],
    *,
    by: str,
    detail: str,
    tasks: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """Write into Airflow's audit log. `tasks` says which task each job is of."""
    _, _, owner = by.partition(":")
    for subject, outcome in outcomes.items():
        extra = {"subject": subject, "detail": sanitise(detail), "outcome": str(outcome), "by": by}
        task = (tasks or {}).get(subject, {})
        session.add(Log(event=f"mqtt {act}", owner=owner, extra=orjson.dumps(extra).decode(), **task))


def _tasks_of(session: Session, team_name: str, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return job id -> its task, as the audit log has it; of what is no task, nothing."""
    rows = session.execute(select(*_TASK).where(_job.team_name == team_name, _job.id.in_(job_ids)))
    return {
        row.id: {name: row[place] for place, name in enumerate(row._fields) if place} for row in rows if row.task_id
    }


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    """In the order in which they are acted on, see `acts.on_workers`."""
    ordered = sorted(set(names))
    return (ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH))
