"""Whatever arrives, the intake takes it or drops it, and says so once."""

import logging
import zlib
from collections import Counter

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mqtt.bridge.dispatcher import Heard
from airflow_mqtt.bridge.mqtt.inbox import Backlog, Call, Echo, Intake, Other
from airflow_mqtt.protocol.messages import Born, BridgeStatus, Event, LogChunk, Request
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


def intake():
    return Intake(Topics("airflow"), 10_000)


def take(i, level, payload, worker="edge-1"):
    return i.take(f"airflow/v1/worker/{worker}/{level}", payload, retained=False)


def test_valid_messages_are_taken():
    i = intake()
    for level, payload in VALID.items():
        assert take(i, level, payload) is not None
    born = Born(journal="j", first=1, last=0, instance="i", connection=1, number=1, queues=[], kinds=[]).encode()
    assert take(i, "events", born).message.number == 1
    assert isinstance(take(i, "request", VALID["request"]), Call)
    assert isinstance(i.take("airflow/v1/bridge/echo/x", b"{}", retained=False), Echo)
    other = BridgeStatus(state="leading", instance="i", epoch=1, ts=1.0).encode()
    assert isinstance(i.take("airflow/v1/bridge/status", other, retained=True), Other)
    assert not i.dropped


def test_a_retained_status_is_not_live():
    heard = intake().take("airflow/v1/worker/edge-1/status", VALID["status"], retained=True)
    assert heard.live is False


def test_a_cleared_message_is_no_mistake():
    i = intake()
    assert take(i, "status", b"") is None
    assert not i.dropped


def test_drops_are_counted_and_logged_once_per_sender_and_kind(caplog):
    i = intake()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            take(i, "events", b"{")
            take(i, "events", b"{", worker="edge-2")
            take(i, "status", b"[]")
    assert i.dropped == {"events": 10, "status": 5}
    assert len(caplog.records) == 3


def test_oversized_and_foreign():
    i = intake()
    assert take(i, "events", b" " * 10_001) is None
    assert i.take("airflow/v2/worker/edge-1/events", VALID["events"], retained=False) is None
    assert i.take("other/v1/worker/edge-1/events", VALID["events"], retained=False) is None
    assert take(i, "ack", b"{}") is None
    assert sum(i.dropped.values()) == 4


@settings(max_examples=2000)
@given(st.sampled_from(sorted(VALID)), st.data())
def test_mutated_and_random_payloads_stop_nothing(level, data):
    payload = bytearray(VALID[level])
    for _ in range(data.draw(st.integers(0, 6))):
        position = data.draw(st.integers(0, len(payload)))
        payload[position : position + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    take(intake(), level, bytes(payload))
    take(intake(), level, data.draw(st.binary(max_size=200)))


def chunk_of(size):
    return LogChunk.of(1, 0, b"a" * size).encode()


@pytest.mark.parametrize(
    ("limit", "unpacked"), [(4096, 128 * 1024), (100_000, 800_000), (2**20, 2**23), (2**23, 2**23)]
)
def test_what_a_payload_unpacks_to_has_a_limit(limit, unpacked):
    i = Intake(Topics("airflow"), limit)
    envelope = len(orjson.dumps(LogChunk(attempt=1, offset=0, text="")))
    assert take(i, "logs/job", chunk_of(unpacked - envelope)).size == unpacked
    assert take(i, "logs/job", chunk_of(unpacked - envelope + 1)) is None
    assert i.dropped == {"logs": 1}


def test_a_chunk_of_our_worker_fits_however_it_is_escaped():
    i = Intake(Topics("airflow"), 16_384)
    payload = LogChunk.of(2**53, 2**53, b"\x01" * CHUNK).encode()
    assert take(i, "logs/job", payload) is not None


def test_what_is_compressed_twice_is_dropped():
    i = intake()
    take(i, "status", zlib.compress(zlib.compress(VALID["status"])))
    assert i.dropped == {"status": 1}


def test_the_size_is_that_of_the_text():
    text = orjson.dumps(LogChunk.of(1, 0, b"text" * 300))
    assert len(VALID["logs/job"]) < len(text)
    assert take(intake(), "logs/job", VALID["logs/job"]).size == len(text)
    assert take(intake(), "request", VALID["request"]).size == len(VALID["request"])


def test_drops_are_said_when_there_are_more(caplog):
    i = intake()
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


def heard(worker, size):
    return Heard(worker, status(), size=size)


def test_what_waits_is_bounded_by_bytes_for_each_worker_and_for_all():
    mib = 1024 * 1024
    dropped = Counter()
    backlog = Backlog(dropped)
    for _ in range(20):
        backlog.add(heard("edge-1", mib))
    assert (len(backlog), dropped["no room"]) == (16, 4)
    for number in range(100):
        backlog.add(heard(f"edge-{number + 2}", mib))
    assert (len(backlog), dropped["no room"]) == (64, 56)
    assert len(backlog.take(10)) == 10
    for _ in range(20):
        backlog.add(heard("edge-1", mib))
    assert len(backlog) == 64
    assert len(backlog.take(1000)) == 64 and backlog.take(1000) == []
    assert backlog._room._of == {}


def test_what_waits_is_bounded_by_count():
    backlog = Backlog(Counter())
    for number in range(70_000):
        backlog.add(heard(f"edge-{number % 7}", 100))
    assert len(backlog) == 50_000
    for _ in range(20_000):
        backlog.add(heard("edge-x", 0))
    assert [one.worker for one in backlog.take(3)] == ["edge-0", "edge-1", "edge-2"]  # in their order
