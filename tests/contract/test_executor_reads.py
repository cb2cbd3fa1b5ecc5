"""What schedulers, API servers and triggerers ask: however long the history is, none of it reads a whole table."""

from uuid import uuid4

import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from airflow_mqtt.database import operations, tables
from plans import Plans
from schema import engine_of, upgrade

ROW = {
    "kind": "airflow", "workload_type": "ExecuteTask", "workload": "{}", "token": "t", "token_at": 0.0, "queue": "a",
    "priority": 1, "slots": 1, "attempt": 1, "owner": "1", "dag_id": "dag", "run_id": "run", "try_number": 1,
}  # fmt: skip
NOW = 1e6


@pytest.fixture
def engine(database_url):
    """Much history, and a little that lives."""
    made = engine_of(database_url)
    upgrade(made)  # between indexes that are as good, SQLite takes the one that came last
    ended = [
        {"id": str(uuid4()), "state": "succeeded", "finished_at": 9.0, "task_id": f"task-{number}"}
        for number in range(6000)
    ]
    states = ["queued", "dispatched", "accepted", "running", "cancelling"] * 4
    lives = [
        {"id": f"live-{number}", "state": state, "finished_at": None, "task_id": f"live-{number}"}
        for number, state in enumerate(states)
    ]
    rows = [ROW | one | {"subject": one["id"], "queued_at": 1.0, "log_path": one["id"]} for one in (*ended, *lives)]
    with made.begin() as connection:
        connection.execute(insert(tables.job), rows)
        logs = [{"job_id": row["id"], "attempt": 1, "offset": 0, "data": b"x"} for row in rows]
        connection.execute(insert(tables.job_log), logs)
        events = [
            {"job_id": row["id"], "attempt": 1, "at": 1.0, "by": "x", "event": "queue", "after": "queued"}
            for row in rows
        ]
        connection.execute(insert(tables.job_event), events)
        if made.dialect.name == "postgresql":  # autovacuum does that; nobody does it in a file of SQLite
            connection.exec_driver_sql("ANALYZE")
    yield made
    made.dispose()


def test_a_scheduler_reads_no_whole_table(engine):
    store = pytest.importorskip("airflow_mqtt.executor.store", exc_type=ImportError)
    plans = Plans(engine)
    mine = {"owner": "1", "team_name": ""}
    with Session(engine) as session:
        assert len(store.jobs_of_subject(session, "live-0", "live-1")) == 2
        store.existing(session, ["live-0"])
        store.take_reports(session, **mine, unsure=(), told=())
        store.take_reports(session, **mine, unsure=["live-0"], told=())
        store.untracked_ends(session, **mine, told=())
        store.by_id(session, ["live-0"], "")
        store.adopt(session, ["live-0"], "2")
        store.ownerless(session, ["1", "2"], "")
        store.last_queue(session, "", "dag", "run")
        store.last_queue(session, "", "dag", "another run")
        assert store.waiting(session, "", NOW) == {"a": 4}
        store.unstarted_callbacks(session, "", NOW)
        store.aging_tokens(session, **mine, living=["1", "2"], waiting_before=NOW, started_before=NOW)
        for job in ("live-0", "live-1"):  # one that waits, one that a worker holds
            operations.cancel(session, "", job, now=1.0, by="x", reason="y")
        session.rollback()
    assert len(plans.statements) > 10
    assert plans.whole_reads() == []


def test_readers_and_triggerers_read_no_whole_table(engine, monkeypatch):
    task_log = pytest.importorskip("airflow_mqtt.executor.task_log", exc_type=ImportError)
    from airflow_mqtt.executor import compat

    monkeypatch.setattr(compat, "own_session", lambda: Session(engine))
    plans = Plans(engine)
    with Session(engine) as session:
        some = session.execute(select(tables.job).where(tables.job.c.log_path != "").limit(3)).all()
        plans.statements.clear()
        for job in some:
            assert task_log.first_job(session, job, job.log_path) == job.id
        parts = [task_log.parts_of(session, job, tables.job.c.try_number == 1)[0] for job in some]
    assert len(task_log._chunks_of(parts)) == 3
    assert len(list(task_log._chunks(parts[0]))) == 1
    assert len(plans.statements) == 8
    assert plans.whole_reads() == []
