"""The one writer over a ledger in memory: what it does when a batch does not commit."""

import asyncio
import logging
import sqlite3
from dataclasses import replace

import asyncpg
import pytest

from airflow_mqtt.bridge import writer as module
from airflow_mqtt.bridge.acks import CALM
from airflow_mqtt.bridge.dispatch.reports import Heard
from airflow_mqtt.bridge.refresh import NEWS_INTERVAL
from airflow_mqtt.bridge.writer import PUT_OFF
from airflow_mqtt.database.errors import DeposedError
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from airflow_mqtt.protocol.messages import Event
from bridge_samples import NOW, job, worker
from unit.bridge.test_living import consistent, image
from unit.bridge.writer_bench import AWAY, Bench, accepted

# --- what does not commit -----------------------------------------------------------------------------------


async def test_a_batch_that_fails_changes_nothing_and_waits_on():
    b = Bench(accepted("a"), worker())
    await b.turn()
    before = image(b.living)
    starting = b.start("a")
    b.ledger.fails = [(AWAY, False)] * 3
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await b.turn()
        assert image(b.living) == before and b.out == [] and not starting.done()
        assert b.writer.has_work(b.now)
    await b.turn()
    assert (await starting, b.living.jobs["a"].state, b.ledger.rows["a"].state) == (JobState.RUNNING,) * 3
    assert b.out and len(b.writer) == 0


async def test_a_commit_whose_answer_was_lost_is_found_out():
    """It has committed: the script, run again, sees that."""
    b = Bench(accepted("a"), worker())
    states = []

    def script(draft):
        current = draft.job("a")
        states.append(current.state)
        if current.state is JobState.ACCEPTED:
            draft.move(current, JobEvent.START, by="test")

    done = b.submit("edge-1", script)
    b.ledger.fails = [(AWAY, True)]
    with pytest.raises(ConnectionError):
        await b.turn()
    assert b.living.jobs["a"].state is JobState.ACCEPTED
    await b.turn()
    await done
    assert states == [JobState.ACCEPTED, JobState.RUNNING] and len(b.ledger.batches) == 1
    assert b.living.jobs["a"].state is JobState.RUNNING


async def test_a_dispatch_of_which_nobody_knows_is_published_at_last():
    b = Bench(job(), worker(seen_at=NOW), connected=True)
    b.ledger.fails = [(AWAY, True)]
    with pytest.raises(ConnectionError):
        await b.turn()
    assert b.ledger.rows["job-1"].state is JobState.DISPATCHED
    for _ in range(3):
        await b.turn(0.1)
    orders = [message for message in b.out if message.topic == b.messages.topics.jobs("default", "edge-1")]
    assert len(orders) == 1
    consistent(b.living)


async def test_a_lost_lease_ends_it():
    b = Bench(accepted("a"), worker())
    before = image(b.living)
    starting = b.start("a")
    b.ledger.fails = [(DeposedError("taken"), False)]
    with pytest.raises(DeposedError):
        await b.turn()
    assert image(b.living) == before and not starting.done() and b.out == []


async def test_offers_stay_usable_after_failed_commits_and_nobody_gets_more_than_its_slots():
    b = Bench(*(job(id=f"j{n}") for n in range(9)), worker(), worker(name="edge-2"), connected=True)
    b.ledger.fails = [(AWAY, False)] * 20
    for _ in range(20):
        with pytest.raises(ConnectionError):
            await b.turn()
        assert b.living.used == {} and len(b.living.waiting) == 9
    await b.turn()
    assert b.living.used == {"edge-1": 2, "edge-2": 2} and len(b.living.offers(("default", ()))) < 40
    consistent(b.living)


# --- conflicts ----------------------------------------------------------------------------------------------


async def test_what_others_have_written_is_seen_by_the_script_that_runs_again():
    b = Bench(accepted("a"), accepted("b"), worker())
    await b.turn()
    runs = []

    def script(draft):
        current = draft.job("a")
        runs.append(current.cancel_reason)
        if current.cancel_reason is None:
            draft.move(current, JobEvent.START, by="test")
        return current.cancel_reason

    first, second = b.submit("edge-1", script), b.start("b")
    b.ledger.others("a", cancel_reason="enough")
    b.ledger.news_ids.clear()  # nobody has told
    await b.turn()
    assert (await first, await second) == ("enough", JobState.RUNNING)
    assert runs == [None, "enough"] and b.living.wishes == {"a": None}
    assert (b.ledger.rows["a"].state, len(b.ledger.batches)) == (JobState.ACCEPTED, 1)


async def test_a_row_that_is_gone_is_gone_from_memory():
    b = Bench(accepted("a"), worker())
    gone = b.submit("edge-1", lambda d: d.job("a") and d.move(d.job("a"), JobEvent.START, by="test"))
    del b.ledger.rows["a"]
    await b.turn()
    assert await gone is None and b.living.jobs == {} and b.living.used == {}


async def test_a_locked_row_puts_off_its_worker_alone_and_that_in_order():
    b = Bench(accepted("a"), accepted("a2"), accepted("c", "edge-2"), worker(), worker(name="edge-2"))
    b.ledger.locked = {"a"}

    first, other = b.start("a"), b.start("c", "edge-2")
    second = b.start("a2")
    await b.turn()
    assert (first.done(), second.done(), await other) == (False, False, JobState.RUNNING)
    third = b.submit("edge-1", lambda draft: draft.job("a2").state)
    await b.turn()
    assert not third.done()  # what came later of the same worker does not overtake
    assert b.living.jobs["a"].state is JobState.ACCEPTED
    b.ledger.locked = set()
    await b.turn(PUT_OFF)
    assert (await first, await second, await third) == (JobState.RUNNING,) * 3


async def test_a_locked_row_of_a_duty_holds_up_no_script():
    b = Bench(job(), job(id="free"), accepted("a", "edge-2"), worker(), worker(name="edge-2"), connected=True)
    b.ledger.locked = {"job-1"}
    starting = b.start("a", "edge-2")
    await b.turn()
    assert await starting is JobState.RUNNING
    assert b.living.jobs["free"].state is JobState.DISPATCHED and set(b.living.waiting) == {"job-1"}
    b.ledger.locked = set()
    for _ in range(5):
        await b.turn(NEWS_INTERVAL)
    assert b.living.jobs["job-1"].state is JobState.DISPATCHED


async def test_a_job_that_waits_is_placed_once_its_row_is_free_though_nothing_else_happens():
    """A scheduler that adopts a job holds its row, and leaves the job as it is."""
    b = Bench(job(), worker(), connected=True)
    b.ledger.locked = {"job-1"}
    await b.turn()
    await b.turn()
    assert set(b.living.waiting) == {"job-1"} and not b.writer.has_work(b.now)  # and no round follows the other for it
    b.ledger.locked = set()
    assert b.writer.has_work(b.now + PUT_OFF)
    await b.turn(PUT_OFF)
    assert b.living.jobs["job-1"].state is JobState.DISPATCHED


async def test_a_wish_whose_row_somebody_holds_is_carried_out_once_it_is_free():
    b = Bench(accepted("a", cancel_reason="revoked", cancel_by="scheduler:1"), worker(), connected=True)
    b.ledger.locked = {"a"}
    await b.turn()
    assert b.living.jobs["a"].state is JobState.ACCEPTED
    assert not b.writer.has_work(b.now)  # it is not tried again at once: the row may be held for long
    await b.turn(PUT_OFF)
    assert b.living.jobs["a"].state is JobState.ACCEPTED and not b.writer.has_work(b.now)
    b.ledger.locked = set()
    assert b.writer.has_work(b.now + PUT_OFF)
    await b.turn(PUT_OFF)
    assert b.living.jobs["a"].state is JobState.CANCELLING and b.living.jobs["a"].reason == "revoked"


async def test_rows_that_change_at_each_try_end_in_a_pause():
    b = Bench(accepted("a"), worker())
    commit = b.ledger._commit

    def changes(writes):
        b.ledger.rows["a"] = replace(b.ledger.rows["a"], cancel_reason=f"{len(tries)}")
        tries.append(1)
        return commit(writes)

    tries, b.ledger._commit = [], changes
    starting = b.start("a")
    await b.turn()
    assert not starting.done() and len(tries) <= 5
    b.ledger._commit = commit
    await b.turn(PUT_OFF)
    await b.turn(PUT_OFF)
    assert await starting is JobState.RUNNING


# --- scripts that fail --------------------------------------------------------------------------------------


async def test_a_script_that_raises_fails_its_own_future_alone(caplog):
    b = Bench(accepted("a"), accepted("b", "edge-2"), worker(), worker(name="edge-2"))

    def bad(draft):
        draft.move(draft.job("b"), JobEvent.START, by="test")  # and what it did before does not stay
        raise KeyError("bug")

    good, failing, after = b.start("a"), b.submit("edge-2", bad), b.submit("edge-2", lambda d: d.job("b").state)
    with caplog.at_level(logging.ERROR):
        await b.turn()
    assert (await good, await after) == (JobState.RUNNING, JobState.ACCEPTED)
    with pytest.raises(KeyError):
        await failing
    assert "worker edge-2" in caplog.text and b.ledger.rows["b"].state is JobState.ACCEPTED


async def test_a_script_that_no_database_takes_fails_alone():
    """All run by themselves, once: only that one is dropped."""
    b = Bench(*(accepted(f"j{n}") for n in range(5)), worker())
    commit = b.ledger._commit

    def strict(writes):
        if any(change.id == "j2" for change in writes.changes):
            raise ValueError("integer out of range")
        return commit(writes)

    b.ledger._commit = strict
    futures = [b.start(f"j{n}") for n in range(5)]
    await b.turn()
    done = await asyncio.gather(*futures, return_exceptions=True)
    assert [one if isinstance(one, JobState) else type(one) for one in done] == [
        ValueError if n == 2 else JobState.RUNNING for n in range(5)
    ]
    assert b.living.jobs["j2"].state is JobState.ACCEPTED


def unknown_error():
    """One of a class that no version of PostgreSQL has yet."""
    error = asyncpg.PostgresError("what?")
    error.sqlstate = "ZZ999"
    return error


DRIVER_ERRORS = [
    unknown_error(),
    asyncpg.InternalClientError("got result for unknown protocol state"),
    asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
    asyncpg.DuplicatePreparedStatementError('prepared statement "__asyncpg_stmt_1__" already exists'),
    asyncpg.InvalidSQLStatementNameError('prepared statement "__asyncpg_stmt_1__" does not exist'),
    asyncpg.InvalidCachedStatementError("cached statement plan is invalid"),
    asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE in a read-only transaction"),
    asyncpg.ProtocolViolationError("query_wait_timeout"),
    sqlite3.DatabaseError("database disk image is malformed"),
    sqlite3.ProgrammingError("Cannot operate on a closed database."),
    ConnectionError("of the ledger, for what it does not know"),
]


@pytest.mark.parametrize("error", DRIVER_ERRORS, ids=lambda error: type(error).__name__)
async def test_no_message_is_dropped_for_an_error_of_the_driver(error):
    bench = Bench(accepted("one"), worker())
    started = bench.writer.submit("edge-1", lambda draft: draft.move(draft.job("one"), JobEvent.START, by="t"))
    bench.ledger.fails = [(error, False)] * 10
    for _ in range(10):
        with pytest.raises(type(error)):
            await bench.writer.round()
    assert not started.done()
    await bench.writer.round()
    assert started.done() and bench.ledger.rows["one"].state is JobState.RUNNING


async def test_a_script_that_the_driver_never_takes_holds_up_its_worker_alone_and_is_kept():
    bench = Bench(accepted("one"), accepted("two", "edge-2"), worker(), worker(name="edge-2"))
    commit, broken = bench.ledger.commit, True

    async def picky(writes):
        if broken and any(change.id == "one" for change in writes.changes):
            raise unknown_error()
        return await commit(writes)

    bench.ledger.commit = picky

    def start(id_, name):
        return bench.writer.submit(name, lambda draft: draft.move(draft.job(id_), JobEvent.START, by="t"))

    one, two = start("one", "edge-1"), start("two", "edge-2")
    for _ in range(2):
        with pytest.raises(asyncpg.PostgresError):
            await bench.writer.round()
    await bench.writer.round()
    assert two.done() and not one.done()
    broken = False
    bench.now += 60
    await bench.writer.round()
    assert one.done() and one.exception() is None


async def test_a_waiter_that_is_gone_stops_nobody():
    b = Bench(accepted("a"), accepted("b"), worker())
    first, second = b.start("a"), b.start("b")
    first.cancel()
    await b.turn()
    assert await second is JobState.RUNNING


# --- what is said -------------------------------------------------------------------------------------------


async def test_nothing_is_said_before_it_has_committed():
    b = Bench(accepted("a", state=JobState.DISPATCHED), worker())
    b.writer.receive(Heard("edge-1", Event(type="accepted", journal="j", seq=1, job="a", attempt=1, ts=1.0)))
    b.ledger.fails = [(AWAY, False)]
    with pytest.raises(ConnectionError):
        await b.turn()
    assert b.out == []
    for _ in range(3):
        await b.turn(CALM)
    assert b.living.jobs["a"].state is JobState.ACCEPTED and b.living.workers["edge-1"].seq == 1
    assert [message for message in b.out if message.topic.endswith("/ack")]


async def test_more_than_a_batch_comes_in_its_order(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)
    b, order = Bench(worker()), []
    futures = [b.submit("edge-1", lambda _, n=n: order.append(n)) for n in range(8)]
    await b.turn()
    assert order == [0, 1, 2] and b.writer.has_work(b.now)
    await b.turn()
    await b.turn()
    assert order == list(range(8)) and all(future.done() for future in futures)


async def test_without_a_connection_time_does_nothing():
    b = Bench(job(), accepted("a", state=JobState.DISPATCHED, published_at=NOW, publishes=3), worker())
    for _ in range(5):
        await b.turn(100.0)
    assert set(b.living.waiting) == {"job-1"} and b.living.jobs["a"].state is JobState.DISPATCHED and b.out == []
