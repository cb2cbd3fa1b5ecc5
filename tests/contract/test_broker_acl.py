"""mosquitto/acl and its NATS counterpart, by what arrives: brokers grant SUBACKs and PUBACKs to what they withhold.

Every test sends what is forbidden first and, once the broker has answered it, something allowed: when the latter has
arrived and the former has not, it will not.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import paho.mqtt.client as mqtt
import pytest

import servers
from mqtt_peer import Peer

V1 = "airflow/v1"
DEVICES = ("edge-1", "edge-2")

#: Below `airflow/v1/worker/<name>/`: what the device itself may write, and what it may read.
WRITES = ("status", "info", "events", "logs/job-1", "request", "probe", "telemetry")
READS = ("ack", "desired", "response", "status", "probe")
OF_WORKER = (*dict.fromkeys((*WRITES, *READS)), "other", "logs/job-1/deeper")

#: Topics of no worker.
SHARED = (
    f"{V1}/queue/edge/status",
    f"{V1}/job/job-1/status",
    f"{V1}/bridge/status",
    f"{V1}/bridge/echo/instance",
    "elsewhere/v1/worker/edge-1/status",
    "airflow/v2/worker/edge-1/status",
)


def of_worker(name: str) -> list[str]:
    return [f"{V1}/worker/{name}/{kind}" for kind in OF_WORKER] + [f"{V1}/queue/edge/jobs/{name}"]


@pytest.fixture(scope="module", params=["mosquitto", "nats"])
def broker(request: pytest.FixtureRequest) -> Iterator[servers.Broker]:
    start = servers.mosquitto if request.param == "mosquitto" else servers.nats
    with start(accounts=DEVICES) as running:
        yield running


@pytest.fixture
def connect(broker: servers.Broker) -> Iterator:
    """Connect an account; all are disconnected at the end."""
    version = mqtt.MQTTv311 if isinstance(broker, servers.Nats) else mqtt.MQTTv5
    with ExitStack() as stack:

        def peer(account: str, *filters: str, **options) -> Peer:
            connected = stack.enter_context(Peer(broker.url(account), version=version, **options))
            if filters:
                connected.subscribe(*filters)
            return connected

        yield peer


def published(connect, account: str, reader: Peer, topics: list[str], last: str) -> set[str]:
    """Publish on `topics` and then on `last`, which must arrive; return those of `topics` that arrived.

    Each has a connection of its own, since some brokers end the connection of who publishes what is forbidden.
    """
    for topic in topics:
        connect(account).publish(topic)
    connect("bridge").publish(last, b"the end")
    reader.wait(last, b"the end")
    return {topic for topic, payload, _ in reader.received if payload != b"the end"}


def test_a_device_writes_its_own_topics_and_no_other(connect, broker) -> None:
    reader = connect("bridge", f"{V1}/#")
    topics = [*of_worker("edge-1"), *of_worker("edge-2"), *SHARED]
    if isinstance(broker, servers.Nats):
        topics = [topic for topic in topics if "deeper" not in topic]
    arrived = published(connect, "edge-1", reader, topics, last=f"{V1}/worker/edge-1/events")
    assert arrived == {f"{V1}/worker/edge-1/{kind}" for kind in WRITES}


def test_a_device_reads_its_own_topics_and_no_other(connect) -> None:
    wanted = [*of_worker("edge-1"), *of_worker("edge-2"), *SHARED[:4]]
    allowed = [f"{V1}/worker/edge-1/{kind}" for kind in READS]
    allowed += [f"{V1}/queue/edge/jobs/edge-1", f"{V1}/bridge/status"]
    device = connect("edge-1")
    device.subscribe(f"{V1}/worker/edge-1/ack")
    for topic in wanted:
        device.subscribe(topic)
    arrived = published(connect, "bridge", device, wanted, last=f"{V1}/worker/edge-1/ack")
    assert arrived == set(allowed)


@pytest.mark.parametrize("wide", ["#", f"{V1}/#", f"{V1}/worker/+/+", f"{V1}/queue/+/jobs/+"])
def test_a_wide_filter_shows_a_device_nothing_of_others(connect, broker, wide: str) -> None:
    device = connect("edge-1", f"{V1}/worker/edge-1/desired")
    if isinstance(broker, servers.Nats):
        # NATS ends the subscription of a filter that is wider than the account; either way nothing arrives.
        device.client.subscribe(wide, 1)
    else:
        device.subscribe(wide)
    arrived = published(connect, "bridge", device, of_worker("edge-2"), last=f"{V1}/worker/edge-1/desired")
    assert arrived == set()


def test_a_wide_filter_shows_no_retained_message_of_others(connect, broker) -> None:
    bridge = connect("bridge")
    bridge.publish(f"{V1}/worker/edge-2/desired", b"secret", retain=True)
    bridge.publish(f"{V1}/worker/edge-1/desired", b"mine", retain=True)
    filters = [f"{V1}/worker/edge-2/desired", f"{V1}/worker/edge-1/desired"]
    device = connect("edge-1")
    for name in filters:
        device.subscribe(name)
    assert device.wait(f"{V1}/worker/edge-1/desired", b"mine")
    assert device.topics() == [f"{V1}/worker/edge-1/desired"]
    for name in filters:
        bridge.publish(name, b"", retain=True)


def test_the_monitor_reads_every_status_and_nothing_else(connect) -> None:
    topics = [*of_worker("edge-1"), *SHARED[:4]]
    allowed = {f"{V1}/worker/edge-1/status", *SHARED[:3]}
    monitor = connect("monitor", f"{V1}/+/+/status", f"{V1}/bridge/status")
    for topic in topics:
        if topic not in allowed:
            monitor.client.subscribe(topic, 1)
    arrived = published(connect, "bridge", monitor, topics, last=f"{V1}/bridge/status")
    assert arrived == allowed


def test_the_monitor_writes_nothing(connect) -> None:
    reader = connect("bridge", f"{V1}/#")
    topics = [*of_worker("edge-1"), *of_worker("monitor"), *SHARED]
    assert published(connect, "monitor", reader, topics, last=f"{V1}/worker/edge-1/events") == set()


def test_the_bridge_reads_what_a_device_retained(connect) -> None:
    status = f"{V1}/worker/edge-1/status"
    device = connect("edge-1")
    device.publish(status, b"idle", retain=True)
    assert connect("bridge", f"{V1}/worker/+/status").wait(status, b"idle")
    device.publish(status, b"", retain=True)


def test_the_will_of_a_device_is_published_and_retained(connect) -> None:
    status = f"{V1}/worker/edge-1/status"
    reader = connect("bridge", f"{V1}/worker/+/status")
    connect("edge-1", will=(status, b"lost")).vanish()
    assert not reader.wait(status, b"lost")
    assert connect("monitor", f"{V1}/+/+/status").wait(status, b"lost")


def test_the_will_of_a_device_on_a_foreign_topic_is_not_published(connect) -> None:
    foreign, own = f"{V1}/worker/edge-2/status", f"{V1}/worker/edge-1/status"
    reader = connect("bridge", f"{V1}/worker/+/status")
    evil = connect("edge-1", client_id="evil", will=(foreign, b"forged"))
    if not evil.refused:
        evil.vanish()
    connect("edge-1", client_id="good", will=(own, b"honest")).vanish()
    reader.wait(own, b"honest")
    assert foreign not in reader.topics()


@pytest.mark.parametrize(
    ("user", "password"), [("", ""), ("edge-1", ""), ("edge-1", "wrong"), ("nobody", "x"), ("+", "x"), ("#", "x")]
)
def test_who_is_not_known_does_not_come_in(broker, user: str, password: str) -> None:
    account = f"{user}:{password}@" if user else ""
    version = mqtt.MQTTv311 if isinstance(broker, servers.Nats) else mqtt.MQTTv5
    url = f"mqtt://{account}{broker.host}:{broker.port}".replace("#", "%23")
    with Peer(url, version=version) as peer:
        assert peer.refused
