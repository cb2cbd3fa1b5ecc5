"""Log chunks: from the acknowledged offset, rate-limited, behind everything else, kept until acknowledged."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mqtt.bridge.dispatch.reports import after_chunk, new_bytes
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core import logs
from airflow_mqtt.worker.core.effects import Publish, RemoveFiles
from airflow_mqtt.worker.core.logs import CHUNK
from airflow_mqtt.worker.core.outbox import WINDOW
from bridge_samples import job as bridge_job
from unit.worker.conftest import RETURNED, Device

STATE = '{"state":"failed"}'


def _sent(device) -> list[tuple[int, bytes]]:
    return [(chunk.offset, chunk.data) for chunk in device.sent(TopicKind.LOGS)]


def _finish(device, job: str) -> None:
    device.respond(device.call(job, "PATCH", f"task-instances/{job}/state", STATE), 204)
    device.end(job)


def _comes_again(device) -> None:
    """The end of job a is acknowledged, and its log of one line is not: it is kept, and sent until it is."""
    device.ack()
    assert "a" in device.jobs
    device.forget()
    device.wait(60)
    assert _sent(device)[0] == (0, b"one\n")
    device.ack(a=4)
    assert device.jobs == {}


def test_a_running_task_is_followed(device):
    device.start("a")
    device.logs["a"] = b"one\n"
    device.wait(3)
    assert _sent(device) == [(0, b"one\n")]
    device.ack(a=4)
    device.logs["a"] += b"two\nhalf"
    device.wait(3)
    assert _sent(device)[1:] == [(4, b"two\n")]


def test_an_ended_job_is_forgotten_when_all_is_acknowledged(device):
    device.start("a")
    device.logs["a"] = b"one\nno end"
    _finish(device, "a")
    device.ack()
    device.wait(1)
    assert _sent(device) == [(0, b"one\nno end")]
    assert "a" in device.jobs
    device.ack(a=10)
    assert device.jobs == {}
    assert device.of(RemoveFiles) == [RemoveFiles("a", 1)]


def test_a_job_is_not_forgotten_before_its_report_is_acknowledged(device):
    device.start("a")
    _finish(device, "a")
    device.wait(5)
    assert "a" in device.jobs
    device.ack()
    assert device.jobs == {}


def test_what_is_unacknowledged_is_sent_again(device):
    device.start("a")
    device.ack()
    device.logs["a"] = b"one\n"
    device.wait(3)
    device.wait(32)
    assert _sent(device) == [(0, b"one\n")] * 2
    device.disconnect()
    device.connect()
    device.wait(1)
    assert _sent(device) == [(0, b"one\n")] * 3


def test_a_crash_goes_on_at_the_acknowledged_offset(device):
    device.start("a")
    device.logs["a"] = b"one\ntwo\n"
    device.wait(3)
    device.ack(a=4)
    device.crash(alive=("a",))
    device.forget()
    device.connect()
    device.wait(3)
    assert _sent(device) == [(4, b"two\n")]


def _payloads(device) -> list[bytes]:
    return [effect.payload for effect in device.of(Publish) if "/logs/" in effect.topic]


def _noise(size: int) -> bytes:
    """Lines that do not pack."""
    rng = random.Random(7)
    return b"".join(rng.randbytes(60).hex().encode() + b"\n" for _ in range(size // 121))


def test_the_rate_is_kept(device_of):
    device = device_of(log_rate=4096).connect()
    device.start("a")
    device.ack()
    device.logs["a"] = _noise(1_000_000)
    for _ in range(100):
        device.wait(1)
        device.ack(a=sum(len(data) for _, data in _sent(device)))
    total = sum(map(len, _payloads(device)))
    assert 300_000 < total <= 4096 * 101 + CHUNK


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_the_rate_bounds_what_the_link_carries_and_is_reached(device_of, jobs):
    """Text packs well: a log of 3 MB takes what it weighs on the link, shared by all that send, within the budget."""
    device = device_of(log_rate=16_384, slots=jobs).connect()
    names = [f"job-{number}" for number in range(jobs)]
    for name in names:
        device.start(name)
        line = b'{"timestamp":"2026-01-01T00:00:%02dZ","event":"reading %d","level":"info","logger":"task"}\n'
        device.logs[name] = b"".join(line % (number % 60, number * 7919 % 10_000) for number in range(6000))
    whole = sum(map(len, device.logs.values()))
    for name in names:
        _finish(device, name)
    started = device.now
    while device.jobs:
        device.wait(0.3)  # a slow link: each acknowledgement comes after so long
        ends = {name: device.core.state.jobs[name] for name in names if name in device.core.state.jobs}
        device.ack(**{name: job.log_sent for name, job in ends.items()})
        sent = sum(map(len, _payloads(device)))
        assert sent <= 16_384 * (device.now - started + 1) + 2 * logs.TAIL
    assert whole / (device.now - started) > 16_384 * 2


def test_what_is_under_way_is_looked_at_for_each_chunk(device_of):
    device = device_of(slots=8).connect()
    for number in range(8):
        device.start(f"job-{number}")
        device.logs[f"job-{number}"] = _noise(100_000)
    device.ack()
    device.forget()
    device.now += 3
    while len(_payloads(device)) < 20:
        before = len(_payloads(device))
        device.core.tick(device.now, under_way=0)
        device.settle()
        assert len(_payloads(device)) <= before + 1
        device.now += 0.5
    turns = [topic.rsplit("/", 1)[1] for topic in (e.topic for e in device.of(Publish)) if "/logs/" in topic]
    assert len(set(turns[:8])) == 8, "each log has its turn"


def _long_failure(device) -> bytes:
    device.start("a")
    device.ack()
    device.logs["a"] = log = _noise(300_000) + b"the error\n"
    _finish(device, "a")
    device.ack()
    return log


def test_the_end_of_a_long_log_goes_before_its_middle_and_comes_once(device):
    log = _long_failure(device)
    device.wait(0.1)
    first = device.sent(TopicKind.LOGS)[0]
    assert first.tail and first.data.endswith(b"the error\n") and len(first.data) <= logs.TAIL
    assert log[: first.offset].endswith(b"\n") and log[first.offset :] == first.data
    while device.jobs:
        device.wait(0.3)
        sent = device.core.state.jobs["a"].log_sent
        device.ack(a=len(log) if sent == first.offset else sent)
    pieces = {chunk.offset: chunk.data for chunk in device.sent(TopicKind.LOGS)}
    assert b"".join(data for _, data in sorted(pieces.items())) == log
    assert sum(len(chunk.data) for chunk in device.sent(TopicKind.LOGS)) == len(log), "no byte twice"


def test_a_bridge_that_takes_no_end_before_the_middle_gets_all_in_order(device):
    log = _long_failure(device)
    while device.jobs:
        device.wait(0.3)
        device.ack(a=device.core.state.jobs["a"].log_sent)
    chunks = [chunk for chunk in device.sent(TopicKind.LOGS) if not chunk.tail]
    assert b"".join(chunk.data for chunk in chunks) == log


def test_each_chunk_says_how_much_is_left_behind_it(device):
    device.start("a")
    device.logs["a"] = _noise(50_000)
    device.ack()
    device.wait(3)
    chunks = device.sent(TopicKind.LOGS)
    assert chunks[0].left == len(device.logs["a"]) - len(chunks[0].data) and chunks[-1].left == 0


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_log_arrives_whole_whatever_is_lost_and_repeated(data):
    """The worker's core, and what a bridge makes of each chunk; both may forget all that is not kept."""
    device = Device(resend_after=5.0).connect()
    device.start("a")
    whole = device.logs["a"] = _noise(data.draw(st.integers(0, 120_000))) + b"no end"
    _finish(device, "a")
    device.ack()
    job, rows = bridge_job(state=JobState.RUNNING, worker="edge-1"), {}
    for step in range(200):
        if not device.jobs:
            break
        device.forget()
        device.wait(data.draw(st.sampled_from([0.1, 1.0, 6.0])))
        for chunk in device.sent(TopicKind.LOGS):
            fate = data.draw(st.sampled_from(["come", "come", "come", "lost", "twice"])) if step < 20 else "come"
            for _ in range({"lost": 0, "come": 1, "twice": 2}[fate]):
                job = _taken(job, chunk, rows)
        if step < 20 and data.draw(st.sampled_from([True, False, False, False])):
            device.crash(data.draw(st.sampled_from([("a",), ()])), results={"a": RETURNED})
            device.connect()
        device.ack(a=job.log_bytes)
    assert not device.jobs
    assert b"".join(piece for _, piece in sorted(rows.items())) == whole
    assert job.log_bytes == job.log_size == len(whole) and not job.waits_for_log


def _taken(job, chunk, rows):
    """As `Reports._log` stores it."""
    after = after_chunk(job, chunk.offset, chunk.data, left=chunk.left, tail=chunk.tail)
    for offset, piece in new_bytes(job, after, chunk.offset, chunk.data):
        assert offset not in rows
        rows[offset] = piece
    return after


def test_logs_yield_to_events(device):
    device.start("a")
    device.logs["a"] = b"one\n"
    for _ in range(WINDOW + 1):  # one more than may be under way
        device.core.state.outbox.add(device.reports()[-1].encode())
    from airflow_mqtt.worker.core import logs

    device.core.state.jobs["a"].log_due = 0
    logs.tick(device.core.state, device.now)
    device.settle()
    assert _sent(device) == []


def test_bytes_that_are_no_text_arrive(device):
    device.start("a")
    device.logs["a"] = b"\xff\xfe\n"
    device.wait(3)
    assert _sent(device) == [(0, b"\xff\xfe\n")]


def test_a_log_that_somebody_deleted_holds_nothing_up(device):
    device.start("a")
    device.logs["a"] = b"one\n"
    device.disconnect()
    _finish(device, "a")
    device.logs.clear()
    device.connect()
    device.ack()
    device.wait(3)
    assert device.jobs == {}


def test_a_bridge_that_wants_no_logs_is_not_asked_for_ever(device):
    device.start("a")
    device.logs["a"] = b"one\n"
    _finish(device, "a")
    for _ in range(40):
        device.ack()
        device.wait(31)
    assert device.jobs == {}


@pytest.mark.parametrize("ended", [False, True])
def test_a_bridge_that_is_away_has_refused_no_log(device, ended):
    """The broker is there all the while, so that the worker sends."""
    device.start("a")
    device.logs["a"] = b"one\n"
    if ended:
        _finish(device, "a")
        device.ack()  # of the report; nobody has taken the log yet
    device.wait(3600)
    if not ended:
        _finish(device, "a")
    device.lead(2)
    _comes_again(device)


def test_a_log_shorter_than_was_noted_is_kept_until_what_there_is_has_arrived(device):
    """A line of the worker's own, counted in the journal, did not get to the disk."""
    device.start("a")
    device.logs["a"] = b"one\n"
    device.end("a", None)
    device.logs["a"] = b"one\n"
    device.wait(3)
    _comes_again(device)


def test_logs_wait_for_what_is_on_its_way_to_the_broker(device):
    """It goes out in order: on a narrow link a report would stand behind minutes of logs."""
    device.start("a")
    device.ack()
    device.logs["a"] = b"one\n"
    device.forget()
    device.now += 3
    device.core.tick(device.now, under_way=logs.MAX_UNDER_WAY)
    device.settle()
    assert _sent(device) == []
    assert device.core.deadline(device.now) > device.now + 1  # the broker's answer wakes the worker, not the clock
    device.core.tick(device.now, under_way=logs.MAX_UNDER_WAY - 1)
    device.settle()
    assert _sent(device) == [(0, b"one\n")]
