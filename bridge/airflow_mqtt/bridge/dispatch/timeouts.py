"""What time does to jobs that a worker holds. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from airflow_mqtt.bridge.dispatch import fleet
from airflow_mqtt.database.records import Job, Worker
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from airflow_mqtt.protocol.workers import GONE


class Resend(StrEnum):
    """What is published to the worker again."""

    RUN = "run"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Due:
    """What is due for a job: a transition with its reason, or something to publish again."""

    event: JobEvent | None = None
    reason: str = ""
    resend: Resend | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that time obeys, in seconds."""

    accept_timeout: float
    accept_tries: int
    start_timeout: float
    lost_after: float


NOTHING = Due()


def due(job: Job, worker: Worker, rules: Rules, *, now: float, connected_since: float) -> Due:
    """Return what is due for `job`, held by `worker`, whose `state` has been judged at `now`.

    `connected_since` is when this connection to the broker was made.
    """
    gone = worker.state in GONE
    silence = fleet.silent_for(worker, now=now)
    given_up = gone and silence > rules.lost_after
    match job.state:
        case JobState.DISPATCHED | JobState.ACCEPTED if job.not_after is not None and now >= job.not_after:
            return Due(JobEvent.FAIL, f"{missed(job)}: worker {worker.name} has it and has not begun it")
        case JobState.DISPATCHED | JobState.ACCEPTED if gone:
            return Due(JobEvent.RELEASE, f"worker {worker.name} is {worker.state}")
        case JobState.DISPATCHED:
            return _unanswered(job, rules, now, connected_since)
        case JobState.ACCEPTED if now >= _start_until(job, rules, connected_since):
            waited = f"worker {worker.name} accepted it and has not started it for {rules.start_timeout:.0f} s"
            return Due(JobEvent.RELEASE, waited)
        case JobState.RUNNING if given_up:
            return Due(JobEvent.LOSE, f"worker {worker.name} has been silent for {silence:.0f} s")
        case JobState.CANCELLING if gone and job.started_at is None:
            return Due(JobEvent.RELEASE, job.reason)
        case JobState.CANCELLING if given_up:
            return Due(JobEvent.LOSE, job.reason)
        case JobState.CANCELLING if not gone and _overdue(job, rules, now, connected_since):
            return Due(resend=Resend.CANCEL)
    return NOTHING


def next_look(job: Job, worker: Worker, rules: Rules, *, connected_since: float) -> float | None:
    """Return when time may do something to `job` next, so that `due` has to be asked; None: not before something else.

    It is never later than `due` says something, and may be earlier.
    """
    gone = worker.state in GONE
    not_after = inf if job.not_after is None else job.not_after
    match job.state:
        case JobState.DISPATCHED | JobState.ACCEPTED if gone:
            return 0.0
        case JobState.CANCELLING if gone and job.started_at is None:
            return 0.0
        case JobState.RUNNING | JobState.CANCELLING if gone:
            return worker.seen_at + rules.lost_after
        case JobState.ACCEPTED:
            return min(not_after, _start_until(job, rules, connected_since))
        case JobState.DISPATCHED if job.published_at is not None and job.published_at >= connected_since:
            return min(not_after, job.published_at + rules.accept_timeout)
        case JobState.DISPATCHED | JobState.CANCELLING:
            if job.published_at is None or job.published_at < connected_since:
                return 0.0
            return job.published_at + rules.accept_timeout
    return None


def missed(job: Job) -> str:
    """Say which deadline a job has missed."""
    return f"not begun within {(job.not_after or 0.0) - job.queued_at:.0f} s (start_within)"


def _start_until(job: Job, rules: Rules, connected_since: float) -> float:
    """When a job that was accepted has waited for long enough. While there was no broker it could not ask."""
    return max(job.accepted_at or 0.0, connected_since) + rules.start_timeout


def _unanswered(job: Job, rules: Rules, now: float, connected_since: float) -> Due:
    if not _overdue(job, rules, now, connected_since):
        return NOTHING
    if job.publishes >= rules.accept_tries:
        return Due(JobEvent.RELEASE, f"no answer from worker {job.worker} to {job.publishes} publications")
    return Due(resend=Resend.RUN)


def _overdue(job: Job, rules: Rules, now: float, connected_since: float) -> bool:
    """Whether it is time to publish again: after the timeout, or when the connection is newer than the message.

    One published in the future was so by another clock: that timeout would not come.
    """
    if job.published_at is None or job.published_at < connected_since:
        return True
    return not 0 <= now - job.published_at < rules.accept_timeout
