"""What people do to workers and jobs, on each database: what comes of it, and the record."""

import pytest
from sqlalchemy import insert, select, update

from airflow_mqtt.database import acts, operations, tables, transitions
from airflow_mqtt.database.acts import Act, Order
from airflow_mqtt.database.operations import Ending, Wish
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import MAX_TEXT
from contract.test_operations import ROW

INFO = '{"queues": ["a", "b"]}'


@pytest.fixture
def engine(engine):
    """With two workers."""
    with engine.begin() as connection:
        for name in ("edge-1", "edge-2"):
            row = {"name": name, "state": "idle", "seen_at": 1.0, "info": INFO}
            connection.execute(insert(tables.worker).values(**row))
    return engine


def act(session, kind, *names, **more):
    order = Order(kind, **more)
    return acts.on_workers(session, "", order, names or ["edge-1"], by="cli:anna", now=7.0)


def outcomes(results):
    return {result.name: result.outcome for result in results}


def record(session):
    columns = (
        tables.act.c.at,
        tables.act.c.by,
        tables.act.c.act,
        tables.act.c.subject,
        tables.act.c.detail,
        tables.act.c.outcome,
    )
    return [tuple(row) for row in session.execute(select(*columns).order_by(tables.act.c.id))]


def test_one_act_on_many_is_recorded_for_each(session):
    done = act(session, Act.REQUEST_MAINTENANCE, "edge-2", "edge-1", "edge-9", "edge-1", comment="new battery")
    assert outcomes(done) == {"edge-1": Wish.WISHED, "edge-2": Wish.WISHED, "edge-9": Wish.GONE}
    assert [one.is_done for one in done] == [True, True, False]
    assert record(session) == [
        (7.0, "cli:anna", "request-maintenance", name, "new battery", outcome)
        for name, outcome in (("edge-1", "wished"), ("edge-2", "wished"), ("edge-9", "gone"))
    ]


NEEDS = {
    Act.REQUEST_MAINTENANCE: {"comment": "x"},
    Act.ADD_QUEUES: {"queues": ["c"]},
    Act.REMOVE_QUEUES: {"queues": ["a"]},
}


@pytest.mark.parametrize("kind", acts.ON_WORKERS)
def test_each_act_says_what_came_of_it(session, kind):
    for name in ("edge-1", "edge-9"):
        (done,) = act(session, kind, name, **NEEDS.get(kind, {}))
        assert name in done.text
    assert len(record(session)) == 2


@pytest.mark.parametrize("kind", NEEDS)
def test_what_must_be_said_is_asked_for(session, kind):
    with pytest.raises(PayloadError, match=f"{kind} needs"):
        act(session, kind, comment="  ")
    assert record(session) == []


def test_what_no_worker_could_read_is_refused_for_all(session):
    with pytest.raises(PayloadError):
        act(session, Act.SET_COMMENT, "edge-1", "edge-2", comment="x" * 10_000)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Act.SET_SLOTS, {"slots": 10**30}), (Act.ADD_QUEUES, {"queues": ["a\ud800"]}),
        (Act.REMOVE_QUEUES, {"queues": ["x"] * 10_000}), (Act.SHUTDOWN, {"comment": "\x00"}),
    ],
)  # fmt: skip
def test_nor_is_anything_done_where_nobody_is_there(session, kind, more):
    with pytest.raises(PayloadError):
        act(session, kind, "edge-9", **more)
    assert record(session) == []


def test_what_one_worker_cannot_be_told_keeps_nobody_else(session):
    """Some are done in a transaction of their own before: none of them may be hidden by an error."""
    session.execute(update(tables.worker).where(tables.worker.c.name == "edge-1").values(desired="{"))
    done = act(session, Act.SET_COMMENT, "edge-1", "edge-2", comment="hello")
    assert outcomes(done) == {"edge-1": Wish.UNFIT, "edge-2": Wish.WISHED}
    assert "worker edge-1 cannot be told: not a document of wishes" in done[0].text
    assert [row[-1] for row in record(session)] == ["unfit", "wished"]


def test_the_record_holds_what_a_database_takes(session):
    detail = "\x00" + "x" * 10_000
    acts.record(session, "", Act.CANCEL, {"job-1": "gone"}, detail=detail, by="cli:anna", now=7.0)
    ((*_, detail, _),) = record(session)
    assert len(detail) == MAX_TEXT and "\x00" not in detail


def test_the_second_of_two_operators_sees_what_the_first_did(session):
    """Both have looked at revision 0."""
    seen = {"edge-1": 0, "edge-2": 0}
    assert outcomes(act(session, Act.SET_SLOTS, slots=3, seen=seen)) == {"edge-1": Wish.WISHED}
    done = act(session, Act.SHUTDOWN, "edge-1", "edge-2", seen=seen)
    assert outcomes(done) == {"edge-1": Wish.CHANGED, "edge-2": Wish.WISHED}
    assert "somebody else" in done[0].text
    assert outcomes(act(session, Act.REMOVE, seen=seen)) == {"edge-1": Wish.CHANGED}
    assert outcomes(act(session, Act.REMOVE, seen={"edge-1": 1})) == {"edge-1": Wish.WISHED}
    assert outcomes(act(session, Act.REMOVE, seen={"edge-1": 1})) == {"edge-1": Wish.WISHED_BEFORE}


def test_jobs_are_ended_and_it_is_recorded(session):
    for statement in transitions.creation(ROW, now=1.0, by="test"):
        session.execute(statement)
    results = acts.on_jobs(session, "", ["job-1", "job-2"], by="api:anna", now=7.0, reason="operator: why")
    assert outcomes(results) == {"job-1": Ending.CANCELLED, "job-2": Ending.GONE}
    assert record(session)[0] == (7.0, "api:anna", "cancel", "job-1", "operator: why", "cancelled")
    (again,) = acts.on_jobs(session, "", ["job-1"], by="api:anna", now=8.0, reason="operator: why")
    assert (again.outcome, again.text) == (Ending.ENDED, "job job-1 has already ended: it is cancelled")


def test_a_worker_that_was_changed_between_look_and_write_is_left_alone(session, monkeypatch):
    """The first operator writes after the second has read the row, and before it writes."""
    written = operations._is_written

    def late(session, *arguments):
        session.execute(update(tables.worker).values(revision=tables.worker.c.revision + 1))
        return written(session, *arguments)

    monkeypatch.setattr(operations, "_is_written", late)
    assert outcomes(act(session, Act.SHUTDOWN, seen={"edge-1": 0})) == {"edge-1": Wish.CHANGED}
