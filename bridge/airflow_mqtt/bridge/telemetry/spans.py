"""What became of a job, and of a call, as spans. Pure."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import sanitise
from airflow_mqtt.protocol.trace_context import TraceContext

Value = str | int | float
Attributes = Mapping[str, Value]

#: Characters of a text in a span: reasons may be longer, and are anybody's words.
_MOST_TEXT: Final = 1_000

#: States in which a job has failed, whoever is to blame.
_FAILED: Final = frozenset({JobState.FAILED.value, JobState.LOST.value})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened within a span. `at` is in seconds since the epoch."""

    name: str
    at: float
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of work that has ended. Ids are in hexadecimal, times in seconds since the epoch."""

    name: str
    context: TraceContext
    parent: str
    began: float
    ended: float
    attributes: Attributes
    events: Sequence[Event] = ()
    error: str = ""  # why it failed; empty where it did not
    calls: bool = False  # whether it is a call of another server


def new_id() -> str:
    """Return the id of a new span."""
    return os.urandom(8).hex()


def id_of_job(job: str) -> str:
    """Return the id of the span of a job: the same whoever tells it, and however often."""
    return hashlib.sha256(job.encode()).hexdigest()[:16]


def of_job(row: Any, history: Iterable[Any]) -> Span | None:
    """Return the span of a job that has ended, from its row and those of its events; None where nobody records it."""
    parent = _carried(row.workload)
    if parent is None:
        return None
    events = [Event(_text(one.event), one.at, _of_event(one)) for one in history]
    attributes: dict[str, Value] = {
        "airflow.dag_id": _text(row.dag_id),
        "airflow.dag_run.run_id": _text(row.run_id),
        "airflow.task_id": _text(row.task_id),
        "airflow.task_instance.map_index": row.map_index,
        "airflow.task_instance.try_number": row.try_number,
        "airflow_mqtt.job": row.id,
        "airflow_mqtt.state": row.state,
        "airflow_mqtt.attempt": row.attempt,
        "airflow_mqtt.queue": _text(row.queue),
    }
    if row.worker:
        attributes["airflow_mqtt.worker"] = row.worker
    return Span(
        "mqtt.job",
        replace(parent, span=id_of_job(row.id)),
        parent.span,
        row.queued_at,
        max(row.queued_at, row.finished_at),
        attributes,
        events,
        error=_text(row.reason or row.state) if row.state in _FAILED else "",
    )


def _carried(workload: str) -> TraceContext | None:
    """Return the trace that Airflow gave to a workload, if it is recorded."""
    try:
        carrier = orjson.loads(workload)["ti"]["context_carrier"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return TraceContext.of(carrier) if isinstance(carrier, dict) else None


def _of_event(row: Any) -> dict[str, Value]:
    attributes: dict[str, Value] = {"after": row.after, "by": _text(row.by), "attempt": row.attempt}
    if row.before:
        attributes["before"] = row.before
    if row.reason:
        attributes["reason"] = _text(row.reason)
    return attributes


def of_call(
    context: TraceContext, parent: str, name: str, *, began: float, ended: float, status: int, **about: Value
) -> Span:
    """Return the span of a call that was answered with `status`; 0: it was not."""
    method, _, route = name.partition(" ")
    attributes: dict[str, Value] = {"http.request.method": method, "http.route": route}
    attributes |= {f"airflow_mqtt.{key}": value for key, value in about.items()}
    if status:
        attributes["http.response.status_code"] = status
    error = "" if 0 < status < 500 else f"status {status}" if status else "no answer"
    return Span(name, context, parent, began, max(began, ended), attributes, error=error, calls=True)


def _text(value: str) -> str:
    return sanitise(value, _MOST_TEXT)
