"""What calls of the Execution API do to a job: scripts over a `Draft`, and who may make which. Pure."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import orjson

from airflow_mqtt.bridge.calls import routes
from airflow_mqtt.bridge.calls.routes import Refusal
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol.jobs import JobEvent, JobState, Verdict, settle
from airflow_mqtt.protocol.messages import Request, sanitise

log = logging.getLogger(__name__)

#: States in which the calls of a job may be forwarded.
STARTED = frozenset({JobState.RUNNING, JobState.CANCELLING})


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a worker, as it arrived: `size` is that of its text in bytes."""

    worker: str
    request: Request
    size: int = 0


class Early:
    """A job wants to start that its worker, with this journal, has not been heard to accept."""


EARLY = Early()


def admit(job: Job | None, call: Call, path: str, *, gate: bool, rights: frozenset[str] | None = None) -> Job | Refusal:
    """Return `job` when its worker may make this call now, else why not.

    `rights` are what its queue's jobs may call beyond their own; None: all.

    A job that is only dispatched may pass the gate once its acceptance is heard: the caller waits for that.
    """
    request = call.request
    if job is None or job.worker != call.worker:
        return Refusal(403, "forbidden", f"worker {call.worker} does not hold job {request.job}")
    if job.attempt != request.attempt:
        return Refusal(409, "stale_attempt", f"the job is in attempt {job.attempt}, not {request.attempt}")
    callback = routes.CALLBACK_GATE.fullmatch(path)
    if callback is not None and not job.is_task and callback["subject"] == job.subject:
        refusal = None
    else:
        refusal = routes.check(job, request.method, path, request.query, rights=rights)
    if refusal is not None:
        return refusal
    return _gate_verdict(job, request) if gate else _running_verdict(job)


def _gate_verdict(job: Job, request: Request) -> Job | Refusal:
    if (
        job.state is JobState.DISPATCHED
        or settle(job.state, job.attempt, JobEvent.START, request.attempt) is Verdict.APPLY
    ):
        return job
    if job.state is JobState.RUNNING and job.gate_request == request.id:
        return job  # the same request again: its answer was lost, and Airflow takes it for the same too
    return Refusal(409, "already_started", f"the job is {job.state} and cannot be started")


def _running_verdict(job: Job) -> Job | Refusal:
    if job.state in STARTED:
        return job
    return Refusal(409, "invalid_state", f"the job is {job.state}, not running")


def open_gate(draft: Draft, call: Call, path: str) -> Job | Refusal | Early:
    """Let the job of `call` start, once. It may only after the batch has committed."""
    request = call.request
    verdict = admit(draft.job(request.job), call, path, gate=True)
    if isinstance(verdict, Refusal) or verdict.state is JobState.RUNNING:
        return verdict
    if not draft.living.access.may_serve(call.worker, verdict.queue):
        return Refusal(403, "not_allowed", f"worker {call.worker} may not serve queue {verdict.queue}")
    if verdict.cancel_reason is not None:  # a wish that is known and not carried out yet: it was there first
        return Refusal(409, "invalid_state", f"the job is to be ended: {verdict.cancel_reason}")
    if verdict.state is not JobState.ACCEPTED or draft.worker(call.worker).journal != request.journal:
        return EARLY
    values = {
        "gate_request": request.id,
        "api_version": request.headers.get("airflow-api-version", ""),
        **identity(json_object(request.body)),
    }
    after = draft.move(verdict, JobEvent.START, by=f"worker:{call.worker}", **values)
    draft.then(lambda: log.info("job %s: running on worker %s", after.id, call.worker))
    return after


def note_answer(draft: Draft, job: Job, *, started: bool, final_state: str | None, token: str | None) -> None:
    """Note what Airflow answered to a call of `job`: that it accepted the start, or a final state; a new token.

    No transition: the gate made the first before Airflow was asked, and `finished` makes the last.
    """
    current = draft.job(job.id)
    if (
        current is None
        or (current.worker, current.attempt) != (job.worker, job.attempt)
        or current.state not in STARTED
    ):
        return
    if started:
        current = replace(current, running_since=draft.now)
    if final_state is not None:
        current = replace(current, final_state=final_state)
    draft.put(current)
    if token is not None:
        draft.renew_token(current, token)


def json_object(body: str | None) -> dict[str, Any]:
    """Return the object in `body`; an empty one when it holds none."""
    try:
        value = orjson.loads(body or "{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def identity(body: dict[str, Any]) -> dict[str, Any]:
    """Who the task's process is, which Airflow compares in each heartbeat."""
    pid = body.get("pid")
    valid = isinstance(pid, int) and not isinstance(pid, bool) and 0 <= pid < 2**31
    return {"pid": pid if valid else 0, "unixname": storable(body.get("unixname"), 256)}


def storable(value: Any, length: int) -> str:
    """Return `value` as a database takes it: PostgreSQL has no place for NUL in a text."""
    return sanitise(value, length) if isinstance(value, str) else ""
