"""Log chunks: from the acknowledged offset, rate-limited, behind everything else, kept until acknowledged."""

import pytest

from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core import logs
from airflow_mqtt.worker.core.effects import RemoveFiles
from airflow_mqtt.worker.core.logs import CHUNK
from airflow_mqtt.worker.core.outbox import WINDOW

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


def test_the_rate_is_kept(device_of):
    device = device_of(log_rate=4096).connect()
    device.start("a")
    device.ack()
    device.logs["a"] = b"x" * 99 + b"\n"
    device.logs["a"] *= 5000
    for _ in range(100):
        device.wait(1)
        device.ack(a=sum(len(data) for _, data in _sent(device)))
    total = sum(len(data) for _, data in _sent(device))
    assert 300_000 < total <= 4096 * 101 + CHUNK


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
