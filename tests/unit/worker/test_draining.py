"""The way to a clean stop."""

import json

from airflow_mqtt.worker.core.effects import Force, Signal, Stop

STATE = '{"state":"failed"}'


def test_an_idle_worker_stops_at_once(device):
    device.signal()
    stop = device.of(Stop)[0]
    assert (json.loads(stop.farewell)["state"], json.loads(stop.farewell)["reason"]) == ("offline", "stopped")


def test_a_drain_gives_back_what_has_not_started(device):
    device.run("a")
    device.signal()
    assert device.reports()[-1].reason == "draining"
    assert device.of(Signal) == [Signal("a", 1, Force.KILL)]
    device.ack()
    assert device.of(Stop)


def test_a_drain_keeps_a_job_that_asked_for_the_gate(device):
    """The bridge may have let it through already; to reject it now would contradict that."""
    device.run("a")
    call = device.call("a", "PATCH", "task-instances/a/run")
    device.signal()
    assert device.said("a") == ["accepted"]
    device.respond(call)
    assert device.said("a") == ["accepted", "started"]


def test_a_drain_rejects_new_jobs_and_says_terminating(device):
    device.start("a")
    device.signal()
    device.run("b")
    assert device.reports()[-1].reason == "draining"
    device.wait(1)
    assert device.statuses()[-1].state == "terminating"


def test_the_stages_of_a_drain(device):
    device.start("a")
    device.signal()
    device.wait(59)
    assert device.of(Signal) == []
    device.wait(2)
    assert device.of(Signal) == [Signal("a", 1, Force.TERM)]
    device.wait(10)
    assert device.of(Signal) == [Signal("a", 1, Force.TERM), Signal("a", 1, Force.KILL_TASK)]
    device.wait(10)
    assert device.of(Signal)[2:] == [Signal("a", 1, Force.KILL)]
    assert device.of(Stop) == []
    device.end("a", None)
    device.wait(1)
    assert device.of(Stop) == []  # the report is not acknowledged yet
    device.ack(a=len(device.logs["a"]))
    assert device.of(Stop)
    assert device.logs["a"].count(b"is sent TERM") == 1
    assert device.logs["a"].count(b"killed") == 3  # said before, and found after


def test_more_signals_are_less_patience(device):
    device.start("a")
    device.signal()
    device.signal()
    assert device.of(Signal) == [Signal("a", 1, Force.TERM)]
    device.signal()
    assert device.of(Signal) == [Signal("a", 1, Force.TERM), Signal("a", 1, Force.KILL_TASK)]


def test_reports_of_a_drain_are_waited_for_but_not_for_ever(device):
    device.start("a")
    device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.signal()
    device.end("a")
    device.wait(9)
    assert device.of(Stop) == []
    device.wait(2)
    assert device.of(Stop)


def test_without_a_link_nothing_is_waited_for(device):
    device.start("a")
    device.disconnect()
    device.signal()
    device.end("a", None)
    assert device.of(Stop)
    device.crash()
    device.connect()
    assert device.said("a")[-1] == "finished"


def test_what_cannot_be_killed_does_not_hold_a_drain_for_ever(device):
    device.start("a")
    device.signal()
    device.wait(60 + 10 + 20 + 1)
    assert device.of(Stop)


def test_an_operators_shutdown_is_followed_once(device):
    device.desire(5, shutdown=True)
    assert device.of(Stop)
    device.forget()
    device.crash()
    device.connect()
    device.desire(5, shutdown=True)
    assert device.of(Stop) == []
    device.run("a")
    assert device.said("a") == ["accepted"]
    device.ack()
    device.desire(6, shutdown=True)
    device.ack()
    assert device.of(Stop)
