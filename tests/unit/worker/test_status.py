"""What a worker says of itself, and what it does when somebody else says something else."""

from dataclasses import replace

import pytest

from airflow_mqtt.protocol.messages import Ack, Probe, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core.effects import Reconnect, SaveMeta, Say

STATUS = "airflow/v1/worker/edge-1/status"


def test_a_connection_begins_with_birth_info_and_status(device):
    from airflow_mqtt.worker.core.effects import Publish

    topics = [effect.topic.rsplit("/", 1)[1] for effect in device.of(Publish)]
    assert topics == ["events", "info", "status"]
    assert [effect.retain for effect in device.of(Publish)] == [False, True, True]


def test_each_connection_has_a_number_that_is_kept_first(device):
    assert device.meta["connection"] == "1"
    _, will = device.core.connecting(device.now)
    effects = device.core.take()
    assert SaveMeta("connection", "2") in effects
    status = WorkerStatus.decode(will)
    assert (status.state, status.reason, status.connection) == ("offline", "lost", 2)


def test_a_status_is_a_heartbeat(device):
    device.forget()
    for _ in range(100):
        device.wait(1)
        device.message(STATUS, device.statuses()[-1].encode() if device.statuses() else b"{}")
    assert len(device.statuses()) == 3


def test_changes_within_a_moment_make_one_status(device):
    device.forget()
    device.run("a")
    device.wait(4)
    device.run("b")
    device.wait(4)
    assert [(status.state, status.free) for status in device.statuses()] == [("running", 0)]


def test_a_task_that_ends_within_a_moment_makes_none(device):
    device.forget()
    device.start("a")
    device.wait(2)
    device.call("a", "PATCH", "task-instances/a/state", '{"state": "success"}')
    device.end("a")
    device.wait(20)
    assert device.statuses() == []


def test_what_an_operator_waits_for_is_said_at_once(device):
    device.start("a")
    device.forget()
    device.desire(1, maintenance=True)
    device.wait(0.5)
    device.end("a")
    device.wait(0.5)
    assert [(status.maintenance, status.running) for status in device.statuses()] == [(True, 1), (True, 0)]


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "offline", "reason": "lost"},
        {"state": "offline", "instance": "another", "connection": 99},
        {"state": "idle", "instance": "another"},
        {"state": "offline", "connection": 0},
    ],
)
def test_an_untrue_status_is_put_right_soon(device, changes):
    true = device.statuses()[-1]
    device.forget()
    device.message(STATUS, replace(true, **changes).encode())
    device.wait(1.5)
    assert [status.state for status in device.statuses()] == ["idle"]


@pytest.mark.parametrize(("above", "retained", "asks"), [(1, False, True), (1, True, False), (-1, False, False)])
def test_of_two_with_one_name_the_older_connection_asks_for_it(device, above, retained, asks):
    """Their client ids differ, so that the broker does not throw one of them off."""
    ours = device.statuses()[-1]
    other = replace(ours, instance="another", connection=ours.connection + above)
    device.message(STATUS, other.encode(), retained=retained)
    assert bool(device.of(Reconnect)) == asks


def test_a_bridge_that_does_not_take_it_is_asked_again_and_said_once(device_of):
    device = device_of().connect(heard=False)
    refused = Ack(journal=device.config.journal, seq=0, epoch=1, refused="update the bridge").encode()
    for number in range(1, 4):
        assert len(device.births()) == number
        device.message(STATUS.replace("status", "ack"), refused)
        device.wait(device.config.resend_after - 1)
        device.message(STATUS.replace("status", "ack"), refused)
        assert len(device.births()) == number  # once a `resend_after`, however often it is refused
        device.wait(1)
    assert ["update the bridge" in say.text for say in device.of(Say)] == [True]


def test_acknowledgements_that_come_late_do_not_make_it_introduce_itself_for_ever(device):
    """Each is of the introduction before the last: a round trip longer than the pause between two."""
    device.connect()
    device.forget()
    device.lead(2)
    for _ in range(600):
        device.wait(1)
        heard = {"connection": device.core.state.connection, "birth": device.core.state.births - 1}
        ack = Ack(journal=device.journal, seq=0, epoch=2, **heard)
        device.message("airflow/v1/worker/edge-1/ack", ack.encode())
    assert 10 < len(device.births()) < 600 / device.config.resend_after + 10


def test_an_introduction_that_got_lost_is_repeated_soon(device):
    device.connect()
    device.forget()
    device.lead(2)
    for _ in range(2):  # once more, since a heard one begins anew
        for _ in range(4):
            device.wait(1)
            device.message("airflow/v1/worker/edge-1/ack", Ack(journal=device.journal, seq=0, epoch=2).encode())
        assert len(device.births()) == 2
        device.ack()
        device.forget()
        device.lead(2)


def test_a_bridge_of_a_new_database_counts_from_the_beginning_and_is_a_new_leader(device):
    device.lead(7, retained=True)
    device.connect()
    device.forget()
    device.lead(1, retained=True)  # what the broker had kept says nothing
    assert device.births() == []
    device.lead(1)
    assert len(device.births()) == 1


def test_an_echo_is_no_reason_to_say_it_again(device):
    true = device.statuses()[-1]
    device.forget()
    device.message(STATUS, true.encode())
    device.wait(5)
    assert device.statuses() == []


def test_connected_but_deaf_means_connect_anew(device):
    device.wait(155)
    assert [effect.reason for effect in device.of(Reconnect)] == ["nothing arrives"]
    assert len(device.sent(TopicKind.PROBE)) == 1


def test_whoever_hears_what_it_asks_itself_is_not_deaf(device):
    for _ in range(1000):
        device.wait(1)
        for probe in device.sent(TopicKind.PROBE):
            device.forget()
            device.message("airflow/v1/worker/edge-1/probe", probe.encode())
    assert device.of(Reconnect) == []


def test_a_probe_of_another_is_answered_and_our_own_is_not(device):
    device.forget()
    device.message("airflow/v1/worker/edge-1/probe", Probe(instance="instance-1").encode())
    assert device.statuses() == []
    device.message("airflow/v1/worker/edge-1/probe", Probe(instance="newcomer").encode())
    assert [status.state for status in device.statuses()] == ["idle"]


def test_info_follows_the_operator(device):
    device.forget()
    device.desire(1, queues=["gpu"], slots=5)
    info = device.sent(TopicKind.INFO)[-1]
    assert (info.queues, info.slots) == (["gpu"], 5)
    device.message("airflow/v1/worker/edge-1/desired", b"", retained=True)  # deleted
    assert device.sent(TopicKind.INFO)[-1].queues == ["default", "gpu"]
