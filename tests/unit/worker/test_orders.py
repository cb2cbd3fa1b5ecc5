"""`run` and `cancel`: accepted once, refused with a reason, fenced by attempt."""

import pytest

from airflow_mqtt.protocol.messages import MAX_SLOTS, HeldState
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core.effects import Answer, Force, Launch, RemoveFiles, SaveJob, Say, Signal
from airflow_mqtt.worker.core.jobs import Result


def test_a_run_is_journaled_answered_and_launched(device):
    device.run("a")
    assert device.said("a") == ["accepted"]
    assert [effect.run.job for effect in device.of(Launch)] == ["a"]
    assert device.jobs["a"]["phase"] == "accepted"
    assert device.reports()[0].seq == 1
    assert device.core.state.used == 1


def test_what_is_stored_comes_before_what_is_said(device):
    from airflow_mqtt.protocol.messages import Run
    from airflow_mqtt.worker.core.effects import Publish, SaveEvent

    order = Run(job="a", attempt=1, kind="airflow", slots=1, workload={})
    device.core.message(device.core.state.topics.jobs("default", "edge-1"), order.encode(), device.now)
    kinds = [type(effect) for effect in device.core.take()]
    # The loop commits all journal effects of a round first; they must be in the same round as what they allow.
    assert {SaveJob, SaveEvent, Publish, Launch} <= set(kinds)


def test_the_same_run_again_is_answered_with_the_last_event(device):
    device.run("a")
    device.run("a")
    assert [(event.type, event.seq) for event in device.reports()] == [("accepted", 1), ("accepted", 1)]
    assert len(device.of(Launch)) == 1


def test_the_same_run_again_after_its_event_was_acknowledged(device):
    device.start("a")
    device.ack()
    device.forget()
    device.run("a")
    assert [(event.type, event.seq) for event in device.reports()] == [("started", 3)]


def test_an_older_attempt_is_ignored(device):
    device.run("a", attempt=3)
    device.forget()
    device.run("a", attempt=2)
    assert device.reports() == []
    assert device.core.state.jobs["a"].attempt == 3


def test_a_newer_attempt_replaces_one_that_has_not_started(device):
    device.run("a", attempt=1)
    device.run("a", attempt=2)
    assert device.core.state.jobs["a"].attempt == 2
    assert device.of(Signal) == [Signal("a", 1, Force.KILL)]
    assert device.of(RemoveFiles) == [RemoveFiles("a", 1)]
    assert [event.attempt for event in device.reports()] == [1, 2]
    assert device.core.state.used == 1


def test_a_newer_attempt_of_a_running_job_is_ignored(device):
    device.start("a")
    device.forget()
    device.run("a", attempt=2)
    assert device.reports() == []
    assert [say.level for say in device.of(Say)] == ["error"]


def test_a_wish_for_more_slots_than_a_birth_can_list_is_bounded(device):
    device.desire(1, slots=5000)
    assert device.core.state.slots == MAX_SLOTS


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"queue": "elsewhere"}, "queue"),
        ({"kind": "spark"}, "kind"),
        ({"slots": 3}, "full"),
        ({"not_after": 999.0}, "expired"),
    ],
)
def test_what_it_cannot_run_is_rejected_with_a_reason(device, fields, reason):
    device.run("a", **fields)
    assert [(event.type, event.reason) for event in device.reports()] == [("rejected", reason)]
    assert device.of(Launch) == []
    assert device.jobs == {}


def test_slots_count_until_a_job_has_ended(device):
    device.start("a", slots=2)
    device.run("b")
    assert device.said("b") == ["rejected"]
    device.call("a", "PATCH", "task-instances/a/state", '{"state":"success"}')
    device.end("a")
    device.run("c")
    assert device.said("c") == ["accepted"]


def test_a_copy_of_a_refused_run_is_refused_again_even_when_there_is_room_now(device):
    device.start("a", slots=2)
    device.run("b")
    device.end("a")
    device.run("b")
    assert device.said("b") == ["rejected", "rejected"]
    device.run("b", attempt=2)
    assert device.said("b")[-1] == "accepted"


def test_maintenance_takes_no_jobs_and_ends_again(device):
    device.desire(7, maintenance=True)
    device.run("a")
    assert device.reports()[-1].reason == "draining"
    device.wait(1)
    assert (device.statuses()[-1].maintenance, device.statuses()[-1].revision) == (True, 7)
    device.desire(8)
    device.run("b")
    assert device.said("b") == ["accepted"]


def test_desired_slots_and_queues_count(device):
    device.desire(1, slots=1, queues=["gpu"])
    device.run("a")
    device.run("b", queue="gpu")
    device.run("c", queue="gpu")
    assert [device.reports()[n].reason for n in range(3)] == ["queue", "", "full"]


def test_cancel_before_the_gate_drops_the_job(device):
    device.run("a")
    device.cancel("a")
    assert device.said("a") == ["accepted", "cancelled"]
    assert device.of(Signal) == [Signal("a", 1, Force.KILL)]
    assert device.jobs == {}


@pytest.mark.parametrize("answered", [False, True])
def test_a_start_that_airflow_does_not_want_ends_cancelled_and_says_why_in_its_log(device, answered):
    """The bridge cancels it before it passes the answer on; the two may be swapped on their way."""
    device.run("a")
    call = device.call("a", "PATCH", "task-instances/a/run")
    if answered:
        device.respond(call, 409, '{"detail": {"reason": "invalid_state"}}')
    device.cancel("a", reason="airflow: the start was answered 409: invalid_state, the task is success")
    assert device.answers()[call] == (409 if answered else 410)  # its runner says so in the task's log, and ends
    assert device.said("a") == ["accepted"] and device.of(RemoveFiles) == []
    device.logs["a"] = b"refused\n"
    device.end("a", Result(returned=False, reason="refused"))
    (event,) = [event for event in device.reports() if event.type == "cancelled"]
    assert "invalid_state, the task is success" in event.reason and event.log_size == len(b"refused\n")
    device.ack()
    device.wait(1)
    assert [chunk.data for chunk in device.sent(TopicKind.LOGS)] == [b"refused\n"]


def test_a_start_that_does_not_end_when_it_is_cancelled_is_made_to(device):
    device.run("a")
    device.call("a", "PATCH", "task-instances/a/run")
    device.cancel("a")
    device.wait(60)
    assert [signal.force for signal in device.of(Signal)][:3] == [Force.TERM, Force.KILL_TASK, Force.KILL]


def test_cancel_of_what_it_does_not_hold_is_confirmed(device):
    device.cancel("a", attempt=4)
    assert [(event.type, event.attempt) for event in device.reports()] == [("cancelled", 4)]
    device.run("a", attempt=4)  # delivered late
    assert device.said("a") == ["cancelled"]


def test_cancel_of_an_older_attempt_than_it_holds_is_ignored(device):
    device.run("a", attempt=2)
    device.forget()
    device.cancel("a", attempt=1)
    assert device.reports() == []
    assert "a" in device.jobs


def test_a_running_task_hears_of_its_cancel_at_its_next_heartbeat(device):
    device.start("a")
    device.cancel("a", reason="airflow: cleared")
    assert device.ask("a", "PUT", "task-instances/a/heartbeat") == 410
    assert '"reason":"not_found"' in device.of(Answer)[-1].body
    assert device.ask("a", "GET", "variables/x") == 410
    device.end("a")
    event = device.reports()[-1]
    assert (event.type, event.reason) == ("cancelled", "airflow: cleared")
    assert b"airflow: cleared" in device.logs["a"]


def test_a_task_that_ignores_its_cancel_is_sent_term_then_killed(device):
    device.start("a")
    device.cancel("a")
    device.wait(17)
    assert device.of(Signal) == []  # the SDK had its chance
    device.wait(2)
    assert device.of(Signal) == [Signal("a", 1, Force.TERM)]
    device.wait(20)
    assert [signal.force for signal in device.of(Signal)] == [Force.TERM, Force.KILL_TASK, Force.KILL]
    device.end("a", None)
    assert device.said("a")[-1] == "cancelled"
    assert device.logs["a"].count(b"\n") == 4


def test_a_second_cancel_changes_nothing(device):
    device.start("a")
    device.cancel("a", reason="first")
    device.cancel("a", reason="second")
    device.end("a")
    assert [event.reason for event in device.reports() if event.type == "cancelled"] == ["first"]


def test_a_cancel_after_the_end_lets_the_end_stand(device):
    device.start("a")
    device.call("a", "PATCH", "task-instances/a/state", '{"state":"success"}')
    device.end("a")
    device.cancel("a")
    device.respond("call-2", 204)
    assert device.said("a")[-1] == "finished"


def test_birth_lists_what_it_holds(device):
    device.start("a")
    device.run("b")
    device.disconnect()
    device.connect()
    held = {entry.job: entry.state for entry in device.births()[-1].held()}
    assert held == {"a": HeldState.RUNNING, "b": HeldState.ACCEPTED}


@pytest.mark.parametrize(
    "workload",
    [
        {"type": "ExecuteTask", "dag_rel_path": "../outside.py"},
        {"type": "ExecuteTask", "dag_rel_path": "a/../../outside.py"},
        {"type": "ExecuteTask", "dag_rel_path": "/tmp/outside.py"},
        {"type": "ExecuteTask", "dag_rel_path": "..\\outside.py"},
        {"type": "ExecuteTask", "dag_rel_path": "a\0b.py"},
        {"type": "ExecuteTask", "dag_rel_path": 7},
        {"type": "ExecuteCallback", "dag_rel_path": "../outside.py"},
        {"type": "ExecuteTask", "dag_rel_path": "in.py", "bundle_info": {"name": "git", "version": "../../elsewhere"}},
    ],
)
def test_an_order_that_leads_out_of_the_dag_bundle_is_ended_with_its_reason(device, workload):
    """Given back as rejected, it would be ordered again for ever."""
    device.run("a", workload=workload)
    device.run("a", workload=workload)
    (finished,) = device.reports()
    assert (finished.type, finished.outcome) == ("finished", "failed")
    assert "leads out of the Dag bundle" in finished.reason
    assert device.of(Launch) == []
    assert device.core.state.jobs == {}
    device.run("a", attempt=2, workload={"type": "ExecuteTask", "dag_rel_path": "in/dag.py"})
    assert device.said("a")[1:] == ["accepted"]


@pytest.mark.parametrize("path", ["dag.py", "sub/dir/dag.py", "archive.zip/dag.py", ".", "..dag.py", "a..b/c.py", ""])
def test_a_path_within_the_dag_bundle_is_taken(device, path):
    device.run(
        "a", workload={"type": "ExecuteTask", "dag_rel_path": path, "bundle_info": {"name": "d", "version": None}}
    )
    assert device.said("a") == ["accepted"]
