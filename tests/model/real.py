"""The project's own decisions, as the model asks them: it must break when they do.

Each is pure, so its answers are remembered: the search asks the same few hundred questions a million times.
"""

from functools import cache

from airflow_mqtt.bridge.calls.gate import Call, Refusal, admit
from airflow_mqtt.bridge.dispatch import fleet, timeouts
from airflow_mqtt.protocol import execution_api, jobs
from airflow_mqtt.protocol.jobs import JobEvent, JobState, Verdict
from airflow_mqtt.protocol.messages import Born, Request
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, job, worker
from model.state import Launch

_RULES = timeouts.Rules(accept_timeout=30.0, accept_tries=3, start_timeout=600.0, lost_after=300.0)
_LONG_AGO = NOW - 10_000.0


@cache
def next_state(state: str, event: str) -> str | None:
    after = jobs.next_state(JobState(state), JobEvent(event))
    return None if after is None else after.value


@cache
def settle(state: str, attempt: int, event: str, reported_attempt: int) -> Verdict:
    return jobs.settle(JobState(state), attempt, JobEvent(event), reported_attempt)


@cache
def given_up(state: str, begun: bool) -> JobEvent | None:
    """Return what `timeouts.due` does to a job whose worker has been silent for longer than anybody waits."""
    held = job(
        state=JobState(state), worker="w", started_at=_LONG_AGO if begun else None, published_at=_LONG_AGO, publishes=1
    )
    silent = worker(name="w", state=WorkerState.UNKNOWN, seen_at=_LONG_AGO)
    return timeouts.due(held, silent, _RULES, now=NOW, connected_since=_LONG_AGO).event


@cache
def resent(state: str) -> timeouts.Resend | None:
    """Return what `timeouts.due` publishes again for a job whose worker lives and says nothing."""
    held = job(state=JobState(state), worker="w", published_at=_LONG_AGO, publishes=1)
    living = worker(name="w", state=WorkerState.IDLE, seen_at=NOW)
    return timeouts.due(held, living, _RULES, now=NOW, connected_since=_LONG_AGO).resend


@cache
def admitted(
    state: str,
    attempt: int,
    holder: int | None,
    gate: Launch | None,
    asker: int,
    asked_attempt: int,
    launch: Launch,
) -> bool:
    """Return whether `gate.admit` lets this gate request through, now or again."""
    method, path = "PATCH", "task-instances/ti-1/run"
    held = job(
        state=JobState(state),
        attempt=attempt,
        worker=None if holder is None else str(holder),
        gate_request=None if gate is None else _name(gate),
    )
    request = Request(
        id=_name(launch), journal=str(launch[0]), job=held.id, attempt=asked_attempt, method=method, path=path
    )
    match = execution_api.find(method, path)
    assert isinstance(match, execution_api.Match)
    return not isinstance(admit(held, Call(str(asker), request), match), Refusal)


@cache
def should_hold(accepted_in: int | None, since: int, journal: int, behind: int) -> bool:
    """Return what `fleet.should_hold` says of a birth `behind` reports ahead of the position, `since` after the
    acceptance.
    """
    position = 10_000
    held = job(
        accept_journal=None if accepted_in is None else str(accepted_in),
        accept_seq=None if accepted_in is None else position - since,
    )
    birth = Born(
        journal=str(journal), first=1, last=position + behind, instance="i", connection=1, number=1, queues=[], kinds=[]
    )
    return fleet.should_hold(held, birth)


def _name(launch: Launch) -> str:
    return f"launch-{launch[0]}-{launch[1]}"


def forget() -> None:
    """Ask again: a defect has changed the table."""
    for asked in (next_state, settle, given_up, resent, admitted, should_hold):
        asked.cache_clear()
