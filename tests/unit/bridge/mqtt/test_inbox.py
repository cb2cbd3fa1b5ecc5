"""Whatever arrives, the inbox takes it or drops it, and says so once."""

import dataclasses
import itertools
import logging
import math
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mqtt.bridge.calls.gate import Call
from airflow_mqtt.bridge.mqtt import inbox as module
from airflow_mqtt.bridge.mqtt.inbox import LARGE, Calm, Echo, Inbox, Other, Stale
from airflow_mqtt.protocol.messages import MAX_INT32, MAX_SIZE, Born, BridgeStatus, Event, LogChunk, Request
from airflow_mqtt.protocol.topics import Topics
from airflow_mqtt.worker.core.logs import CHUNK
from bridge_samples import info, status

VALID = {
    "status": status().encode(),
    "info": info().encode(),
    "events": Event(type="accepted", journal="j", seq=1, job="a", attempt=1, ts=1.0).encode(),
    "logs/job": LogChunk.of(1, 0, b"text" * 300).encode(),
    "request": Request(id="r", journal="j", job="a", attempt=1, method="GET", path="x").encode(),
}


def new(max_message_bytes=10_000, clock=None):
    """An inbox whose senders have used up nothing, since an hour passes at each look at the clock."""
    return Inbox(Topics("airflow"), max_message_bytes, clock=clock or itertools.count(step=3600).__next__)


def put(i, level, payload, worker="edge-1", *, retained=False):
    return i.put(f"airflow/v1/worker/{worker}/{level}", payload, retained=retained)


def take(i, level, payload, worker="edge-1", *, retained=False):
    """Let a message arrive, and return what it says."""
    assert put(i, level, payload, worker, retained=retained) == (Calm() if level == "status" and payload else None)
    return next(iter(decoded(i)), None)


def decoded(i, count=1_000_000):
    """What has arrived, as the leader takes it: what is large is decoded elsewhere."""
    found = []
    for raw in i.take(count):
        found.append(i.decode(raw))
        if raw.is_large:
            i.done(raw)
    return found


def test_valid_messages_are_taken():
    i = new()
    for level, payload in VALID.items():
        assert take(i, level, payload) is not None
    born = Born(journal="j", first=1, last=0, instance="i", connection=1, number=1, queues=[], kinds=[]).encode()
    assert take(i, "events", born).message.number == 1
    assert isinstance(take(i, "request", VALID["request"]), Call)
    assert isinstance(i.put("airflow/v1/bridge/echo/x", b"{}", retained=False), Echo)
    other = BridgeStatus(state="leading", instance="i", epoch=1, ts=1.0).encode()
    assert isinstance(i.put("airflow/v1/bridge/status", other, retained=True), Other)
    assert not i.dropped


def test_a_retained_status_is_not_live():
    assert take(new(), "status", VALID["status"], retained=True).live is False


def test_a_cleared_message_is_no_mistake():
    i = new()
    assert take(i, "status", b"") is None
    assert not i.dropped


def test_drops_are_counted_and_logged_once_per_sender_and_kind(caplog):
    i = new()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            take(i, "events", b"{")
            take(i, "events", b"{", worker="edge-2")
            take(i, "status", b"[]")
    assert i.dropped == {"events": 10, "status": 5}
    assert len(caplog.records) == 3


def test_a_mistake_of_ours_in_reading_a_message_drops_it_alone(monkeypatch, caplog):
    """It would end the leader, and each one after it."""
    i, real = new(), module._decoded

    def decode(topic, plain, retained):
        if topic.worker == "edge-1":
            raise RecursionError("deep")
        return real(topic, plain, retained)

    monkeypatch.setattr(module, "_decoded", decode)
    for _ in range(2):
        put(i, "status", VALID["status"])
    put(i, "status", VALID["status"], "edge-2")
    found = decoded(i)
    assert [one.worker for one in found if one is not None] == ["edge-2"] and i.dropped["status"] == 2
    assert i._lanes == {} and len([r for r in caplog.records if "deep" in r.getMessage() and r.exc_info]) == 1


def test_oversized_and_foreign():
    i = new()
    assert take(i, "events", b" " * 10_001) is None
    assert i.put("airflow/v2/worker/edge-1/events", VALID["events"], retained=False) is None
    assert i.put("other/v1/worker/edge-1/events", VALID["events"], retained=False) is None
    assert i.put("airflow/v1/bridge/status", b"{", retained=False) is None
    assert take(i, "ack", b"{}") is None
    assert sum(i.dropped.values()) == 5
    assert decoded(i) == []


@settings(max_examples=2000)
@given(st.sampled_from(sorted(VALID)), st.data())
def test_mutated_and_random_payloads_stop_nothing(level, data):
    payload = bytearray(VALID[level])
    for _ in range(data.draw(st.integers(0, 6))):
        position = data.draw(st.integers(0, len(payload)))
        payload[position : position + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    take(new(), level, bytes(payload))
    take(new(), level, data.draw(st.binary(max_size=200)))


@pytest.mark.parametrize(
    ("limit", "unpacked"), [(4096, 128 * 1024), (100_000, 800_000), (2**20, 2**23), (2**23, 2**23)]
)
def test_what_a_payload_unpacks_to_has_a_limit(limit, unpacked):
    i = new(limit)

    def call_of(size):
        call = Request(id="r", journal="j", job="a", attempt=1, method="GET", path="x", body="")
        return dataclasses.replace(call, body="a" * (size - len(call.plain()))).encode()

    assert take(i, "request", call_of(unpacked)).size == unpacked
    assert take(i, "request", call_of(unpacked + 1)) is None
    assert i.dropped == {"request": 1}


def test_a_chunk_of_our_worker_fits_however_it_is_escaped():
    i = new(16_384)
    payload = LogChunk.of(MAX_INT32, MAX_SIZE, b"\x01" * CHUNK).encode()
    assert take(i, "logs/job", payload) is not None


def test_what_is_compressed_twice_is_dropped():
    i = new()
    take(i, "status", zlib.compress(zlib.compress(VALID["status"])))
    assert i.dropped == {"status": 1}


def test_the_size_is_that_of_the_text():
    text = LogChunk.of(1, 0, b"text" * 300).plain()
    assert len(VALID["logs/job"]) < len(text)
    assert take(new(), "logs/job", VALID["logs/job"]).size == len(text)
    assert take(new(), "request", VALID["request"]).size == len(VALID["request"])


def test_drops_are_said_when_there_are_more(caplog):
    i = new()
    for _ in range(3):
        take(i, "events", b"{")
    take(i, "status", b"{")
    caplog.clear()
    i.say_dropped()
    i.say_dropped()
    take(i, "status", b"{")
    i.say_dropped()
    assert [record.getMessage() for record in caplog.records] == [
        "dropped 4 messages more, 4 in all: events 3, status 1",
        "dropped 1 messages more, 5 in all: status 1",
    ]


@pytest.mark.parametrize(("level", "most"), [("status", 16), ("info", 256), ("events", 512), ("logs/job", 1024)])
def test_what_each_kind_unpacks_to_has_a_limit_of_its_own(level, most, caplog):
    """A status has a dozen fields: nobody unpacks megabytes to find that it is none."""
    texts = []
    for size in (most * 1024, most * 1024 + 1):
        caplog.clear()
        take(new(2**20), level, zlib.compress(b" " * size))
        texts.append(caplog.text)
    assert ("decompresses" in texts[0], "decompresses" in texts[1]) == (False, True), texts


# --- what waits ---------------------------------------------------------------------------------------------

MIB = 1024 * 1024


def test_what_waits_is_bounded_by_bytes_for_each_worker_and_for_all():
    i = new()
    for _ in range(20):
        put(i, "events", b"x" * MIB)
    assert i.dropped["no room"] == 12
    for number in range(100):
        put(i, "events", b"x" * MIB, f"edge-{number + 2}")
    assert i.dropped["no room"] == 12 + 44
    assert len(decoded(i, 10)) == 10
    for _ in range(20):
        put(i, "events", b"x" * MIB)
    assert i.dropped["no room"] == 12 + 44 + 20 - 1  # one of its own was taken: lanes take turns
    assert len(decoded(i)) == 64 - 10 + 1 and decoded(i) == []
    assert i._quota._of == {} and i._lanes == {} and not i._turns


def test_what_is_decoded_elsewhere_still_has_its_room():
    """Threads are few: many devices can each have a large message wait for one."""
    i = new()
    for number in range(64):
        put(i, "events", b"x" * MIB, f"edge-{number}")
    taken = list(i.take(100))
    assert len(taken) == 64
    put(i, "events", b"x", "edge-x")
    assert i.dropped["no room"] == 1
    for raw in taken:
        i.decode(raw)
        i.done(raw)
    put(i, "events", b"x", "edge-x")
    assert i.dropped["no room"] == 1 and len(decoded(i)) == 1
    assert i._quota._of == {} and i._lanes == {}


def test_what_waits_is_bounded_by_count():
    i = new()
    for _ in range(2_100):
        put(i, "events", b"x")
    assert i.dropped["no room"] == 100
    for number in range(100_000):
        put(i, "events", b"x", f"edge-{number % 70 + 2}")
    assert i.dropped["no room"] == 100 + 2_000
    assert put(i, "events", b"", "edge-x") is None
    assert i.dropped["no room"] == 2_100


def test_nothing_is_decoded_before_its_turn(monkeypatch):
    """Whoever sends most would else cost most."""
    i = new()
    monkeypatch.setattr(module, "_decoded", lambda *_: pytest.fail("decoded"))
    for payload in VALID.values():
        put(i, "events", payload)
    assert len(list(i.take(100))) == len(VALID)


# --- what is paid for ---------------------------------------------------------------------------------------


class Clock:
    """Stands still until a test moves it."""

    now = 0.0

    def __call__(self):
        return self.now


def test_who_sends_much_rests_until_it_is_paid_for_and_nobody_else_does():
    clock = Clock()
    i = new(clock=clock)
    for number in range(2_000):
        put(i, "events", b"%d" % number, "loud")
    assert 1_990 <= len(decoded(i)) <= 2_000
    for number in range(1_900):
        put(i, "events", b"y%d" % number, "loud")
    assert len(decoded(i)) <= 10
    put(i, "events", b"a", "quiet")
    assert len(decoded(i)) == 1
    assert clock.now < i.rests_until < 0.1
    clock.now = 1.0
    assert 900 <= len(decoded(i)) <= 1_100
    clock.now = 100.0
    assert len(decoded(i)) > 0 and i.rests_until == math.inf
    assert i._lanes == {} and i._quota._of == {}


def bomb(size=2**23):
    """A call whose body is packed to a thousandth."""
    call = Request(id="r", journal="j", job="a", attempt=1, method="GET", path="x", body="a" * (size - 200))
    return call.encode()


@pytest.mark.parametrize("spoiled", [False, True])
def test_what_is_unpacked_is_paid_for_even_if_it_is_no_message(spoiled):
    clock = Clock()
    i = new(2**20, clock)
    payload = zlib.compress(b"[" * 2**23) if spoiled else bomb()
    assert len(payload) < 10_000
    for _ in range(10):
        put(i, "request", payload, "loud")
    assert len(decoded(i)) == 1, "eight MiB are more than what may be used at once"
    clock.now = 1.0
    assert len(decoded(i)) == 1
    clock.now = 1.5
    assert decoded(i) == []
    clock.now = 3.1
    assert len(decoded(i)) == 1
    put(i, "events", b"a", "quiet")
    assert len(decoded(i)) == 1


def test_a_birth_is_paid_for_by_the_jobs_that_it_lists():
    i = new(2**20, Clock())
    holds = [{"job": f"job-{number}", "attempt": 1, "state": "running"} for number in range(2_000)]
    born = Born(
        journal="j", first=1, last=0, instance="i", connection=1, number=1, queues=[], kinds=[], holds=holds
    ).encode()
    for _ in range(100):
        put(i, "events", born)
    assert 2 <= len(decoded(i)) <= 6


# --- what the broker had retained ---------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["events", "logs/job", "request"])
def test_what_is_retained_where_nothing_is_does_not_count_and_shall_be_cleared(level):
    i = new()
    topic = f"airflow/v1/worker/edge-1/{level}"
    assert i.put(topic, VALID[level], retained=True) == Stale(topic)
    assert decoded(i) == [] and i.dropped == {"retained": 1}
    assert put(i, level, b"") is None


def test_an_echo_that_was_retained_is_no_echo():
    topic = "airflow/v1/bridge/echo/x"
    assert new().put(topic, b"{}", retained=True) == Stale(topic)


# --- turns --------------------------------------------------------------------------------------------------


def order(i, count=1_000_000):
    return [(raw.topic.worker, raw.payload) for raw in i.take(count)]


def test_who_says_much_waits_longer_and_nobody_waits_for_it():
    i = new()
    for number in range(1000):
        put(i, "events", b"%d" % number, "loud")
    put(i, "events", b"a", "quiet-1")
    put(i, "events", b"b", "quiet-2")
    assert order(i, 5) == [("loud", b"0"), ("quiet-1", b"a"), ("quiet-2", b"b"), ("loud", b"1"), ("loud", b"2")]
    put(i, "events", b"c", "quiet-1")
    assert order(i, 2) == [("loud", b"3"), ("quiet-1", b"c")]
    assert [payload for _, payload in order(i)] == [b"%d" % number for number in range(4, 1000)]


def test_behind_a_large_one_its_sender_stands_and_all_others_go_on():
    i = new(2**20)
    for payload in (b"x" * (LARGE + 1), b"after", b"last"):
        put(i, "events", payload, "large")
    for number in range(3):
        put(i, "events", b"%d" % number, "small")
    taken = list(i.take(100))
    assert [(raw.topic.worker, raw.is_large) for raw in taken] == [("large", True)] + [("small", False)] * 3
    put(i, "events", b"more", "large")
    assert order(i) == []
    i.done(taken[0])
    assert order(i) == [("large", b"after"), ("large", b"last"), ("large", b"more")]
    assert i._lanes == {}


def test_what_is_packed_small_may_be_large():
    i = new(2**20)
    packed = zlib.compress(bytes(number * 7919 % 251 for number in range(2**16)) + b"\0" * 2**22)
    assert 2048 < len(packed) < LARGE
    for payload, large in (
        (packed, True),
        (b"{" * LARGE, False),
        (b"{" * (LARGE + 1), True),
        (zlib.compress(b"x"), False),
    ):
        put(i, "logs/job", payload)
        (raw,) = i.take(1)
        assert raw.is_large == large
        if large:
            i.done(raw)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("abc"), st.booleans()),
            st.tuples(st.just("take"), st.integers(0, 4), st.none()),
            st.tuples(st.just("done"), st.none(), st.none()),
        ),
        max_size=60,
    )
)
def test_the_order_of_each_sender_stays_and_nothing_is_lost(steps):
    i, sent, got, elsewhere = new(2**20), [], [], []

    def take(count):
        for raw in i.take(count):
            assert raw.topic.worker not in [one.topic.worker for one in elsewhere], "overtaken"
            got.append((raw.topic.worker, raw.payload))
            if raw.is_large:
                elsewhere.append(raw)

    for number, (step, value, large) in enumerate(steps):
        if step == "put":
            payload = b"%d" % number + b"x" * (LARGE + 1 if large else 0)
            put(i, "events", payload, value)
            sent.append((value, payload))
        elif step == "take":
            take(value)
        elif elsewhere:
            i.done(elsewhere.pop(0))
    for _ in range(len(steps) + 1):
        while elsewhere:
            i.done(elsewhere.pop())
        take(1000)
    for sender in "abc":
        assert [one for one in got if one[0] == sender] == [one for one in sent if one[0] == sender]
    assert i._quota._of == {} and i._lanes == {} and not i.dropped
