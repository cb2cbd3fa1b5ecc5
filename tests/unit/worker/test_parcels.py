"""What goes to the bridge together: with what, when, in which order; and what becomes of it when part of it fails."""

import json

import pytest

from airflow_mqtt.protocol.messages import (
    PARCELS,
    Ack,
    BridgeStatus,
    Event,
    LogPart,
    Parcel,
    Request,
    Response,
    decode_report,
)
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core.effects import Publish
from airflow_mqtt.worker.core.jobs import Result
from airflow_mqtt.worker.core.state import GATHER

ACK = "airflow/v1/worker/edge-1/ack"
RUN = "task-instances/a/run"
STATE = "task-instances/a/state"
SUCCESS = '{"state":"success","end_date":"2026-01-01T00:00:00Z"}'
XCOM = "xcoms/dag/run/task/return_value"


@pytest.fixture
def lean(device):
    """A worker whose bridge takes parcels."""
    lead(device, [PARCELS])
    device.ack()
    device.forget()
    return device


def lead(device, features):
    status = BridgeStatus(state="leading", instance="bridge-1", epoch=1, ts=0.0, features=features)
    device.message("airflow/v1/bridge/status", status.encode(), retained=True)


def sent(device) -> list[list[str]]:
    """Return what each message to the bridge held, in short."""
    found = []
    for effect in device.of(Publish):
        kind = effect.topic.split("/")[4]
        if kind == "events":
            report = decode_report(effect.payload)
            parts = report.messages() if isinstance(report, Parcel) else [report]
        elif kind == "request":
            parts = [Request.decode(effect.payload)]
        else:
            continue
        found.append([_short(part) for part in parts])
    return found


def _short(part) -> str:
    match part:
        case LogPart():
            return f"log {part.offset}"
        case Request():
            return part.path.rsplit("/", 1)[-1] + (" ends" if part.ends else "")
        case Event():
            return part.type
    return type(part).__name__


def answer(device, *answers, seq=None, journal=None):
    """Acknowledge all that was said, and answer calls: (id, status, more)."""
    responses = [
        Response(id=id_, journal=device.journal, status=status, **more).to_object() for id_, status, more in answers
    ]
    state = device.core.state
    ack = Ack(
        journal=journal or device.journal, seq=state.outbox.sent if seq is None else seq, epoch=1,
        connection=state.connection, birth=state.births, answers=responses,
    )  # fmt: skip
    device.message(ACK, ack.encode())


def begin(device, context="{}"):
    device.run("a")
    gate = device.call("a", "PATCH", RUN, "{}")
    answer(device, (gate, 200, {"body": context}))


def test_acceptance_goes_with_the_request_for_the_gate(lean):
    lean.run("a")
    assert sent(lean) == []
    lean.call("a", "PATCH", RUN, "{}")
    assert sent(lean) == [["accepted", "run"]]


def test_what_nobody_waits_for_goes_within_a_moment_all_the_same(lean):
    lean.run("a")
    lean.wait(GATHER + 0.1)
    assert sent(lean) == [["accepted"]]


def test_a_task_that_reads_nothing_costs_two_messages_up(lean):
    begin(lean)
    lean.logs["a"] = b"hello\n"
    calls = [
        lean.call("a", "PUT", "task-instances/a/rtif", "{}"),
        lean.call("a", "POST", XCOM, "1"),
        lean.call("a", "PATCH", STATE, SUCCESS),
    ]
    assert [lean.answers()[call] for call in calls] == [201, 201, 204]
    lean.end("a")
    assert sent(lean) == [["accepted", "run"], ["started", "log 0", "rtif", "return_value", "state ends"]]
    answer(lean, (calls[0], 201, {}), (calls[1], 201, {}), (calls[2], 204, {"ended": True}))
    lean.ack(a=6)
    assert lean.jobs == {}
    assert lean.calls == {}
    assert len(sent(lean)) == 2  # the end was said


def test_a_bridge_that_takes_none_gets_each_by_itself_and_at_once(device):
    device.forget()
    device.start("a")
    device.call("a", "POST", XCOM, "1")
    assert sent(device) == [["accepted"], ["run"], ["started"], ["return_value"]]
    assert len(device.answers()) == 1  # that of the gate: the task hears what Airflow says


def test_a_read_takes_along_what_was_written_before_it(lean):
    begin(lean)
    lean.call("a", "POST", XCOM, "1")
    lean.call("a", "GET", "variables/x")
    assert sent(lean)[1:] == [["started", "return_value", "x"]]


def test_nothing_goes_while_calls_of_the_job_are_under_way(lean):
    begin(lean)
    read = lean.call("a", "GET", "variables/x")
    write = lean.call("a", "POST", XCOM, "1")
    lean.wait(10)
    assert sent(lean)[1:] == [["started", "x"]]
    answer(lean, (read, 404, {}))
    assert lean.answers()[read] == 404
    lean.wait(GATHER)
    assert sent(lean)[2:] == [["return_value"]]
    answer(lean, (write, 201, {}))


def test_a_final_state_waits_for_the_end_of_its_supervisor_but_not_for_long(lean):
    begin(lean)
    state = lean.call("a", "PATCH", STATE, SUCCESS)
    lean.run("b")
    lean.call("b", "PATCH", "task-instances/b/run", "{}")  # takes along what it may
    assert sent(lean)[1:] == [["started", "accepted", "run"]]
    lean.wait(GATHER + 0.1)
    assert sent(lean)[2:] == [["state"]]
    lean.end("a")
    answer(lean, (state, 204, {}))
    assert lean.said("a")[-1] == "finished"  # since the answer does not say that it has ended


@pytest.mark.parametrize(("retries", "expected"), [(False, "failed"), (True, "up_for_retry")])
def test_what_follows_a_refused_write_is_sent_again_as_a_failure(lean, retries, expected):
    begin(lean, json.dumps({"should_retry": retries}))
    xcom = lean.call("a", "POST", XCOM, "1")
    state = lean.call("a", "PATCH", STATE, SUCCESS)
    lean.end("a")
    answer(lean, (xcom, 403, {"body": '{"detail": "no"}'}))
    assert sent(lean)[1:] == [["started", "return_value", "state ends"], ["state"]]
    assert json.loads(lean.requests()[-1].body)["state"] == expected
    answer(lean, (state, 204, {}))
    assert (lean.reports()[-1].type, lean.reports()[-1].outcome) == ("finished", "succeeded")


def test_what_an_overloaded_api_did_not_take_comes_again_with_what_follows(lean):
    begin(lean)
    xcom = lean.call("a", "POST", XCOM, "1")
    lean.call("a", "PATCH", STATE, SUCCESS)
    lean.end("a")
    answer(lean, (xcom, 503, {}))
    assert len(sent(lean)) == 2
    lean.wait(3)
    assert sent(lean)[2:] == [["return_value", "state ends"]]


def test_unanswered_calls_are_sent_again_together(lean):
    begin(lean)
    lean.call("a", "POST", XCOM, "1")
    lean.call("a", "PATCH", STATE, SUCCESS)
    lean.end("a")
    lean.ack()
    lean.wait(31)
    assert sent(lean)[1:] == [["started", "return_value", "state ends"], ["return_value", "state ends"]]


def test_an_answer_counts_whatever_journal_its_acknowledgement_is_of(lean):
    begin(lean)
    read = lean.call("a", "GET", "variables/x")
    answer(lean, (read, 200, {}), journal="another")
    assert lean.answers()[read] == 200


def test_after_a_crash_the_end_is_said_with_the_state(lean):
    begin(lean)
    lean.call("a", "PATCH", STATE, SUCCESS)
    lean.crash(results={"a": Result(returned=True, exit_code=0)})
    lean.forget()
    lean.connect()
    lead(lean, [PARCELS])
    assert sent(lean)[0] == ["Born"]
    assert ["state"] in sent(lean)  # before the bridge was heard to take parcels
    lean.wait(31)
    assert sent(lean)[-1] == ["started", "state ends"]


def test_a_new_leader_that_takes_none_gets_each_by_itself(lean):
    begin(lean)
    xcom = lean.call("a", "POST", XCOM, "1")
    lean.forget()
    status = BridgeStatus(state="leading", instance="bridge-2", epoch=2, ts=0.0)
    lean.message("airflow/v1/bridge/status", status.encode())
    assert sent(lean) == [["Born"], ["started"], ["return_value"]]
    lean.respond(xcom, 201)


def test_what_is_large_goes_by_itself(lean):
    begin(lean)
    lean.call("a", "POST", XCOM, json.dumps("x" * 40_000))
    lean.logs["a"] = b"y" * 9000 + b"\n"
    lean.call("a", "PATCH", STATE, SUCCESS)
    lean.end("a")
    assert len(lean.sent(TopicKind.LOGS)) == 1
    assert sent(lean)[1:] == [["started", "return_value"]]


def test_many_reports_go_in_several_parcels(lean):
    for number in range(150):
        lean.run(f"job-{number}", queue="not ours")
    lean.disconnect()
    lean.forget()
    lean.connect()
    lead(lean, [PARCELS])
    lean.forget()
    lean.wait(31)
    assert [len(parts) for parts in sent(lean)] == [64, 64, 22]
