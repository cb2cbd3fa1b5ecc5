"""A broker that takes less than the worker would send: what has no way fails by itself, and nothing waits behind it."""

import os

import pytest

from airflow_mqtt.protocol.messages import decode_report
from airflow_mqtt.protocol.packets import PacketLimit
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core import limits
from airflow_mqtt.worker.core.effects import Answer, Publish, Say

KIB = 1024
BROKER = "broker:1883"


def limited(device, packet: int | None, *, learnt: int | None = None) -> None:
    device.core.limited(PacketLimit(announced=packet, learnt=learnt), device.now)
    device.settle()


def largest(device) -> int:
    return max(len(effect.payload) for effect in device.of(Publish))


def body(size: int) -> str:
    return os.urandom(size // 2).hex()


def test_a_call_that_waits_gets_413_and_the_next_one_goes_on(device) -> None:
    device.start("a")
    large = device.call("a", "POST", "xcoms/d/r/t/large", body(500 * KIB))
    device.call("a", "GET", "variables/x")
    device.forget()
    limited(device, 64 * KIB)
    assert device.answers() == {large: 413}
    assert "the broker takes" in device.of(Answer)[0].body
    assert [request.path for request in device.requests()] == ["variables/x"]


def test_a_stored_call_is_refused_as_airflow_would_and_the_next_one_goes_on(device) -> None:
    device.start("a")
    device.disconnect()
    device.call("a", "POST", "xcoms/d/r/t/large", body(500 * KIB))
    device.call("a", "PATCH", "task-instances/a/state", '{"state":"success","end_date":"x"}')
    limited(device, 64 * KIB)
    assert len(device.calls) == 1
    device.connect()
    (request,) = device.requests()[-1:]
    assert request.path == "task-instances/a/state"
    assert '"failed"' in request.body  # what it rests on did not reach Airflow
    assert b"413" in device.logs["a"]


def test_a_call_that_is_made_later_gets_413_at_once(device) -> None:
    device.start("a")
    limited(device, 64 * KIB)
    assert device.ask("a", "POST", "xcoms/d/r/t/large", body(500 * KIB)) == 413
    assert device.ask("a", "POST", "xcoms/d/r/t/small", body(KIB)) is None


@pytest.mark.parametrize("letter", ["x", "ü", "\U0001f600"])
def test_an_event_says_less_and_is_acknowledged(device, letter: str) -> None:
    """Its text is of at most 4,096 characters: 16 KiB."""
    noise = "".join(chr(0x1F300 + number % 512) for number in os.urandom(4000)) if letter != "x" else body(4000)
    device.disconnect()
    device.run("a")
    device.cancel("a", reason=noise)
    sizes = [len(payload) for payload in device.events.values()]
    limited(device, 3 * KIB)
    assert max(sizes) > 1500
    assert max(len(payload) for payload in device.events.values()) <= 1536
    assert [decode_report(payload).type for payload in device.events.values()] == ["accepted", "cancelled"]
    device.cancel("b", reason=noise)
    assert max(len(payload) for payload in device.events.values()) <= 1536


def test_a_log_is_split_smaller_and_arrives_whole(device) -> None:
    device.start("a", log_interval=0.1)
    written = b"".join(body(1000).encode() + b"\n" for _ in range(60)) + os.urandom(20 * KIB)
    device.logs["a"] = written
    limited(device, 8 * KIB)
    device.forget()
    got = b""
    device.end("a")
    for _ in range(400):
        device.wait(0.3)
        for chunk in device.sent(TopicKind.LOGS):
            if chunk.offset == len(got):
                got += chunk.data
        assert largest(device) <= 4 * KIB
        device.ack(a=len(got))
        if got[: len(written)] == written:
            break
    assert got[: len(written)] == written


def test_what_was_learnt_is_in_the_journal_for_a_day_and_for_that_broker(device_of) -> None:
    device = device_of(broker=BROKER).connect()
    limited(device, None, learnt=100 * KIB)
    (say,) = device.of(Say)[-1:]
    assert "learnt" in say.text and str(100 * KIB) in say.text
    assert limits.restored(device.meta, BROKER, device.now + 3600).learnt == 100 * KIB
    assert limits.restored(device.meta, "other:1883", device.now + 3600).learnt is None
    assert limits.restored(device.meta, BROKER, device.now + limits.LEARNT_FOR + 1).learnt is None
    assert limits.restored(device.meta, BROKER, device.now - 1).learnt is None
    device.crash()
    limit = limits.restored(device.meta, BROKER, device.now + limits.LEARNT_FOR + 1)
    device.core.limited(limit, device.now)
    device.settle()
    assert device.meta[limits.KEY] == ""


@pytest.mark.parametrize("text", ["", "x", "1", "1 2", "x y z", "1 x broker:1883"])
def test_a_journal_that_says_something_else_is_not_believed(text: str) -> None:
    assert limits.restored({limits.KEY: text}, BROKER, 10.0).learnt is None
    limits.known({limits.KEY: text})


def test_a_process_forgets_after_a_day_too(device_of) -> None:
    device = device_of(broker=BROKER).connect()
    limit = PacketLimit(learnt=100 * KIB)
    device.core.limited(limit, device.now)
    device.core.limited(limit, device.now + limits.LEARNT_FOR + 1)
    device.settle()
    assert limit.learnt is None and device.core.state.payload_limit is None


def test_a_limit_that_is_larger_than_ours_is_not_mentioned(device) -> None:
    device.forget()
    limited(device, 4 * KIB * KIB)
    assert device.of(Say) == []


def test_too_little_is_said_to_be(device) -> None:
    limited(device, 8 * KIB)
    assert "it must take 16384 bytes" in device.of(Say)[-1].text


class Link:
    """A broker that acknowledges, and drops what is larger than `most`; the device hears itself."""

    def __init__(self, device, most: int | None) -> None:
        self.device, self.most, self.limit = device, most, PacketLimit()
        self.seen = len(device.done)

    def turn(self) -> None:
        device = self.device
        device.core.limited(self.limit, device.now)
        device.wait(1)
        fresh, self.seen = device.done[self.seen :], len(device.done)
        for effect in fresh:
            ours = isinstance(effect, Publish) and effect.topic.rsplit("/", 1)[1] in ("status", "probe")
            if ours and (self.most is None or len(effect.payload) <= self.most):
                device.message(effect.topic, effect.payload)


@pytest.mark.parametrize(("most", "status"), [(100 * KIB, 413), (None, None)])
def test_a_broker_that_acknowledges_what_it_drops_is_found_out(device, most: int | None, status: int | None) -> None:
    """Mosquitto's `message_size_limit` with MQTT 3.1.1. Airflow may also be slow: then the call waits on."""
    device.start("a")
    device.start("b")
    large = device.call("a", "POST", "dag-runs/d/r", body(900 * KIB))  # of those that are not stored
    small = device.call("b", "GET", "variables/x")
    link = Link(device, most)
    device.forget()
    link.seen = 0
    for _ in range(300):
        link.turn()
    assert device.answers().get(large) == status
    assert small not in device.answers()
    trials = [effect for effect in device.of(Publish) if effect.topic.endswith("/probe")]
    assert [len(trial.payload) > 400 * KIB for trial in trials] == [True, False]  # and a small one behind it


def test_silence_of_all_proves_nothing_about_size(device) -> None:
    device.start("a")
    device.call("a", "POST", "xcoms/d/r/t/large", body(900 * KIB))
    link = Link(device, 0)
    for _ in range(300):
        link.turn()
    assert link.limit.learnt is None
