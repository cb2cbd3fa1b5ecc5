"""The one writer over a ledger in memory: what time does to a fleet, also when the clock is set back."""

from dataclasses import replace

import pytest

from airflow_mqtt.bridge import writer as module
from airflow_mqtt.bridge.acks import CALM, DELAY
from airflow_mqtt.bridge.dispatch import reports
from airflow_mqtt.bridge.dispatch.placement import Pause
from airflow_mqtt.bridge.dispatch.reports import Heard, Reports
from airflow_mqtt.bridge.mqtt.outbox import Messages
from airflow_mqtt.bridge.refresh import NEWS_INTERVAL
from airflow_mqtt.database.ledger import News
from airflow_mqtt.protocol.clocks import Clock
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import Ack, Desired, Event
from airflow_mqtt.protocol.packets import ENVELOPE, LEAST
from airflow_mqtt.protocol.topics import Topics
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, job, status, worker
from unit.bridge.writer_bench import Bench, accepted

# --- a takeover --------------------------------------------------------------------------------------------


async def test_what_is_placed_in_the_round_in_which_a_connection_is_made_is_published_once():
    """A new leader reads the news while it connects."""
    b = Bench(worker(), job())
    read_news = b.ledger.news

    async def connect_meanwhile():
        b.now += 0.2
        b.writer.connect(b.now)
        return await read_news()

    b.ledger.news = connect_meanwhile
    await b.turn()
    b.ledger.news = read_news
    for _ in range(3):
        await b.turn(later=0.1)
    assert [one.topic for one in b.out if "/queue/" in one.topic] == ["airflow/v1/queue/default/jobs/edge-1"]


async def test_a_new_leader_gives_out_what_waits_before_it_excuses_the_fleet():
    """Which is a write to each worker, while devices wait."""
    fleet = [worker(name=f"edge-{n}", seen_at=NOW - 60, status=status(interval=10)) for n in range(50)]
    b = Bench(*fleet, job(), connected=True)
    b.writer.outage.unheard = 60.0
    await b.turn()
    first, second = b.ledger.batches
    assert [change.id for change in first.changes] == ["job-1"]
    assert (first.excused, first.workers, first.positions) == (0.0, [], {})
    assert second.excused == 60.0 and not second.changes
    assert all(one.state is WorkerState.IDLE and one.seen_at == NOW for one in b.living.workers.values())
    await b.turn(later=1)
    assert len(b.ledger.batches) == 2


async def test_a_new_leader_places_no_job_that_should_have_begun():
    b = Bench(worker(), job(id="late", not_after=NOW - 1), job(id="b"), connected=True)
    b.writer.outage.unheard = 60.0
    await b.turn()
    assert {id_: row.state for id_, row in b.ledger.rows.items()} == {
        "late": JobState.FAILED, "b": JobState.DISPATCHED
    }  # fmt: skip


async def test_a_wish_that_a_new_leader_has_read_is_not_lost_over_what_it_places_first():
    away = worker(desired=Desired(revision=1, maintenance=True))
    b = Bench(worker(), job(), connected=True)
    b.writer.outage.unheard = 60.0
    b.ledger.news = lambda: news(away)
    await b.turn()
    assert [len(batch.changes) for batch in b.ledger.batches] == [1, 0]
    assert b.living.workers["edge-1"].state is WorkerState.MAINTENANCE_REQUEST


async def news(*workers):
    return News([], list(workers), frozenset(), more=False)


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
    assert sum(len(batch.positions) for batch in written) >= 1000 - 100  # and nobody is forgotten over it
    assert not any(batch.workers for batch in written)  # of each only when it was heard, which is all that is new
    # One for each that was heard, one for a look at news, and one in the 90 s after which a worker may be silent.
    assert rounds <= 1000 + 300 / NEWS_INTERVAL + 1 + 100 * 300 / 90


@pytest.mark.parametrize(("drift", "whole"), [(0.5, True), (0.0, False)])
async def test_a_clock_that_is_off_and_drifts_is_written_with_the_heartbeats(drift, whole):
    """By little each time, so that none of it is to be written at once. The next leader corrects times by it."""
    off = Clock().hear(NOW - 100, NOW)
    b = Bench(worker(clock=off), connected=True)
    await b.turn()
    for _ in range(8):
        b.now += 30
        sent = b.now - 100 + drift * (b.now - NOW) / 30
        b.writer.receive(Heard("edge-1", status(ts=sent)))
        await b.turn()
        await b.turn(later=16)
    written = [row.clock.offset for batch in b.ledger.batches for row in batch.workers]
    assert bool(written) == whole and (not whole or written[-1] == b.living.workers["edge-1"].clock.offset < 97)


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


# --- acknowledgements ----------------------------------------------------------------------------------------


def said(b, kind, seq, **values):
    event = {"type": kind, "journal": "j", "seq": seq, "job": "a", "attempt": 1, "ts": 1.0, **values}
    b.writer.receive(Heard("edge-1", Event(**event)))


def acks(b):
    return [Ack.decode(message.payload).seq for message in b.out if message.topic.endswith("/ack")]


async def until_still(b):
    """Do what there is to do now."""
    while b.writer.has_work(b.now):
        await b.turn()


async def test_a_worker_that_goes_on_with_a_job_hears_seldom_and_one_that_has_ended_it_soon():
    b = Bench(accepted("a", state=JobState.DISPATCHED, published_at=NOW, publishes=1), worker(), connected=True)
    await until_still(b)
    said(b, "accepted", 1)
    await until_still(b)
    await b.turn(CALM - 0.1)
    assert acks(b) == []
    said(b, "finished", 2, outcome="failed", exit_code=1, reason="no")
    await until_still(b)
    assert acks(b) == []
    await b.turn(DELAY)
    assert acks(b) == [2]


async def test_a_gap_is_told_soon_though_the_worker_goes_on():
    b = Bench(accepted("a", state=JobState.DISPATCHED, published_at=NOW, publishes=1), worker(), connected=True)
    await until_still(b)
    said(b, "started", 3)
    await until_still(b)
    await b.turn(DELAY)
    assert acks(b) == [0]


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
    await b.turn(CALM)
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
    seen = [at for batch in b.ledger.batches for _, at in batch.positions.values()]
    assert not b.living.unsaved and seen == [NOW - HOUR + 0.1]
    assert b.living.jobs["a"].state is JobState.CANCELLING


async def test_a_clock_that_is_set_back_ends_no_pause_later():
    b = Bench(job(), worker(), connected=True)
    b.living.pause("edge-1", Pause(NOW, 5.0))
    await b.turn()
    assert set(b.living.waiting) == {"job-1"}
    await set_back(b)
    assert b.living.jobs["job-1"].state is JobState.DISPATCHED


async def test_a_worker_that_was_left_alone_twice_is_given_jobs_when_the_longer_time_is_over():
    """As when it has answered none of two orders: nothing else may happen that would have it looked at again."""
    b = Bench(job(), worker(), connected=True)
    for seconds in (10.0, 20.0):
        b.living.pause("edge-1", Pause(NOW, seconds))
    await b.turn(10.0)
    assert set(b.living.waiting) == {"job-1"}
    assert b.living.next_deadline == NOW + 20.0
    await b.turn(10.0)
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
