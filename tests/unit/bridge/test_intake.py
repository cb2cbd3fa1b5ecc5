"""Whatever arrives, the intake takes it or drops it, and says so once."""

import logging

from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mqtt.bridge.intake import Call, Echo, Intake, Other
from airflow_mqtt.protocol.messages import Born, BridgeStatus, Event, LogChunk, Request
from airflow_mqtt.protocol.topics import Topics
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
