"""Whatever number the bridge, or who speaks as the bridge, says: the worker goes on, and can be heard."""

from dataclasses import replace

import pytest

from airflow_mqtt.protocol import messages
from airflow_mqtt.protocol.messages import (
    MAX_INTEGER,
    MAX_POSITION,
    Ack,
    BridgeStatus,
    Cancel,
    Desired,
    Message,
    Probe,
    Response,
    Run,
)
from airflow_mqtt.protocol.topics import TopicKind, Topics

TOPICS = Topics()
OF_THE_BRIDGE: dict[type[Message], tuple[str, Message, bool]] = {
    Run: (TOPICS.jobs("default", "edge-1"), Run(job="x", attempt=1, kind="airflow", slots=1, workload={}), False),
    Cancel: (TOPICS.jobs("default", "edge-1"), Cancel(job="x", attempt=1, reason=""), False),
    Ack: (TOPICS.worker("edge-1", TopicKind.ACK), Ack(journal="journal-1", seq=0, epoch=1), False),
    Desired: (TOPICS.worker("edge-1", TopicKind.DESIRED), Desired(revision=1), True),
    Response: (TOPICS.worker("edge-1", TopicKind.RESPONSE), Response(id="c", journal="j", status=200), False),
    Probe: (TOPICS.worker("edge-1", TopicKind.PROBE), Probe(instance="other"), False),
    BridgeStatus: (TOPICS.bridge_status, BridgeStatus(state="leading", instance="b", epoch=1, ts=1.0), False),
}
CASES = [
    (cls, name, value)
    for cls in OF_THE_BRIDGE
    for name, bounds in messages.numbers(cls).items()
    for value in (bounds.least, bounds.greatest)
]


def works(device) -> None:
    """It takes a job, and is heard by a bridge that knows nothing of what was said before."""
    device.desire(9)
    device.ack(0)
    device.forget()
    device.run("after")
    (event,) = device.reports()
    assert event.type == "accepted"
    device.ack()
    assert device.events == {}
    device.disconnect()
    device.connect()
    born = device.births()[-1]
    assert born.connection < MAX_INTEGER - 2**40, "room to count on"
    device.wait(100)
    assert device.statuses()[-1].connection == born.connection


@pytest.mark.parametrize(("cls", "name", "value"), CASES, ids=str)
def test_each_number_at_its_least_and_greatest_leaves_the_worker_working(device, cls, name, value):
    topic, message, retained = OF_THE_BRIDGE[cls]
    device.message(topic, replace(message, **{name: value}).encode(), retained=retained)
    assert device.core.state.dropped == {}
    works(device)


@pytest.mark.parametrize("again", [1, 50])
def test_no_acknowledgement_makes_a_worker_dumb(device, again):
    """It took the number over, counted one further, and no bridge understood what it said from then on."""
    for _ in range(again):
        ack = Ack(journal=device.journal, seq=0, epoch=1, connection=MAX_INTEGER, birth=1)
        device.message(TOPICS.worker("edge-1", TopicKind.ACK), ack.encode())
        device.disconnect()
        device.connect(heard=False)
    assert MAX_POSITION < device.births()[-1].connection <= MAX_POSITION + 2 * again
    works(device)


def test_a_journal_that_counts_too_high_already_comes_back(device):
    device.meta["connection"] = str(MAX_INTEGER + 1)
    device.crash()
    device.connect()
    works(device)


@pytest.mark.parametrize("cls", [Run, Cancel, Ack, Response, Probe], ids=lambda cls: cls.__name__)
def test_what_is_retained_where_nothing_is_does_not_count(device, cls):
    topic, message, _ = OF_THE_BRIDGE[cls]
    device.forget()
    device.message(topic, message.encode(), retained=True)
    assert sum(device.core.state.dropped.values()) == 1
    assert device.reports() == [] and device.statuses() == []
