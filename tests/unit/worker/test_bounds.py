"""What a device without a link may fill: disk, memory, time."""

import contextlib
import sys

from airflow_mqtt.worker.core import calls
from airflow_mqtt.worker.core.effects import Say

STATE = '{"state":"success","end_date":"2026-01-01T00:00:00Z"}'


def _offline(device_of, **changes):
    device = device_of(**changes).connect()
    device.start("a")
    device.disconnect()
    device.forget()
    return device


class _Lines:
    """How many lines of Python ran, each turn of a loop anew: the same on every machine, unlike seconds."""

    def __init__(self):
        self.lines = 0

    def __call__(self, frame, event, argument):
        self.lines += event == "line"
        return self


@contextlib.contextmanager
def _lines_counted():
    before, counted = sys.gettrace(), _Lines()
    sys.settrace(counted)
    try:
        yield counted
    finally:
        sys.settrace(before)


def test_beyond_its_budget_a_task_waits_and_its_final_state_is_stored(device_of):
    device = _offline(device_of, store_limit=10_000)
    first = device.call("a", "POST", "xcoms/d/r/t/one", '"' + "x" * 8000 + '"')
    second = device.call("a", "POST", "xcoms/d/r/t/two", '"' + "x" * 8000 + '"')
    device.wait(100)
    assert first in device.answers()
    assert second not in device.answers()
    assert b"store_limit" in device.logs["a"]
    assert device.logs["a"].count(b"store_limit") == 1
    state = device.call("a", "PATCH", "task-instances/a/state", STATE)
    assert device.answers()[state] == 204
    assert set(device.calls) == {first, state}


def test_what_waited_goes_out_in_order_when_the_link_is_back(device_of):
    device = _offline(device_of, store_limit=10_000)
    names = [device.call("a", "POST", f"xcoms/d/r/t/{n}", '"' + "x" * 4000 + '"') for n in range(4)]
    assert list(device.answers()) == names[:2]
    device.connect()
    for name in names:
        assert device.requests()[-1].id == name
        device.respond(name, 201)
    assert set(device.answers()) == set(names)
    assert device.calls == {}


def test_room_that_comes_free_is_used_again(device_of):
    device = _offline(device_of, store_limit=10_000)
    first = device.call("a", "POST", "xcoms/d/r/t/one", '"' + "x" * 8000 + '"')
    device.connect()
    device.respond(first, 201)
    device.disconnect()
    second = device.call("a", "POST", "xcoms/d/r/t/two", '"' + "x" * 8000 + '"')
    assert second in device.answers()


def test_the_budget_is_known_after_a_crash(device_of):
    device = _offline(device_of, store_limit=10_000)
    device.call("a", "POST", "xcoms/d/r/t/one", '"' + "x" * 8000 + '"')
    device.crash(alive=("a",))
    second = device.call("a", "POST", "xcoms/d/r/t/two", '"' + "x" * 8000 + '"')
    assert second not in device.answers()


def test_a_call_that_waits_for_room_makes_no_busy_loop(device_of):
    device = _offline(device_of, store_limit=0)
    device.call("a", "POST", "xcoms/d/r/t/one", "1")
    device.wait(100)
    assert device.core.deadline(device.now) > device.now


def test_calls_are_counted_too(device_of, monkeypatch):
    monkeypatch.setattr(calls, "MAX_STORED", 3)
    device = _offline(device_of)
    for number in range(5):
        device.call("a", "POST", f"xcoms/d/r/t/{number}", "1")
    assert len(device.answers()) == len(device.calls) == 3


def test_a_stored_call_costs_as_much_after_a_thousand_as_after_none(device_of):
    device = _offline(device_of)
    lines = []
    for _ in range(2):
        with _lines_counted() as counted:
            for number in range(1000):
                device.call("a", "POST", f"xcoms/d/r/t/{number}", "1")
                device.core.tick(device.now)
                device.core.deadline(device.now)
        lines.append(counted.lines)
        device.forget()
    assert lines[0] > 10_000
    assert lines[1] < 1.2 * lines[0]


def test_without_room_on_its_disk_a_worker_takes_no_job(device_of):
    device = device_of(disk_reserve=64 * 2**20).connect()
    device.core.tick(device.now, 10 * 2**20)
    device.run("a")
    assert device.reports()[-1].reason == "full: 10 MiB are free on its disk, its disk_reserve is 64 MiB"
    device.run("a")
    assert device.reports()[-1].reason.startswith("full: 10 MiB")
    device.core.tick(device.now, 65 * 2**20)
    device.run("b")
    assert device.said("b") == ["accepted"]
    assert device.of(Say) == []


def test_where_nobody_knows_how_much_is_free_jobs_are_taken(device_of):
    device = device_of(disk_reserve=2**50).connect()
    device.run("a")
    assert device.said("a") == ["accepted"]


def test_no_job_takes_no_slot(device):
    for name in ("a", "b", "c"):
        device.run(name, slots=0)
    assert [device.reports()[-1].type, device.reports()[-1].reason] == ["rejected", "full"]


def test_a_log_without_an_interval_is_no_busy_loop(device):
    device.start("a", log_interval=0)
    device.logs["a"] = b""
    device.forget()
    rounds = 0
    end = device.now + 10
    while device.now < end:
        device.now = max(device.core.deadline(device.now), device.now + 0.001)
        device.core.tick(device.now)
        device.settle()
        rounds += 1
    assert rounds < 100
