import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mqtt.bridge.dispatch.timeouts import NOTHING, Due, Resend, due, next_look
from airflow_mqtt.protocol.jobs import TABLE, JobEvent, JobState
from airflow_mqtt.protocol.workers import GONE, WorkerState
from bridge_samples import NOW, RULES, job, worker


def of(j, w=None, now=NOW, connected_since=0.0):
    return due(j, w or worker(), RULES, now=now, connected_since=connected_since)


def held(state, **values):
    return job(**({"state": state, "worker": "edge-1", "published_at": NOW, "publishes": 1} | values))


def test_an_answer_is_waited_for():
    assert of(held(JobState.DISPATCHED), now=NOW + 9) == NOTHING


def test_no_answer_publishes_again_then_releases():
    assert of(held(JobState.DISPATCHED), now=NOW + 10) == Due(resend=Resend.RUN)
    last = of(held(JobState.DISPATCHED, publishes=3), now=NOW + 10)
    assert last.event is JobEvent.RELEASE and "3 publications" in last.reason


def test_a_new_connection_publishes_at_once():
    assert of(held(JobState.DISPATCHED), now=NOW + 1, connected_since=NOW + 0.5).resend is Resend.RUN


def test_a_clock_that_was_set_back_holds_no_publication_up():
    assert of(held(JobState.DISPATCHED), now=NOW - 3600).resend is Resend.RUN


def test_a_claim_that_was_never_published():
    assert of(held(JobState.DISPATCHED, published_at=None)).resend is Resend.RUN


@pytest.mark.parametrize("state", [JobState.DISPATCHED, JobState.ACCEPTED])
@pytest.mark.parametrize("gone", sorted(GONE))
def test_what_did_not_start_goes_back_as_soon_as_its_worker_is_gone(state, gone):
    assert of(held(state), worker(state=gone)).event is JobEvent.RELEASE


def test_what_was_accepted_and_does_not_start_goes_back():
    accepted = held(JobState.ACCEPTED, accepted_at=NOW)
    assert of(accepted, now=NOW + 599) == NOTHING
    late = of(accepted, now=NOW + 600)
    assert late.event is JobEvent.RELEASE and "has not started it for 600 s" in late.reason
    assert of(accepted, now=NOW + 1000, connected_since=NOW + 500) == NOTHING  # it could not ask before
    assert next_look(accepted, worker(), RULES, connected_since=0.0) == NOW + 600


@pytest.mark.parametrize("state", [JobState.DISPATCHED, JobState.ACCEPTED])
@pytest.mark.parametrize("worker_state", [WorkerState.IDLE, WorkerState.OFFLINE])
def test_what_should_have_begun_fails_on_its_worker_too(state, worker_state):
    late = held(state, not_after=NOW + 5, queued_at=NOW - 55, accepted_at=NOW)
    result = of(late, worker(state=worker_state), now=NOW + 5)
    assert result.event is JobEvent.FAIL
    assert result.reason == "not begun within 60 s (start_within): worker edge-1 has it and has not begun it"
    assert of(late, now=NOW + 4.9) == NOTHING
    assert next_look(late, worker(), RULES, connected_since=0.0) == NOW + 5


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.CANCELLING])
def test_what_has_begun_in_time_runs_on(state):
    assert of(held(state, not_after=NOW - 5)) == NOTHING


def test_a_running_job_is_covered_until_lost_after():
    gone = worker(state=WorkerState.UNKNOWN)
    assert of(held(JobState.RUNNING), gone, now=NOW + 900) == NOTHING
    assert of(held(JobState.RUNNING), gone, now=NOW + 901).event is JobEvent.LOSE


def test_a_running_job_of_a_living_worker_is_left_alone():
    assert of(held(JobState.RUNNING), now=NOW + 1e6) == NOTHING


def test_a_cancellation_is_repeated_until_confirmed():
    assert of(held(JobState.CANCELLING, published_at=None)).resend is Resend.CANCEL
    assert of(held(JobState.CANCELLING), now=NOW + 5) == NOTHING
    assert of(held(JobState.CANCELLING, publishes=99), now=NOW + 10).resend is Resend.CANCEL


def test_a_cancellation_of_a_worker_that_is_gone():
    gone = worker(state=WorkerState.OFFLINE)
    assert of(held(JobState.CANCELLING), gone).event is JobEvent.RELEASE
    started = held(JobState.CANCELLING, started_at=NOW)
    assert of(started, gone, now=NOW + 5) == NOTHING
    assert of(started, gone, now=NOW + 901).event is JobEvent.LOSE


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("worker_state", WorkerState)
@pytest.mark.parametrize("later", [0, 11, 1000])
def test_what_is_due_is_always_a_move_of_the_table(state, worker_state, later):
    result = of(held(state), worker(state=worker_state), now=NOW + later)
    assert result.event is None or (state, result.event) in TABLE


MOMENTS = st.one_of(st.sampled_from([0.0, 1.0, 9.0, 10.0, 11.0, 900.0, 901.0]), st.floats(0, 2000))


@settings(max_examples=1000)
@given(
    st.sampled_from(list(JobState)), st.sampled_from(list(WorkerState)), st.one_of(st.none(), MOMENTS),
    st.integers(0, 4), st.one_of(st.none(), MOMENTS), MOMENTS, MOMENTS, MOMENTS, st.one_of(st.none(), MOMENTS),
)  # fmt: skip
def test_nobody_looks_later_than_something_is_due(
    state, worker_state, published, publishes, started, seen, connected, later, must
):
    """A clock that is set back is `Living.look_at_all`'s business: no publication lies in the future here."""
    now = NOW + later
    times = [NOW + at if at is not None else None for at in (published, started, seen, connected)]
    published_at, started_at, seen_at, connected_since = (None if at is None else min(at, now) for at in times)
    j = held(state, published_at=published_at, publishes=publishes, started_at=started_at, accepted_at=published_at,
             not_after=None if must is None else NOW + must)  # fmt: skip
    w = worker(state=worker_state, seen_at=seen_at)
    look = next_look(j, w, RULES, connected_since=connected_since)
    if of(j, w, now=now, connected_since=connected_since) != NOTHING:
        assert look is not None and look <= now


def test_a_deadline_is_no_sooner_than_it_must_be():
    """Else a leader would turn round for nothing."""
    assert next_look(held(JobState.DISPATCHED), worker(), RULES, connected_since=0.0) == NOW + 10
    assert next_look(held(JobState.RUNNING), worker(), RULES, connected_since=0.0) is None
    gone = worker(state=WorkerState.UNKNOWN, seen_at=NOW)
    assert next_look(held(JobState.RUNNING), gone, RULES, connected_since=0.0) == NOW + 900
