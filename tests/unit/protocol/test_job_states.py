"""Every state and every event of a job, and the rule by which reports are settled."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.protocol import jobs
from airflow_mqtt.protocol.jobs import TABLE, TERMINAL, JobEvent, JobState, Verdict, next_state, settle

STATES = st.sampled_from(list(JobState))
EVENTS = st.sampled_from(list(JobEvent))
ATTEMPTS = st.integers(0, 2**53)
EVERY = [(state, event) for state in JobState for event in JobEvent]


@pytest.mark.parametrize(("state", "event"), EVERY)
def test_a_report_of_the_current_attempt_applies_if_and_only_if_the_table_has_it(state, event):
    assert (settle(state, 3, event, 3) is Verdict.APPLY) == ((state, event) in TABLE)
    assert next_state(state, event) == TABLE.get((state, event))


@given(STATES, ATTEMPTS, EVENTS, ATTEMPTS)
def test_the_attempt_fences_before_anything_else(state, attempt, event, reported):
    verdict = settle(state, attempt, event, reported)
    if reported < attempt:
        assert verdict is Verdict.STALE
    elif reported > attempt:
        assert verdict is Verdict.REFUSED
    else:
        assert (verdict is Verdict.APPLY) == ((state, event) in TABLE)


@pytest.mark.parametrize(("state", "event"), sorted(TABLE))
def test_what_was_applied_is_a_duplicate_the_second_time(state, event):
    after = TABLE[state, event]
    if after is JobState.QUEUED:  # the next attempt: what the old one says is stale
        assert settle(after, 2, event, 1) is Verdict.STALE
    elif event in (JobEvent.RELEASE, JobEvent.REJECT, JobEvent.LOSE) and after is JobState.CANCELLED:
        assert settle(after, 1, event, 1) is Verdict.STALE
    else:
        assert settle(after, 1, event, 1) is Verdict.DUPLICATE


@pytest.mark.parametrize("state", sorted(TERMINAL))
@pytest.mark.parametrize("event", list(JobEvent))
def test_an_ended_job_is_moved_and_contradicted_by_nothing(state, event):
    assert next_state(state, event) is None
    assert settle(state, 1, event, 1) in (Verdict.DUPLICATE, Verdict.STALE)


@pytest.mark.parametrize("event", [JobEvent.ACCEPT, JobEvent.START])
def test_what_a_cancel_overtook_is_late_and_no_contradiction(event):
    assert settle(JobState.CANCELLING, 1, event, 1) is Verdict.STALE


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (JobState.DISPATCHED, JobEvent.START),  # the gate waits for the report of acceptance
        (JobState.ACCEPTED, JobEvent.SUCCEED),  # it never passed the gate
        (JobState.DISPATCHED, JobEvent.SUCCEED),
        (JobState.RUNNING, JobEvent.REJECT),
        (JobState.RUNNING, JobEvent.RELEASE),
        (JobState.RUNNING, JobEvent.CONFIRM),  # nobody asked for its end
        (JobState.ACCEPTED, JobEvent.CONFIRM),
    ],
)
def test_contradictions_are_refused(state, event):
    assert settle(state, 1, event, 1) is Verdict.REFUSED


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (JobState.RUNNING, JobEvent.ACCEPT),
        (JobState.RUNNING, JobEvent.START),
        (JobState.SUCCEEDED, JobEvent.ACCEPT),
        (JobState.SUCCEEDED, JobEvent.SUCCEED),
        (JobState.FAILED, JobEvent.FAIL),
        (JobState.CANCELLED, JobEvent.CONFIRM),
        (JobState.CANCELLED, JobEvent.CANCEL),
        (JobState.LOST, JobEvent.LOSE),
    ],
)
def test_what_the_job_has_already_is_a_duplicate(state, event):
    assert settle(state, 1, event, 1) is Verdict.DUPLICATE


def test_a_late_end_of_a_lost_job_changes_nothing():
    assert settle(JobState.LOST, 1, JobEvent.SUCCEED, 1) is Verdict.STALE


def _reachable(start: JobState) -> set[JobState]:
    seen, todo = {start}, [start]
    while todo:
        here = todo.pop()
        after = {to for (before, _), to in TABLE.items() if before is here} - seen
        seen |= after
        todo += after
    return seen


def test_every_state_is_reached_and_every_job_can_end():
    assert _reachable(jobs.INITIAL) == set(JobState)
    for state in set(JobState) - TERMINAL:
        assert _reachable(state) & TERMINAL


def test_terminal_states_are_those_without_exits():
    assert {before for before, _ in TABLE} == set(JobState) - TERMINAL


def test_only_what_has_not_started_goes_back_to_the_queue():
    assert {JobState.DISPATCHED, JobState.ACCEPTED} == jobs.RETURNABLE
    assert JobState.QUEUED not in _reachable(JobState.RUNNING)


def test_a_job_starts_from_accepted_only():
    assert {before for (before, _), after in TABLE.items() if after is JobState.RUNNING} == {JobState.ACCEPTED}


def test_a_worker_is_bound_exactly_between_queue_and_end():
    assert set(JobState) - TERMINAL - {jobs.INITIAL} == jobs.HELD


@given(st.lists(EVENTS, max_size=40))
def test_no_sequence_of_events_leaves_an_end_or_starts_a_job_twice_in_one_attempt(events):
    state, attempt, started = JobState.QUEUED, 1, []
    for event in events:
        if settle(state, attempt, event, attempt) is not Verdict.APPLY:
            continue
        assert state not in TERMINAL
        state = TABLE[state, event]
        if state is JobState.RUNNING:
            started.append(attempt)
        attempt += state is JobState.QUEUED
    assert len(started) <= 1  # a job that ran is never run again by us, in no attempt


def test_the_diagram_shows_each_transition_of_the_table():
    drawn = set()
    for before, after, names in re.findall(r"^ +(\w+) --> (\w+): (.+)$", jobs.diagram(), re.MULTILINE):
        drawn |= {(before, name, after) for name in names.split(", ")}
    assert drawn == {(before, event, after) for (before, event), after in TABLE.items()}
