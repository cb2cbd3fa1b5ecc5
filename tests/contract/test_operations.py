"""What operators and schedulers do, on each database, with others who do so at the same moment."""

import json
import threading
from contextlib import contextmanager
from select import select as select_fds

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session

from airflow_mqtt.database import operations, tables, transitions
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.operations import Cancellation, Ending, Wish
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.jobs import HELD, TERMINAL, JobEvent, JobState

ROW = {
    "id": "job-1", "team_name": "", "kind": "airflow", "workload_type": "ExecuteTask", "workload": "{}", "token": "t",
    "token_at": 1.0, "queue": "default", "priority": 1, "slots": 1, "subject": "ti-1", "owner": "42",
}  # fmt: skip
WISHABLE = sorted(HELD - {JobState.CANCELLING})


@contextmanager
def writes(engine):
    """The statements that change rows in this time."""
    seen = []

    def note(_connection, _cursor, statement, *_):
        if not statement.startswith("SELECT"):
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def make(session, state=JobState.QUEUED, **values):
    """Commit a job in `state`, and nothing that is new."""
    for statement in transitions.creation(ROW, now=10.0, by="test"):
        session.execute(statement)
    known = {"state": state.value, "worker": None if state is JobState.QUEUED else "edge-1", "news": False}
    session.execute(update(tables.job).values(known | values))
    session.commit()


def job(session):
    session.rollback()
    return session.execute(select(tables.job)).one()


def cancel(session, **changes):
    given = {"now": 20.0, "by": "cli:x", "reason": "operator: why"} | changes
    return operations.cancel(session, given.pop("team_name", ""), given.pop("job_id", "job-1"), **given)


def test_a_job_that_waits_ends_on_the_spot_without_any_bridge(session):
    make(session)
    assert cancel(session) == Cancellation(Ending.CANCELLED, JobState.QUEUED)
    session.commit()
    row = job(session)
    assert (row.state, row.reason, row.finished_at, row.report_pending, row.news) == (
        "cancelled", "operator: why", 20.0, True, True,
    )  # fmt: skip
    told = session.execute(select(tables.job_event).order_by(tables.job_event.c.id)).all()
    assert [(one.event, one.by, one.reason) for one in told[1:]] == [("cancel", "cli:x", "operator: why")]


@pytest.mark.parametrize("state", WISHABLE)
def test_the_end_of_a_job_that_a_worker_holds_is_wished(session, state):
    make(session, state)
    assert cancel(session) == Cancellation(Ending.WISHED, state, "edge-1")
    session.commit()
    row = job(session)
    assert (row.state, row.reason, row.report_pending) == (state, "", False)
    assert (row.cancel_reason, row.cancel_by, row.news) == ("operator: why", "cli:x", True)
    assert len(session.execute(select(tables.job_event)).all()) == 1  # the leader tells what it does


@pytest.mark.parametrize("state", WISHABLE)
def test_a_wish_is_written_once(engine, session, state):
    make(session, state)
    cancel(session)
    session.execute(update(tables.job).values(news=False))  # the leader has heard it
    session.commit()
    with writes(engine) as seen:
        assert cancel(session, reason="another").ending is Ending.WISHED_BEFORE
    assert seen == []
    assert (job(session).cancel_reason, job(session).news) == ("operator: why", False)


def test_what_is_being_cancelled_needs_no_wish(engine, session):
    make(session, JobState.CANCELLING)
    with writes(engine) as seen:
        assert cancel(session).ending is Ending.WISHED_BEFORE
    assert seen == []


def test_a_job_that_came_back_to_its_queue_with_a_wish_ends_for_the_first_reason(session):
    make(session, cancel_reason="superseded")
    assert cancel(session).ending is Ending.CANCELLED
    session.commit()
    assert job(session).reason == "superseded"


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_what_has_ended_is_left_alone(engine, session, state):
    make(session, state)
    with writes(engine) as seen:
        assert cancel(session).ending is Ending.ENDED
    assert seen == []


@pytest.mark.parametrize("which", [{"job_id": "job-2"}, {"team_name": "another"}])
def test_what_is_not_there(session, which):
    make(session)
    assert cancel(session, **which) == Cancellation(Ending.GONE)


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL))
def test_what_has_passed_the_start_gate_can_be_left_alone(session, state):
    make(session, state)
    ending = cancel(session, unstarted_only=True).ending
    session.commit()
    untouched = (job(session).state, job(session).cancel_reason, job(session).news) == (state, None, False)
    assert untouched == (state in (JobState.RUNNING, JobState.CANCELLING)) == (ending is Ending.STARTED)


@pytest.mark.parametrize("unstarted_only", [True, False])
def test_a_job_that_moves_between_look_and_write_is_looked_at_again(session, monkeypatch, unstarted_only):
    make(session, JobState.ACCEPTED)
    real = operations._end

    def moved_before(own, seen, **values):
        monkeypatch.setattr(operations, "_end", real)
        start = transitions.move("job-1", JobState.ACCEPTED, 1, JobEvent.START, now=15.0, by="bridge:b")
        assert operations.changed(own, start.statement) == 1
        return real(own, seen, **values)

    monkeypatch.setattr(operations, "_end", moved_before)
    done = cancel(session, unstarted_only=unstarted_only)
    assert done == Cancellation(Ending.STARTED if unstarted_only else Ending.WISHED, JobState.RUNNING, "edge-1")


def test_a_job_that_others_keep_moving_is_said(engine, session, monkeypatch):
    make(session, JobState.ACCEPTED)
    monkeypatch.setattr(operations, "_end", lambda *_, **__: None)
    with writes(engine) as seen:
        assert cancel(session) == Cancellation(Ending.CONTESTED, JobState.ACCEPTED, "edge-1")
    assert seen == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # of SQLite there is one writer at a time
@pytest.mark.parametrize("wished", [True, False], ids=["committed", "rolled back"])
def test_the_gate_waits_for_a_wish_that_is_not_committed_yet(engine, session, wished):
    """A scheduler supersedes a dispatch in its own transaction, while the leader opens the gate of that dispatch."""
    make(session, JobState.ACCEPTED)
    cancel(session, unstarted_only=True)
    opened = []

    def gate():
        start = transitions.move("job-1", JobState.ACCEPTED, 1, JobEvent.START, now=15.0, by="bridge:b")
        with Session(engine) as leader:
            unwished = start.statement.where(tables.job.c.cancel_reason.is_(None))
            opened.append(operations.changed(leader, unwished))
            leader.commit()

    leader = threading.Thread(target=gate)
    leader.start()
    leader.join(0.2)
    assert leader.is_alive() and opened == []
    session.commit() if wished else session.rollback()
    leader.join(60)
    assert opened == [0 if wished else 1]
    assert job(session).state == ("accepted" if wished else "running")


# --- workers ----------------------------------------------------------------------------------------------


@pytest.fixture
def worker(session):
    values = {"name": "edge-1", "state": "idle", "seen_at": 1.0, "info": '{"queues":["a","b"]}'}
    session.execute(tables.worker.insert().values(**values))
    session.commit()

    def read():
        session.rollback()
        row = session.execute(select(tables.worker)).one()
        return json.loads(row.desired), row.revision, row.news

    return read


WISHES = [
    (operations.request_maintenance, ("why",), {"maintenance": True, "comment": "why"}),
    (operations.shutdown_worker, ("why",), {"shutdown": True, "comment": "why"}),
    (operations.set_comment, ("gone",), {"comment": "gone"}),
    (operations.set_slots, (3,), {"slots": 3}),
    (operations.add_queues, (["b", "c"],), {"queues": ["a", "b", "c"]}),
    (operations.remove_queues, (["b"],), {"queues": ["a"]}),
]


@pytest.mark.parametrize(("wish", "arguments", "expected"), WISHES, ids=lambda one: getattr(one, "__name__", ""))
def test_a_wish_for_a_worker_is_news_and_is_written_once(engine, session, worker, wish, arguments, expected):
    assert wish(session, "", "edge-1", *arguments) is Wish.WISHED
    session.commit()
    document, revision, news = worker()
    assert (document | expected, revision, news) == (document, 1, True)
    session.execute(update(tables.worker).values(news=False))
    session.commit()
    with writes(engine) as seen:
        assert wish(session, "", "edge-1", *arguments) is Wish.WISHED_BEFORE
    assert seen == []
    assert worker() == (document, 1, False)


def test_what_takes_wishes_back(session, worker):
    operations.request_maintenance(session, "", "edge-1", "x")
    operations.shutdown_worker(session, "", "edge-1", "x")
    operations.set_slots(session, "", "edge-1", 2)
    operations.add_queues(session, "", "edge-1", ["c"])
    operations.exit_maintenance(session, "", "edge-1")
    operations.set_slots(session, "", "edge-1", None)
    operations.reset_queues(session, "", "edge-1")
    session.commit()
    nothing = {"maintenance": False, "shutdown": False, "slots": None, "queues": None, "comment": ""}
    assert worker() == (nothing, 7, True)


def test_a_worker_that_is_not_there(session, worker):
    for wish, arguments, _ in WISHES:
        assert wish(session, "", "edge-2", *arguments) is Wish.GONE
        assert wish(session, "another", "edge-1", *arguments) is Wish.GONE
    assert operations.remove_worker(session, "", "edge-2") is Wish.GONE


def test_queues_of_a_worker_that_has_never_said_its_own(session, worker):
    session.execute(update(tables.worker).values(info="{}"))
    assert operations.add_queues(session, "", "edge-1", ["c"]) is Wish.UNHEARD
    assert worker()[1] == 0


@pytest.mark.parametrize("info", ["", "nonsense", "[]", '{"queues": 3}'])
def test_queues_of_a_worker_whose_own_nobody_can_read(session, worker, info):
    session.execute(update(tables.worker).values(info=info))
    session.commit()
    assert operations.add_queues(session, "", "edge-1", ["c"]) is Wish.UNHEARD
    assert worker()[1] == 0


def test_what_a_worker_could_not_read_is_not_written(session, worker):
    with pytest.raises(PayloadError):
        operations.set_comment(session, "", "edge-1", "x" * 5000)
    assert worker()[1] == 0


def test_of_two_who_wish_at_once_neither_is_forgotten(engine, session, worker):
    start = threading.Barrier(2)

    def wish(act, *arguments):
        with Session(engine) as own:
            start.wait(60)
            assert act(own, "", "edge-1", *arguments) is Wish.WISHED
            own.commit()

    both = [
        threading.Thread(target=wish, args=arguments)
        for arguments in [(operations.set_slots, 5), (operations.shutdown_worker, "")]
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    document, revision, _ = worker()
    assert (document["slots"], document["shutdown"], revision) == (5, True, 2)


def test_a_worker_is_to_be_forgotten(engine, session, worker):
    assert operations.remove_worker(session, "", "edge-1") is Wish.WISHED
    session.commit()
    row = session.execute(select(tables.worker)).one()
    assert (row.removal, row.news, row.revision) == (True, True, 0)
    with writes(engine) as seen:
        assert operations.remove_worker(session, "", "edge-1") is Wish.WISHED_BEFORE
    assert len(seen) == 1  # a compare-and-set that finds nothing to change


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # NOTIFY is PostgreSQL's
def test_each_wish_wakes_the_bridge_on_commit(engine, session, worker):
    make(session, JobState.RUNNING)
    with engine.connect() as listener:
        raw = listener.connection.dbapi_connection
        raw.autocommit = True
        raw.cursor().execute(f"LISTEN {tables.NOTIFY_CHANNEL}")
        acts = [lambda act=act, given=given: act(session, "", "edge-1", *given) for act, given, _ in WISHES]
        for act in [*acts, lambda: cancel(session), lambda: operations.remove_worker(session, "", "edge-1")]:
            act()
            session.commit()
            assert select_fds([raw], [], [], 30)[0]
            raw.poll()
            assert [note.payload for note in raw.notifies] == [""]
            raw.notifies.clear()


# --- what is allowed ----------------------------------------------------------------------------------------


def test_what_is_allowed_is_written_and_taken_back(session):
    assert operations.allowed(session, "") == Access()
    assert operations.allow(session, "", "edge-*", ["a", "b"]) is Wish.WISHED
    assert operations.allow(session, "", "edge-*", ["b"]) is Wish.WISHED_BEFORE
    assert operations.allow_calls(session, "", "a", ["variables"]) is Wish.WISHED
    session.commit()
    found = operations.allowed(session, "")
    assert found.serve == (("edge-*", "a"), ("edge-*", "b")) and found.rights("a") == {"variables"}
    assert found.revision == 2
    assert operations.disallow(session, "", "edge-*", ["a"]) is Wish.WISHED
    assert operations.allowed(session, "").serve == (("edge-*", "b"),)
    assert operations.allowed(session, "north") == Access()
    with pytest.raises(PayloadError):
        operations.allow(session, "", "no name", ["a"])


def test_of_two_who_allow_something_at_once_neither_is_lost(engine):
    failed = []

    def run(number):
        try:
            with Session(engine) as own:
                assert operations.allow(own, "", f"edge-{number}", ["a"]) is Wish.WISHED
                own.commit()
        except Exception as error:  # on SQLite the second may have to begin anew: no word is lost without one
            failed.append((number, error))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    with Session(engine) as session:
        found = operations.allowed(session, "")
    assert len(found.serve) == found.revision == 4 - len(failed) and found.serve
    assert not failed or engine.dialect.name == "sqlite"
