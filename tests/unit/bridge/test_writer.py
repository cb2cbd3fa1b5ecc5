"""The one writer over a ledger in memory: what it does when a batch does not commit."""

import asyncio
import logging
import sqlite3
from dataclasses import replace

import asyncpg
import pytest

from airflow_mqtt.bridge import writer as module
from airflow_mqtt.bridge.dispatch import reports
from airflow_mqtt.bridge.dispatch.duties import Duties
from airflow_mqtt.bridge.dispatch.outage import Outage
from airflow_mqtt.bridge.dispatch.placement import Pause
from airflow_mqtt.bridge.dispatch.reports import Heard, Reports
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.outbox import Messages
from airflow_mqtt.bridge.refresh import NEWS_INTERVAL
from airflow_mqtt.bridge.writer import PUT_OFF, Writer
from airflow_mqtt.database.errors import DeposedError
from airflow_mqtt.database.ledger import Committed, Conflict, News, Snapshot, Waiting
from airflow_mqtt.protocol.jobs import HELD, JobEvent, JobState
from airflow_mqtt.protocol.messages import Ack, Desired, Event
from airflow_mqtt.protocol.packets import ENVELOPE, LEAST
from airflow_mqtt.protocol.topics import Topics
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, RULES, job, status, worker
from unit.bridge.test_living import consistent, image


class FakeLedger:
    """Rows in a dictionary, a compare-and-set, and faults: `locked` rows, `fails` (the next errors of commit)."""

    def __init__(self, *rows):
        self.rows = {row.id: row for row in rows if not hasattr(row, "seen_at")}
        self.workers = [row for row in rows if hasattr(row, "seen_at")]
        self.locked: set[str] = set()
        self.fails: list[tuple[BaseException, bool]] = []  # and whether the batch has committed all the same
        self.batches = []
        self.news_ids: set[str] = set()

    def others(self, id_, **values):
        """Somebody else writes."""
        self.rows[id_] = replace(self.rows[id_], **values)
        self.news_ids.add(id_)

    def snapshot(self):
        waits = [row for row in self.rows.values() if row.state is JobState.QUEUED and row.cancel_reason is None]
        return Snapshot(
            list(map(Waiting.of, waits)), [row for row in self.rows.values() if row.state in HELD], self.workers,
            frozenset(),
        )  # fmt: skip

    async def commit(self, writes):
        error, commits = self.fails.pop(0) if self.fails else (None, True)
        outcome = self._commit(writes) if commits else None
        if error is not None:
            raise error
        return outcome

    def _commit(self, writes):
        def as_seen(change):
            row = self.rows.get(change.id)
            return row is not None and change.id not in self.locked and (
                (row.state, row.attempt, row.cancel_reason)
                == (change.seen.state, change.seen.attempt, change.seen.cancel_reason)
            )  # fmt: skip

        missing = {change.id for change in writes.changes if not as_seen(change)}
        if missing:
            return Conflict(frozenset(missing))
        self.batches.append(writes)
        given = {}
        for change in writes.changes:
            self.rows[change.id] = replace(self.rows[change.id], **change.fields)
            if change.seen.state is JobState.QUEUED and change.fields["state"] is JobState.DISPATCHED:
                given[change.id] = (self.rows[change.id], "{}")
        return Committed(given)

    async def news(self):
        ids, self.news_ids = self.news_ids, set()
        return News([self.rows[id_] for id_ in sorted(ids)], [], frozenset(), more=False)

    async def jobs(self, ids):
        return [self.rows[id_] for id_ in ids if id_ in self.rows]

    async def workloads(self, ids):
        return {id_: '{"x":1}' for id_ in ids if id_ in self.rows}


class Bench:
    def __init__(self, *rows, connected=False, keeps_workers=0.0):
        self.now, self.out = NOW, []
        self.ledger = FakeLedger(*rows)
        self.messages = Messages(Topics("airflow"), 31)
        self.living = Living.of(self.ledger.snapshot(), lambda _: RULES)
        self.writer = Writer(
            self.ledger, self.living, Reports(self.messages, 1, "bridge:b", 10**6),
            Duties(self.messages, "bridge:b", lambda _: RULES, 10.0, keeps_workers), Outage(NOW), clock=lambda: self.now,
            future=asyncio.get_running_loop().create_future, publish=self.out.extend, wake=lambda: None,
            max_message_bytes=10**6,
        )  # fmt: skip
        if connected:
            self.writer.connect(NOW)
            self.writer.outage.unheard = 0.0

    def submit(self, name, script):
        return self.writer.submit(name, script)

    def start(self, id_, name="edge-1"):
        """Move a job that is accepted."""
        return self.submit(name, lambda draft: draft.move(draft.job(id_), JobEvent.START, by="test").state)

    async def turn(self, later=0.0):
        self.now += later
        await self.writer.round()


def accepted(id_, name="edge-1", **values):
    return job(**({"id": id_, "state": JobState.ACCEPTED, "worker": name, "accept_journal": "j"} | values))


AWAY = ConnectionError("away")


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
        await b.turn(1.0)
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


# --- the fleet ----------------------------------------------------------------------------------------------


async def test_a_fleet_that_only_heartbeats_is_written_in_bulk_and_rarely():
    """Each of a hundred workers once in 30 s, for five minutes."""
    b = Bench(*(worker(name=f"edge-{number}") for number in range(100)), connected=True)
    await b.turn()
    batches, rounds = len(b.ledger.batches), 0
    for step in range(3000):
        b.now += 0.1
        if step % 3 == 0:
            b.writer.receive(Heard(f"edge-{step // 3 % 100}", status(ts=b.now)))
        if b.writer.has_work(b.now):
            await b.turn()
            rounds += 1
    written = b.ledger.batches[batches:]
    assert len(written) <= 300 / module.SAVE_INTERVAL + 1
    assert sum(len(batch.workers) for batch in written) >= 1000 - 100  # and nobody is forgotten over it
    # One for each that was heard, one for a look at news, and one in the 90 s after which a worker may be silent.
    assert rounds <= 1000 + 300 / NEWS_INTERVAL + 1 + 100 * 300 / 90


@pytest.mark.parametrize(
    ("seen_at", "state", "holds", "goes"),
    [
        (NOW - 31, WorkerState.OFFLINE, False, True),
        (NOW - 29, WorkerState.OFFLINE, False, False),
        (NOW - 31, WorkerState.OFFLINE, True, False),
        (0.0, WorkerState.UNKNOWN, False, False),  # an operator has spoken of one that never came
    ],
)
async def test_a_worker_that_nobody_has_heard_for_long_is_forgotten(seen_at, state, holds, goes):
    said = status(state="offline") if state is WorkerState.OFFLINE else None
    jobs = [accepted("a", state=JobState.RUNNING)] if holds else []
    b = Bench(worker(seen_at=seen_at, state=state, status=said), *jobs, connected=True, keeps_workers=30.0)
    await b.turn()
    assert "edge-1" in b.living.workers  # it is looked once an hour
    b.writer._old_at -= module._OLD_WORKERS_INTERVAL
    await b.turn()
    assert ("edge-1" not in b.living.workers) == goes
    assert [batch.forgotten for batch in b.ledger.batches if batch.forgotten] == ([["edge-1"]] if goes else [])


async def test_a_worker_that_an_operator_wants_forgotten_is_so_once_it_is_gone_and_holds_nothing():
    b = Bench(accepted("a", state=JobState.RUNNING), worker(), connected=True)
    b.living.removals["edge-1"] = None
    await b.turn()
    assert "edge-1" in b.living.workers
    b.living.put_worker(worker(state=WorkerState.OFFLINE, status=status(state="offline")))
    await b.turn()
    assert "edge-1" in b.living.workers
    b.living.put_job(replace(b.living.jobs["a"], state=JobState.SUCCEEDED))
    await b.turn()
    assert "edge-1" not in b.living.workers and b.ledger.batches[-1].forgotten == ["edge-1"]


# --- a clock that is set back --------------------------------------------------------------------------------

HOUR = 3600.0


async def set_back(b):
    """Once nothing is left to be done, but for what waits for its time."""
    while b.writer.has_work(b.now):
        await b.turn()
    b.now -= HOUR
    assert b.writer.has_work(b.now)
    await b.turn()


async def test_a_clock_that_is_set_back_holds_up_no_acknowledgement():
    b = Bench(accepted("a", state=JobState.DISPATCHED, published_at=NOW, publishes=1), worker(), connected=True)
    await b.turn()
    b.writer.receive(Heard("edge-1", Event(type="accepted", journal="j", seq=1, job="a", attempt=1, ts=1.0)))
    await b.turn()
    assert b.living.acks
    await set_back(b)
    await b.turn(1.0)
    assert not b.living.acks and [message for message in b.out if message.topic.endswith("/ack")]


async def test_a_clock_that_is_set_back_holds_up_no_script_that_was_put_off():
    b = Bench(accepted("a"), worker())
    b.ledger.locked = {"a"}
    starting = b.start("a")
    await b.turn()
    b.ledger.locked = set()
    await set_back(b)
    assert await starting is JobState.RUNNING


async def test_a_clock_that_is_set_back_holds_up_no_heartbeat_and_no_news():
    b = Bench(accepted("a"), worker(), connected=True)
    await b.turn()
    await set_back(b)
    b.writer.receive(Heard("edge-1", status(ts=b.now)))
    b.ledger.others("a", cancel_reason="revoked")  # and nobody tells us
    await b.turn(0.1)
    assert b.living.unsaved
    await b.turn(module.SAVE_INTERVAL)
    assert not b.living.unsaved and [one.seen_at for batch in b.ledger.batches for one in batch.workers] == [
        NOW - HOUR + 0.1
    ]
    assert b.living.jobs["a"].state is JobState.CANCELLING


async def test_a_clock_that_is_set_back_ends_no_pause_later():
    b = Bench(job(), worker(), connected=True)
    b.living.pause("edge-1", Pause(NOW, 5.0))
    await b.turn()
    assert set(b.living.waiting) == {"job-1"}
    await set_back(b)
    assert b.living.jobs["job-1"].state is JobState.DISPATCHED


async def test_a_clock_that_is_set_back_does_not_forget_what_a_worker_is_to_be_told():
    b = Bench(worker(status=status(revision=0), desired=Desired(revision=2)), connected=True)
    told = lambda: len([message for message in b.out if message.topic.endswith("/desired")])  # noqa: E731
    await b.turn()
    assert told() == 1
    await set_back(b)
    await b.turn(20.0)
    await b.turn(20.0)
    assert told() > 1


async def test_a_journal_that_is_not_known_is_asked_for_once():
    """However many of its events have come, in however many batches."""
    b = Bench(worker(), connected=True)
    for batch in range(5):
        for seq in range(100):
            event = Event(type="accepted", journal="new", seq=100 * batch + seq + 1, job="a", attempt=1, ts=1.0)
            b.writer.receive(Heard("edge-1", event))
        await b.turn(0.01)
    acks = [message for message in b.out if message.topic.endswith("/ack")]
    assert len(acks) == 1
    event = Event(type="accepted", journal="new", seq=1, job="a", attempt=1, ts=1.0)
    b.writer.receive(Heard("edge-1", event))
    await b.turn(reports.ASK_INTERVAL)
    assert len([message for message in b.out if message.topic.endswith("/ack")]) == 2


def test_an_acknowledgement_of_many_logs_is_several():
    """One that a broker does not take is heard by nobody, and with it the numbers of events."""
    reports = Reports(Messages(Topics("airflow"), 31), 1, "bridge:b", 10**6)
    marks = {f"{number:064}": 2**53 - 1 for number in range(200)}
    acks = [Ack.decode(message.payload) for message in reports._acks_of(worker(journal="j", seq=7), marks)]
    assert {job: end for ack in acks for job, end in ack.logs.items()} == marks
    assert {(ack.journal, ack.seq) for ack in acks} == {("j", 7)}
    assert max(len(ack.encode()) for ack in acks) < LEAST - ENVELOPE
    assert len(reports._acks_of(worker(journal="j"), {})) == 1
