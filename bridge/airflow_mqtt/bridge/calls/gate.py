"""What calls of the Execution API do to a job: scripts over a `Draft`, and who may make which. Pure."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from airflow_mqtt.bridge.dispatch import timeouts
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.database.records import Job, replaced
from airflow_mqtt.protocol.execution_api import Does, Match, Miss, Needs, Whose
from airflow_mqtt.protocol.jobs import JobEvent, JobState, Verdict, settle
from airflow_mqtt.protocol.messages import Request, sanitise

log = logging.getLogger(__name__)

#: Answers to a start by which Airflow says that it does not want the job any more.
UNWANTED = frozenset({404, 409, 410})

#: States in which the calls of a job may be forwarded.
STARTED = frozenset({JobState.RUNNING, JobState.CANCELLING})

#: How a write says of which of a task's mapped instances the XCom is, and what it says without it.
_MAP_INDEX: Final = "map_index"
_UNMAPPED: Final = "-1"

#: With it a read of an XCom also finds those of earlier runs.
_PRIOR_DATES: Final = "include_prior_dates"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not forwarded: an HTTP status, a reason in Airflow's style, and a message for a person."""

    status: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a worker, as it arrived: `size` is that of its text in bytes."""

    worker: str
    request: Request
    size: int = 0


class Early:
    """A job wants to start that its worker, with this journal, has not been heard to accept."""


EARLY = Early()


def refuse_miss(miss: Miss, request: Request) -> Refusal:
    """Say that a call is not in the table. A path that nobody knows is answered as the API does: it is not there."""
    if miss is Miss.PATH:
        return Refusal(404, "not_found", f"{request.method} {request.path:.200} is no call that a job may make")
    return Refusal(403, "forbidden", f"{request.method} {request.path:.200} is no call that a job may make: {miss}")


def admit(job: Job | None, call: Call, match: Match, rights: Collection[str] | None = None) -> Job | Refusal:
    """Return `job` when its worker may make this call now, else why not.

    `rights` are what its queue's jobs may call beyond their own; None: all.

    A job that is only dispatched may pass the gate once its acceptance is heard: the caller waits for that.
    """
    request = call.request
    if job is None or job.worker != call.worker:
        return Refusal(403, "forbidden", f"worker {call.worker} does not hold job {request.job}")
    if job.attempt != request.attempt:
        return Refusal(409, "stale_attempt", f"the job is in attempt {job.attempt}, not {request.attempt}")
    if not _is_own(job, match, request.query):
        return Refusal(403, "forbidden", f"{request.method} {match.path:.200} is not this job's own")
    if rights is not None and _lacks(job, match, request.query, rights):
        text = f"jobs of queue {job.queue} may not {request.method} {match.path:.200}: they lack {match.route.needs}"
        return Refusal(403, "not_allowed", text)
    return _gate_verdict(job, request) if match.route.does is Does.START else _running_verdict(job)


def _is_own(job: Job, match: Match, query: str) -> bool:
    """Whether `job` is of a kind that makes this call, and names nothing in it that it must not."""
    if job.work not in match.route.kinds:
        return False
    match match.route.whose:
        case Whose.SUBJECT:
            return match.subject == job.subject
        case Whose.INSTANCE:
            own = match.names(dag_id=job.dag_id, run_id=job.run_id, task_id=job.task_id)
            return own and _is_of_own_index(job, query)
    return True


def _lacks(job: Job, match: Match, query: str, rights: Collection[str]) -> bool:
    """Whether `rights` do not reach for a call that needs one. XComs of the own run are less than those of any."""
    needs = match.route.needs
    if needs is Needs.OWN or needs in rights:
        return False
    if needs is not Needs.OTHER_XCOMS or _PRIOR_DATES in dict(parse_qsl(query, keep_blank_values=True)):
        return True
    if not match.names(dag_id=job.dag_id, run_id=job.run_id):
        return True
    return not match.names(task_id=job.task_id) and Needs.RUN_XCOMS not in rights


def _is_of_own_index(job: Job, query: str) -> bool:
    """Whether a write of an XCom with this `query` is for the job's own map index.

    The text is compared, since a server reads "+1", "01" and "1.0" as 1 too. Of two it takes one, which we do not
    guess, and what follows a "#" the client would not send.
    """
    if "#" in query:
        return False
    given = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == _MAP_INDEX]
    return (given or [_UNMAPPED]) == [str(job.map_index)]


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


def open_gate(draft: Draft, call: Call, match: Match) -> Job | Refusal | Early:
    """Let the job of `call` start, once. It may only after the batch has committed."""
    request = call.request
    verdict = admit(draft.job(request.job), call, match)
    if isinstance(verdict, Refusal) or verdict.state is JobState.RUNNING:
        return verdict
    if not draft.living.access.may_serve(call.worker, verdict.queue):
        return Refusal(403, "not_allowed", f"worker {call.worker} may not serve queue {verdict.queue}")
    if verdict.cancel_reason is not None:  # a wish that is known and not carried out yet: it was there first
        return Refusal(409, "invalid_state", f"the job is to be ended: {verdict.cancel_reason}")
    if verdict.not_after is not None and draft.now >= verdict.not_after:  # it is about to be failed for that
        return Refusal(409, "invalid_state", timeouts.missed(verdict))
    if verdict.state is not JobState.ACCEPTED or draft.worker(call.worker).journal != request.journal:
        return EARLY
    values = {
        "gate_request": request.id,
        "api_version": request.headers.get("airflow-api-version", ""),
        **identity(json_object(request.body)),
    }
    after = draft.move(verdict, JobEvent.START, by=f"worker:{call.worker}", **values)
    draft.say(after.id, log.info, "job %s: running on worker %s", after.id, call.worker)
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
        current = replaced(current, running_since=draft.now)
    if final_state is not None:
        current = replaced(current, final_state=final_state)
    draft.put(current)
    if token is not None:
        draft.renew_token(current, token)


def give_up(draft: Draft, job: Job, why: str, *, by: str) -> None:
    """End a job whose start Airflow refuses, since it does not want it any more: its worker is told to, as always."""
    current = draft.job(job.id)
    if current is None or (current.worker, current.attempt) != (job.worker, job.attempt):
        return
    if current.state is not JobState.RUNNING or current.running_since is not None:
        return
    after = draft.move(current, JobEvent.CANCEL, by=by, reason=why)
    draft.publish_again(after)
    draft.then(lambda: log.info("job %s: %s: %.300r", after.id, after.state, why))


def unwanted(status: int, body: dict[str, Any]) -> str:
    """Return why Airflow does not want a job whose start it answered with `status`; nothing where it only failed.

    It knows the task no more (404, 410), or it is in a state in which it cannot start (409: it was marked, or cleared).
    """
    if status not in UNWANTED:
        return ""
    detail = body.get("detail")
    told = detail if isinstance(detail, dict) else {"reason": detail}
    previous = told.get("previous_state")
    parts = [told.get("reason"), previous and f"the task is {previous}"]
    why = ", ".join(storable(str(part), 200) for part in parts if part)
    return f"airflow: the start was answered {status}{f': {why}' if why else ''}"


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
