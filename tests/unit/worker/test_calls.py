"""Execution API calls: answered here, stored, forwarded; in order; resent under the same id."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mqtt.worker.core.effects import Answer
from airflow_mqtt.worker.core.jobs import Result

STATE = '{"state":"success","end_date":"2026-01-01T00:00:00Z","task_outlets":[],"outlet_events":[]}'


def test_the_gate_makes_it_running(device):
    device.run("a")
    call = device.call("a", "PATCH", "task-instances/a/run", "{}")
    assert device.answers() == {}
    device.respond(call)
    assert device.said("a") == ["accepted", "started"]
    assert device.answers() == {call: 200}
    assert device.jobs["a"]["phase"] == "running"


def test_a_refused_gate_does_not(device):
    device.run("a")
    device.respond(device.call("a", "PATCH", "task-instances/a/run"), 409)
    assert device.said("a") == ["accepted"]
    device.end("a", Result(returned=False, reason="the supervisor failed: TaskAlreadyRunningError"))
    event = device.reports()[-1]
    assert (event.type, event.outcome) == ("finished", "failed")
    assert "TaskAlreadyRunning" in event.reason


def test_heartbeats_cost_nothing(device):
    device.start("a")
    device.forget()
    assert device.ask("a", "PUT", "task-instances/a/heartbeat") == 204
    assert device.requests() == []


def test_a_call_of_nobodys_job_is_410(device):
    assert device.ask("a", "GET", "variables/x") == 410
    device.run("b", attempt=2)
    assert device.ask("b", "GET", "variables/x", attempt=1) == 410


def test_one_call_of_a_job_is_under_way_at_a_time(device):
    device.start("a")
    device.forget()
    first = device.call("a", "GET", "variables/x")
    second = device.call("a", "GET", "variables/y")
    assert [request.path for request in device.requests()] == ["variables/x"]
    device.respond(first, 404)
    assert [request.path for request in device.requests()] == ["variables/x", "variables/y"]
    device.respond(second)
    assert device.answers() == {first: 404, second: 200}


def test_a_final_state_is_answered_at_once_and_kept(device):
    device.start("a")
    device.forget()
    call = device.call("a", "PATCH", "task-instances/a/state", STATE)
    assert device.answers() == {call: 204}
    assert list(device.calls) == [call]
    assert [request.path for request in device.requests()] == ["task-instances/a/state"]


def test_finished_comes_after_all_stored_writes_were_answered(device):
    device.start("a")
    call = device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.end("a")
    assert device.said("a") == ["accepted", "started"]
    device.respond(call, 204)
    event = device.reports()[-1]
    assert (event.type, event.outcome, event.exit_code) == ("finished", "succeeded", 0)
    assert device.calls == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "task-instances/a/rtif", 201),
        ("POST", "xcoms/dag/run/task/return_value", 201),
        ("PATCH", "task-instances/a/skip-downstream", 204),
        ("PATCH", "task-instances/a/rendered-map-index", 200),
        ("PATCH", "task-instances/a/state", 204),
    ],
)
def test_without_a_link_writes_are_stored_and_sent_later_in_order(device, method, path, status):
    device.start("a")
    device.disconnect()
    device.forget()
    first = device.call("a", method, path, "{}")
    second = device.call("a", "PATCH", "task-instances/a/state", STATE)
    assert device.answers() == {first: status, second: 204}
    device.end("a")
    device.crash()
    device.connect()
    assert [request.id for request in device.requests()] == [first]
    device.respond(first, status)
    device.respond(second, 204)
    assert [request.id for request in device.requests()] == [first, second]
    assert device.said("a")[-1] == "finished"


def test_without_a_link_reads_wait(device):
    device.start("a")
    device.disconnect()
    device.forget()
    call = device.call("a", "GET", "xcoms/d/r/t/k")
    device.wait(300)
    assert device.answers() == {}
    device.connect()
    device.respond(call)
    assert device.answers() == {call: 200}


def test_a_write_that_waits_when_the_link_goes_is_stored(device):
    device.start("a")
    call = device.call("a", "PUT", "task-instances/a/rtif", "{}")
    assert call not in device.answers()
    device.disconnect()
    assert device.answers()[call] == 201
    device.forget()
    device.connect()
    assert [request.id for request in device.requests()] == [call]


def test_a_write_is_stored_when_no_bridge_answers(device):
    device.start("a")
    call = device.call("a", "PUT", "task-instances/a/rtif", "{}")
    device.wait(31)
    assert device.answers()[call] == 201


def test_an_unanswered_call_is_sent_again_under_its_id(device):
    device.start("a")
    device.forget()
    call = device.call("a", "GET", "variables/x")
    device.wait(31)
    assert [request.id for request in device.requests()] == [call, call]
    device.disconnect()
    device.connect()
    assert [request.id for request in device.requests()] == [call] * 3
    device.lead(2)
    assert [request.id for request in device.requests()] == [call] * 4
    device.respond(call)
    device.respond(call)
    assert [answer.id for answer in device.of(Answer)] == [call]


def test_a_runner_that_asks_again_gets_one_answer_where_it_is_now(device):
    device.start("a")
    device.forget()
    device.call("a", "GET", "variables/x", id="same")
    device.core.hung_up(2)
    device.call("a", "GET", "variables/x", id="same")
    assert len(device.requests()) == 1
    device.respond("same")
    assert [answer.token for answer in device.of(Answer)] == [3]


def test_a_stored_write_asked_again_is_answered_again(device):
    device.start("a")
    device.call("a", "PATCH", "task-instances/a/state", STATE, id="same")
    device.crash(alive=("a",))
    device.forget()
    device.call("a", "PATCH", "task-instances/a/state", STATE, id="same")
    assert device.answers() == {"same": 204}
    assert len(device.calls) == 1


def test_an_overloaded_api_is_asked_again_later_under_another_id(device):
    device.start("a")
    device.forget()
    call = device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.respond(call, 503)
    assert len(device.requests()) == 1
    device.wait(3)
    assert [request.id for request in device.requests()] == [call, f"{call}-1"]
    device.crash(alive=("a",))
    device.connect()
    assert device.requests()[-1].id == f"{call}-1"
    device.respond(f"{call}-1", 204)
    assert device.calls == {}


def answer_until_quiet(device, status: int, tries: int) -> int:
    """Answer each request with `status`; return how many there were."""
    for count in range(tries):
        device.wait(61)
        request = device.requests()[-1]
        device.forget()
        device.respond(request.id, status)
        if not device.calls:
            return count + 1
    return tries


def test_a_stored_write_that_airflow_always_fails_on_is_refused_in_the_end(device):
    device.start("a")
    device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.end("a")
    assert answer_until_quiet(device, 500, 5) == 5
    device.crash()
    device.connect()
    assert answer_until_quiet(device, 500, 20) == 5
    event = device.reports()[-1]
    assert (event.type, event.outcome) == ("finished", "failed")
    assert "status 500" in event.reason


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_api_that_is_not_there_is_asked_for_ever(device, status):
    device.start("a")
    device.call("a", "PATCH", "task-instances/a/state", STATE)
    assert answer_until_quiet(device, status, 50) == 50


def test_a_waiting_call_hears_of_an_overloaded_api(device):
    device.start("a")
    call = device.call("a", "GET", "variables/x")
    device.respond(call, 503)
    assert device.answers()[call] == 503


def test_a_refused_stored_write_turns_success_into_failure(device):
    device.start("a")
    device.disconnect()
    device.forget()
    xcom = device.call("a", "POST", "xcoms/d/r/t/k", "1")
    state = device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.end("a")
    device.connect()
    device.respond(xcom, 403, '{"detail":"no"}')
    sent = device.requests()[-1]
    assert json.loads(sent.body) == {"state": "failed", "end_date": "2026-01-01T00:00:00Z"}
    assert b"refused POST xcoms/d/r/t/k with status 403" in device.logs["a"]
    device.respond(state, 204)
    event = device.reports()[-1]
    assert event.log_size == len(device.logs["a"])
    assert event.outcome == "succeeded"  # the supervisor did its work; the task itself was failed


def test_a_state_that_airflow_has_already_is_no_failure(device):
    device.start("a")
    call = device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.end("a")
    device.respond(call, 409)
    assert device.reports()[-1].outcome == "succeeded"


def test_a_refused_final_state_is_a_failure(device):
    device.start("a")
    call = device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.end("a")
    device.respond(call, 422)
    assert device.reports()[-1].outcome == "failed"
    assert "422" in device.reports()[-1].reason


def test_a_supervisor_that_wrote_no_state_failed(device):
    device.start("a")
    device.end("a")
    assert device.reports()[-1].outcome == "failed"


@pytest.mark.parametrize("path", ["airflow-mqtt/callbacks/a/start", "callbacks/a/run"])
@pytest.mark.parametrize(("code", "outcome"), [(0, "succeeded"), (1, "failed")])
def test_a_callback_is_judged_by_its_exit_code(device, path, code, outcome):
    device.run("a", workload={"type": "ExecuteCallback"})
    device.respond(device.call("a", "PATCH", path, "{}"))
    assert device.said("a")[-1] == "started"
    device.end("a", Result(returned=True, exit_code=code))
    assert device.reports()[-1].outcome == outcome


def test_what_is_too_large_is_413_and_names_the_setting(device_of):
    device = device_of(max_message_bytes=20_000).connect()
    device.start("a")
    device.forget()
    call = device.call("a", "POST", "xcoms/d/r/t/k", json.dumps([str(n * 7919 % 100_003) for n in range(30_000)]))
    assert device.answers() == {call: 413}
    assert "max_message_bytes" in device.of(Answer)[-1].body
    assert device.requests() == []


def test_what_compresses_well_is_not_too_large(device_of):
    device = device_of(max_message_bytes=20_000).connect()
    device.start("a")
    device.call("a", "POST", "xcoms/d/r/t/k", json.dumps("x" * 100_000))
    assert device.requests()[-1].path == "xcoms/d/r/t/k"


def test_what_the_bridge_would_not_unpack_is_too_large(device_of):
    """However well it compresses: the bridge would drop it, and the task would wait for ever."""
    device = device_of(max_message_bytes=20_000).connect()
    device.start("a")
    device.forget()
    call = device.call("a", "POST", "xcoms/d/r/t/k", json.dumps("x" * 200_000))
    assert device.answers() == {call: 413}
    assert device.requests() == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("variables/" + "x" * 20_000, {}),
        ("variables/x", {"content-type": "x" * 300}),
        ("variables/x", {"content-type": "a\x00b"}),
    ],
)
def test_what_the_bridge_would_not_understand_is_400(device, path, headers):
    """It would drop it, and the task would wait for ever."""
    device.start("a")
    device.forget()
    assert device.ask("a", "GET", path, headers=headers) == 400
    assert "cannot be passed on to Airflow" in device.of(Answer)[-1].body
    assert device.requests() == []
    other = device.call("a", "GET", "variables/y")
    assert [request.id for request in device.requests()] == [other]


def test_the_longest_names_of_airflow_are_passed_on(device):
    """250 characters of each name and 512 of a key, each of four bytes, percent-encoded."""
    device.start("a")
    path = "xcoms/" + "/".join("%F0%9F%98%80" * length for length in (250, 250, 250, 512))
    call = device.call("a", "GET", path)
    assert device.requests()[-1].path == path
    device.respond(call)
    assert device.answers()[call] == 200


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it only makes devices
@given(reason=st.text(st.characters(exclude_categories=[])), kind=st.sampled_from(["task", "callback"]))
def test_whatever_ended_a_runner_its_report_is_understood(device_of, reason, kind):
    """One that the bridge drops would hold up all later reports of this worker, for ever."""
    device = device_of().connect()
    device.run("a", workload={"type": "ExecuteCallback" if kind == "callback" else "ExecuteTask"})
    device.end("a", Result(returned=kind == "callback", exit_code=1, reason=reason + "\x00" * 3 + "x" * 5000))
    assert device.reports()[-1].type == "finished"


def test_a_stored_write_that_a_lower_limit_has_made_too_large_is_refused(device):
    """The worker was started again with a lower max_message_bytes: the bridge would never take it."""
    device.start("a")
    device.disconnect()
    device.call("a", "POST", "xcoms/d/r/t/k", json.dumps([str(n * 7919 % 100_003) for n in range(30_000)]))
    state = device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.end("a")
    device.crash(max_message_bytes=20_000)
    device.connect()
    assert device.requests()[-1].id == state
    assert json.loads(device.requests()[-1].body)["state"] == "failed"
    assert b"status 413" in device.logs["a"]
    device.respond(state, 204)
    assert device.said("a")[-1] == "finished"
    assert device.calls == {}


def test_an_api_that_is_away_for_weeks_is_still_asked(device):
    device.start("a")
    device.disconnect()
    call = device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.connect()
    for _ in range(1100):
        asked = device.requests()[-1].id
        device.forget()
        device.respond(asked, 503)
        device.wait(61)
    assert call in device.calls
    assert device.core.state.jobs["a"].calls.head.retries == 1100


def test_a_response_of_another_journal_is_nobodys(device):
    from airflow_mqtt.protocol.messages import Response

    device.start("a")
    call = device.call("a", "GET", "variables/x")
    response = Response(id=call, journal="another", status=200)
    device.message("airflow/v1/worker/edge-1/response", response.encode())
    assert call not in device.answers()
