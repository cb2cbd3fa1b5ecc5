"""What the scheduler is told: every state, final state, subject and kind of reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.executor import core
from airflow_mqtt.executor.core import BY_AIRFLOW, BY_OPERATOR, RESUMABLE, Decision, Job, Report, decide
from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.jobs import TERMINAL, JobState

FINAL_STATES = [None, "success", "failed", "skipped", "up_for_retry", *sorted(RESUMABLE)]
REASONS = ["", "worker silent for 900 s", f"{BY_AIRFLOW} the task instance is gone", f"{BY_OPERATOR} by hand"]

jobs = st.builds(
    Job,
    id=st.just("job-1"),
    kind=st.sampled_from(kinds.KINDS),
    state=st.sampled_from(JobState),
    reason=st.sampled_from(REASONS),
    final_state=st.sampled_from(FINAL_STATES),
    newest=st.booleans(),
)


def job(state, *, kind=kinds.TASK, reason="", final_state=None, newest=True):
    return Job("job-1", kind, state, reason, final_state, newest)


@given(jobs)
def test_an_older_dispatch_is_never_heard_of(one):
    if not one.newest:
        assert decide(one).report is Report.SILENT


@given(jobs)
def test_a_task_that_may_run_again_is_never_reported_as_ended(one):
    if one.final_state in RESUMABLE and one.state in TERMINAL:
        assert decide(one) == Decision(Report.SILENT, ended=True)


@given(jobs)
def test_a_job_is_forgotten_when_and_only_when_it_has_ended(one):
    assert decide(one).ended == (one.state in TERMINAL)


@given(jobs)
def test_running_carries_the_id_that_the_scheduler_stores(one):
    decision = decide(one)
    if decision.report is Report.RUNNING:
        assert decision.info == one.id
        assert one.state is JobState.RUNNING


@given(jobs)
def test_a_failure_always_says_why(one):
    decision = decide(one)
    if decision.report is Report.FAILED:
        assert decision.info


@given(jobs)
def test_a_live_job_is_silent_or_running(one):
    if one.state not in TERMINAL:
        assert decide(one).report in (Report.SILENT, Report.RUNNING)


@given(jobs)
def test_what_airflow_accepted_stands(one):
    if one.newest and one.state in TERMINAL and one.final_state not in (None, *RESUMABLE):
        assert decide(one).report is Report.SUCCESS


@pytest.mark.parametrize(
    ("state", "report"),
    [
        (JobState.QUEUED, Report.SILENT),
        (JobState.DISPATCHED, Report.SILENT),
        (JobState.ACCEPTED, Report.SILENT),
        (JobState.RUNNING, Report.RUNNING),
        (JobState.CANCELLING, Report.SILENT),
        (JobState.SUCCEEDED, Report.SUCCESS),
        (JobState.FAILED, Report.FAILED),
        (JobState.LOST, Report.FAILED),
        (JobState.CANCELLED, Report.SILENT),
    ],
)
def test_each_state_of_the_newest_dispatch(state, report):
    assert decide(job(state)).report is report


def test_a_revoked_task_is_silent_and_a_cleared_one_goes_on():
    assert decide(job(JobState.CANCELLED, reason="revoked by the scheduler")).report is Report.SILENT
    assert decide(job(JobState.CANCELLED, reason="airflow: not_running")).report is Report.SUCCESS


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED, JobState.LOST])
def test_a_cleared_task_goes_on_however_its_job_ended(state):
    assert decide(job(state, reason="airflow: heartbeat answered 409")).report is Report.SUCCESS


def test_what_a_person_cancels_fails_at_once():
    assert decide(job(JobState.CANCELLED, reason="operator: stuck")) == Decision(
        Report.FAILED, ended=True, info="operator: stuck"
    )


def test_a_cancelled_callback_fails_since_nothing_else_would_end_it():
    decision = decide(job(JobState.CANCELLED, kind=kinds.CALLBACK))
    assert decision == Decision(Report.FAILED, ended=True, info="cancelled")


def test_the_module_needs_no_airflow():
    assert "airflow" not in {name.partition(".")[0] for name in vars(core)}
