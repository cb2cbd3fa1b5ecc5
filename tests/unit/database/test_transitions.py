"""The guarded writes of a job's state, on a real (in-memory) database."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, select, update

from airflow_mqtt.database import records, tables, transitions
from airflow_mqtt.protocol.jobs import HELD, RETURNABLE, TABLE, TERMINAL, JobEvent, JobState

ROW = {
    "id": "job-1",
    "kind": "airflow",
    "workload_type": "ExecuteTask",
    "workload": "{}",
    "token": "t",
    "token_at": 1.0,
    "queue": "default",
    "priority": 1,
    "slots": 1,
    "subject": "ti-1",
    "owner": "42",
}
STAMPS = {
    JobState.DISPATCHED: "dispatched_at",
    JobState.ACCEPTED: "accepted_at",
    JobState.RUNNING: "started_at",
    JobState.SUCCEEDED: "finished_at",
    JobState.FAILED: "finished_at",
    JobState.LOST: "finished_at",
    JobState.CANCELLED: "finished_at",
}


@pytest.fixture(scope="module")
def engine():
    engine = create_engine("sqlite://")
    tables.metadata.create_all(engine)
    return engine


@pytest.fixture
def connection(engine):
    with engine.connect() as connection:
        yield connection
        connection.rollback()


def _create(connection: Connection, state: JobState = JobState.QUEUED, attempt: int = 1, **values) -> None:
    for statement in transitions.creation({**ROW, **values}, now=10.0, by="scheduler:42"):
        connection.execute(statement)
    if (state, attempt) != (JobState.QUEUED, 1):
        connection.execute(update(tables.job).values(state=state.value, attempt=attempt))


def _apply(connection: Connection, move: transitions.Move) -> bool:
    """Execute `move` as its users do."""
    if connection.execute(move.statement).rowcount != 1:
        return False
    connection.execute(move.record)
    return True


def _job(connection: Connection):
    return connection.execute(select(tables.job)).mappings().one()


def _events(connection: Connection):
    return connection.execute(select(tables.job_event).order_by(tables.job_event.c.id)).mappings().all()


def test_a_job_begins_queued_with_its_first_event(connection):
    _create(connection)
    job = _job(connection)
    assert (job["state"], job["attempt"], job["queued_at"]) == ("queued", 1, 10.0)
    assert not job["report_pending"]
    (event,) = _events(connection)
    assert {**event, "id": 0} == {
        "id": 0,
        "job_id": "job-1",
        "attempt": 1,
        "at": 10.0,
        "by": "scheduler:42",
        "event": "queue",
        "before": None,
        "after": "queued",
        "reason": "",
    }


@pytest.mark.parametrize(("state", "event"), sorted(TABLE))
def test_each_transition_of_the_table(connection, state, event):
    _create(connection, state, attempt=2)
    move = transitions.move("job-1", state, 2, event, now=20.0, by="bridge:b1", reason="why")
    assert _apply(connection, move)
    after = TABLE[state, event]
    job, record = _job(connection), _events(connection)[-1]
    assert (move.job_id, move.attempt, move.after) == ("job-1", 2, after)
    assert (job["state"], job["reason"]) == (after.value, "why")
    assert job["attempt"] == (3 if after is JobState.QUEUED else 2)
    assert job["report_pending"] == (after is JobState.RUNNING or after in TERMINAL)
    assert {key: value for key, value in record.items() if key != "id"} == {
        "job_id": "job-1",
        "attempt": 2,
        "at": 20.0,
        "by": "bridge:b1",
        "event": event.value,
        "before": state.value,
        "after": after.value,
        "reason": "why",
    }
    stamped = {name for name in set(STAMPS.values()) if job[name] == 20.0}
    assert stamped == ({STAMPS[after]} if after in STAMPS else set())


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(TABLE)),
    st.sampled_from(list(JobState)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_only_the_state_and_attempt_that_were_seen_are_changed(engine, seen, actual, attempt, seen_attempt, same_id):
    state, event = seen
    with engine.connect() as connection:
        _create(connection, actual, attempt)
        before = dict(_job(connection))
        name = "job-1" if same_id else "job-2"
        changed = _apply(connection, transitions.move(name, state, seen_attempt, event, now=20.0, by="b"))
        assert changed == (same_id and state is actual and attempt == seen_attempt)
        assert len(_events(connection)) == 1 + changed
        if not changed:
            assert dict(_job(connection)) == before
        connection.rollback()


@pytest.mark.parametrize("event", list(JobEvent))
@pytest.mark.parametrize("state", list(JobState))
def test_what_the_table_does_not_have_cannot_be_written(state, event):
    if (state, event) in TABLE:
        return
    with pytest.raises(ValueError, match=f"no transition from {state} by {event}"):
        transitions.move("job-1", state, 1, event, now=20.0, by="b")


@pytest.mark.parametrize("state", sorted(RETURNABLE))
def test_a_job_that_goes_back_forgets_its_worker(connection, state):
    _create(
        connection,
        state,
        worker="edge-1",
        dispatched_at=11.0,
        published_at=11.0,
        publishes=3,
        gate_request="r1",
    )
    assert _apply(connection, transitions.move("job-1", state, 1, JobEvent.RELEASE, now=20.0, by="b"))
    job = _job(connection)
    assert (job["state"], job["attempt"], job["publishes"]) == ("queued", 2, 0)
    forgotten = ("worker", "dispatched_at", "accepted_at", "published_at", "gate_request")
    assert [job[name] for name in forgotten] == [None] * 5
    assert job["queued_at"] == 10.0  # its place in the queue stays


def test_a_move_sets_further_columns(connection):
    _create(connection)
    move = transitions.move(
        "job-1", JobState.QUEUED, 1, JobEvent.DISPATCH, now=20.0, by="b", worker="edge-1", publishes=1
    )
    assert _apply(connection, move)
    assert (_job(connection)["worker"], _job(connection)["publishes"]) == ("edge-1", 1)


def test_a_job_that_ends_in_its_queue_loses_its_token_at_once(connection):
    _create(connection)
    assert _apply(connection, transitions.move("job-1", JobState.QUEUED, 1, JobEvent.CANCEL, now=20.0, by="b"))
    assert (_job(connection)["state"], _job(connection)["token"]) == ("cancelled", "")


def test_of_two_who_saw_the_same_only_one_moves_the_job(connection):
    _create(connection)
    moves = [
        transitions.move("job-1", JobState.QUEUED, 1, JobEvent.DISPATCH, now=20.0, by=by, worker=by)
        for by in ("b1", "b2")
    ]
    assert [_apply(connection, move) for move in moves] == [True, False]
    assert _job(connection)["worker"] == "b1"
    assert len(_events(connection)) == 2


def test_a_whole_life_is_told_by_its_events(connection):
    _create(connection)
    life = [
        (JobState.QUEUED, 1, JobEvent.DISPATCH),
        (JobState.DISPATCHED, 1, JobEvent.REJECT),
        (JobState.QUEUED, 2, JobEvent.DISPATCH),
        (JobState.DISPATCHED, 2, JobEvent.ACCEPT),
        (JobState.ACCEPTED, 2, JobEvent.START),
        (JobState.RUNNING, 2, JobEvent.SUCCEED),
    ]
    for at, (state, attempt, event) in enumerate(life, start=20):
        assert _apply(connection, transitions.move("job-1", state, attempt, event, now=float(at), by="b"))
    told = [(row["attempt"], row["event"], row["after"]) for row in _events(connection)]
    assert told == [
        (1, "queue", "queued"),
        (1, "dispatch", "dispatched"),
        (1, "reject", "queued"),
        (2, "dispatch", "dispatched"),
        (2, "accept", "accepted"),
        (2, "start", "running"),
        (2, "succeed", "succeeded"),
    ]
    job = _job(connection)
    assert (job["dispatched_at"], job["accepted_at"], job["started_at"], job["finished_at"]) == (
        22.0,
        23.0,
        24.0,
        25.0,
    )


def test_the_executor_hears_of_running_and_of_every_end():
    assert {JobState.RUNNING, *TERMINAL} == records.REPORTED
    assert {JobState.RUNNING} == records.REPORTED & HELD


@pytest.mark.parametrize("state", [JobState.DISPATCHED, JobState.ACCEPTED, JobState.RUNNING])
def test_a_cancel_counts_its_own_publications(connection, state):
    _create(connection, state, worker="edge-1", published_at=11.0, publishes=3)
    assert _apply(
        connection, transitions.move("job-1", state, 1, JobEvent.CANCEL, now=20.0, by="b", reason="airflow: gone")
    )
    job = _job(connection)
    assert (job["state"], job["worker"], job["reason"]) == ("cancelling", "edge-1", "airflow: gone")
    assert (job["published_at"], job["publishes"]) == (None, 0)
