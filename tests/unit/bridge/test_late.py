"""A job that has not begun by its deadline fails, wherever it waits; one that has begun runs on."""

import pytest

from airflow_mqtt.bridge import writer as writer_module
from airflow_mqtt.bridge.calls.gate import Call, Refusal, open_gate
from airflow_mqtt.bridge.mqtt.outbox import Messages
from airflow_mqtt.protocol import execution_api
from airflow_mqtt.protocol.clocks import Clock
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from airflow_mqtt.protocol.messages import Cancel, JobStatus, Request, Run, decode_order
from airflow_mqtt.protocol.topics import Topics
from bridge_samples import NOW, info, job, worker
from unit.bridge.test_living import consistent
from unit.bridge.writer_bench import AWAY, Bench

MESSAGES = Messages(Topics("airflow"), 31)


def waits(**values):
    return job(**({"queued_at": NOW, "not_after": NOW + 60} | values))


def transitions(bench):
    return [(one.event, one.reason) for batch in bench.ledger.batches for one in batch.transitions]


@pytest.mark.parametrize("connected", [True, False])
async def test_a_job_that_waits_too_long_fails_with_what_it_waited_for(connected):
    """Also while there is no broker: who waits for it hears of it in time."""
    asked = {"labels": (("camera", "yes"),)}
    b = Bench(waits(**asked), waits(id="patient", not_after=None, **asked), worker(), connected=connected)
    await b.turn()
    assert b.writer.next_deadline <= NOW + 60
    await b.turn(59.9)
    assert set(b.living.waiting) == {"job-1", "patient"} and not transitions(b)
    await b.turn(0.1)
    reason = "not begun within 60 s (start_within): no worker of queue 'default' has camera=yes"
    assert transitions(b) == [(JobEvent.FAIL, reason)]
    assert (b.ledger.rows["job-1"].state, b.ledger.rows["job-1"].finished_at) == (JobState.FAILED, NOW + 60)
    assert set(b.living.waiting) == {"patient"}
    told = [JobStatus.decode(m.payload) for m in b.out if m.topic == b.messages.topics.job_status("job-1")]
    assert [(one.state, one.reason) for one in told] == [("failed", reason)]
    consistent(b.living)


async def test_one_that_comes_back_to_its_queue_too_late_fails_there():
    held = waits(state=JobState.DISPATCHED, worker="edge-1", published_at=NOW, publishes=1)
    b = Bench(held, worker(seen_at=NOW), connected=True)
    b.submit("edge-1", lambda draft: draft.move(draft.job("job-1"), JobEvent.REJECT, by="test", reason="expired"))
    await b.turn(30.0)
    assert b.ledger.rows["job-1"].state is JobState.QUEUED
    b.living.forget_worker("edge-1")  # nobody is there to take it
    await b.turn(30.0)
    assert b.ledger.rows["job-1"].state is JobState.FAILED


async def test_one_whose_worker_has_not_begun_it_fails_and_the_worker_is_told():
    held = waits(state=JobState.ACCEPTED, worker="edge-1", accepted_at=NOW, accept_journal="j")
    b = Bench(held, worker(seen_at=NOW + 59), connected=True)
    await b.turn()
    await b.turn(60.0)
    assert b.ledger.rows["job-1"].state is JobState.FAILED
    (order,) = [decode_order(m.payload) for m in b.out if m.topic == b.messages.topics.jobs("default", "edge-1")]
    assert isinstance(order, Cancel) and "start_within" in order.reason
    assert b.living.used == {} and not b.living.pauses


async def test_the_gate_is_closed_to_what_should_have_begun():
    held = waits(state=JobState.ACCEPTED, worker="edge-1", accept_journal="j")
    path = f"task-instances/{held.subject}/run"
    request = Request(id="r", journal="j", job="job-1", attempt=1, method="PATCH", path=path, body="{}")

    def ask(draft):
        return open_gate(draft, Call("edge-1", request), execution_api.find("PATCH", path))

    for later, opens in ((59.9, True), (60.0, False)):
        b = Bench(held, worker(seen_at=NOW))
        asked = b.submit("edge-1", ask)
        await b.turn(later)
        found = await asked
        assert isinstance(found, Refusal) is not opens
        assert opens or (found.status, "start_within" in found.message) == (409, True)


async def test_one_whose_row_somebody_holds_is_tried_again():
    b = Bench(waits(), worker(info=info(queues=["other"])), connected=True)
    await b.turn()
    b.ledger.locked = {"job-1"}
    for _ in range(3):
        await b.turn(60.0)
        assert b.ledger.rows["job-1"].state is JobState.QUEUED and set(b.living.waiting) == {"job-1"}
    b.ledger.locked = set()
    await b.turn(1.0)
    assert b.ledger.rows["job-1"].state is JobState.FAILED


async def test_one_that_was_cancelled_meanwhile_stays_so():
    b = Bench(waits(), connected=True)
    await b.turn()
    b.ledger.others("job-1", state=JobState.CANCELLED, reason="by somebody", finished_at=NOW + 1)
    await b.turn(60.0)
    assert (b.ledger.rows["job-1"].state, b.ledger.rows["job-1"].reason) == (JobState.CANCELLED, "by somebody")
    assert not b.living.waiting


async def test_a_database_that_is_away_only_puts_it_off():
    b = Bench(waits(), connected=True)
    await b.turn()
    b.ledger.fails = [(AWAY, False)] * 2
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await b.turn(60.0)
    await b.turn(1.0)
    assert b.ledger.rows["job-1"].state is JobState.FAILED


async def test_many_that_are_late_are_ended_a_batch_at_a_time(monkeypatch):
    monkeypatch.setattr(writer_module, "BATCH", 4)
    b = Bench(*(waits(id=f"j{n}") for n in range(10)), connected=True)
    await b.turn()
    ended = []
    for _ in range(3):
        await b.turn(60.0)
        ended.append(sum(row.state is JobState.FAILED for row in b.ledger.rows.values()))
    assert ended == [4, 8, 10]


async def test_those_that_are_late_cost_no_look_at_the_fleet(monkeypatch):
    """Each for a device of its own that is away: a thousand of them may be late at once, before a large fleet."""
    jobs = [waits(id=f"j{n}", labels=(("unit", f"away-{n}"),)) for n in range(20)]
    b = Bench(*jobs, *(worker(name=f"w{n}", info=info(labels={"unit": str(n)})) for n in range(200)))
    looked_at = []

    class Workers(dict):
        def __getitem__(self, name):
            looked_at.append(name)
            return super().__getitem__(name)

    await b.turn()
    b.living.workers = Workers(b.living.workers)
    await b.turn(60.0)
    assert all(row.state is JobState.FAILED for row in b.ledger.rows.values())
    assert len(looked_at) <= len(jobs)


@pytest.mark.parametrize(
    ("clock", "told"),
    [
        (Clock(), None),  # nobody knows by how far it is off: the bridge alone keeps the deadline
        (Clock(heard=True, offset=0.5), NOW + 60),
        (Clock(heard=True, offset=3600.0), NOW + 60 - 3600),
        (Clock(heard=True, offset=-3600.0), NOW + 60 + 3600),
    ],
)
def test_a_worker_is_told_its_deadline_by_its_own_clock(clock, told):
    order = Run.decode(MESSAGES.run(waits(worker="edge-1"), "{}", 10**6, clock).payload)
    assert order.not_after == told
    assert b"not_after" not in Run(job="j", attempt=1, kind="k", slots=1, workload={}).plain()
