"""mosquitto/mosquitto.conf, as far as the protocol relies on it."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import servers
from demo.brokers import CONFIG_DIR
from mqtt_peer import Peer

EVENTS = "airflow/v1/worker/edge-1/events"
STATUS = "airflow/v1/worker/edge-1/status"
JOBS = "airflow/v1/queue/edge/jobs/edge-1"

#: What may differ between the file to deploy and the one for development: where things are.
PLACES = {"listener", "password_file", "acl_file", "persistence_location", "user"}


def settings(name: str) -> dict[str, str]:
    lines = (CONFIG_DIR / name).read_text().splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    # `log_type` comes several times.
    return {key if key != "log_type" else f"{key} {value}": value for key, value in pairs}


@pytest.fixture
def broker() -> Iterator[servers.Mosquitto]:
    with servers.mosquitto(accounts=["edge-1", "edge-2"]) as running:
        yield running


def test_both_files_say_the_same_but_for_places() -> None:
    deployed, development = settings("mosquitto.conf"), settings("mosquitto.dev.conf")
    differing = {key for key in deployed.keys() | development.keys() if deployed.get(key) != development.get(key)}
    assert differing == PLACES


def test_nobody_comes_in_without_an_account() -> None:
    deployed = settings("mosquitto.conf")
    assert deployed["allow_anonymous"] == "false"
    assert deployed["password_file"]
    assert deployed["acl_file"]
    assert deployed["persistence"] == "true"


def test_what_bridge_and_worker_may_send_fits(broker: servers.Mosquitto) -> None:
    """The default of `max_message_bytes` is 1 MiB."""
    with Peer(broker.url("bridge")) as reader, Peer(broker.url("edge-1")) as writer:
        reader.subscribe(EVENTS)
        writer.publish(EVENTS, b"b" * (1024 * 1024 + 1000))
        reader.wait(EVENTS)
        assert writer.disconnects == 0


def test_a_packet_over_the_limit_ends_its_connection_alone(broker: servers.Mosquitto) -> None:
    limit = int(settings("mosquitto.conf")["max_packet_size"])
    with Peer(broker.url("bridge")) as reader, Peer(broker.url("edge-1")) as writer:
        reader.subscribe("airflow/v1/#")
        writer.client.publish(EVENTS, b"a" * (limit + 1000), qos=0)
        servers.wait_for(lambda: writer.disconnects, what="the end of the writer's connection")
        with Peer(broker.url("edge-2")) as other:
            other.publish("airflow/v1/worker/edge-2/events", b"fine")
            reader.wait("airflow/v1/worker/edge-2/events", b"fine")
        assert EVENTS not in reader.topics()
        assert reader.disconnects == 0


def test_a_burst_for_a_slow_reader_arrives_whole(broker: servers.Mosquitto) -> None:
    """With the default of 1000 queued messages most of it is dropped, and acknowledged all the same."""
    count = 5000
    reader = Peer(broker.url("edge-1"), "slow", clean=False)
    with reader:
        reader.subscribe(JOBS)
    with Peer(broker.url("bridge")) as writer:
        sent = [writer.client.publish(JOBS, str(number).encode(), qos=1) for number in range(count)]
        sent[-1].wait_for_publish(120)
    with Peer(broker.url("edge-1"), "slow", clean=False) as again:
        servers.wait_for(lambda: len(again.received) >= count, what="the whole burst")
        assert [int(payload) for _, payload, _ in again.received] == list(range(count))


def test_a_queue_for_an_absent_reader_is_bounded_by_bytes() -> None:
    """An absent device must not fill the broker's memory."""
    limits = {"max_queued_bytes": 200_000, "max_inflight_bytes": 100_000}
    with servers.mosquitto(accounts=["edge-1"], overrides=limits) as broker:
        with Peer(broker.url("edge-1"), "absent", clean=False) as reader:
            reader.subscribe(JOBS)
        with Peer(broker.url("bridge")) as writer:
            for _ in range(100):
                writer.publish(JOBS, b"x" * 10_000)
        with Peer(broker.url("edge-1"), "absent", clean=False) as again:
            again.wait(JOBS)
            with Peer(broker.url("bridge")) as writer:
                writer.publish("airflow/v1/worker/edge-1/ack")
            assert len(again.received) < 60


def test_a_clean_stop_keeps_sessions_queued_and_retained_messages(broker: servers.Mosquitto) -> None:
    with Peer(broker.url("edge-1"), "edge-1", clean=False) as device:
        device.subscribe(JOBS)
        device.publish(STATUS, b"offline", retain=True)
    with Peer(broker.url("bridge")) as bridge:
        bridge.publish(JOBS, b"work")
    broker.stop()
    broker.start()
    with Peer(broker.url("edge-1"), "edge-1", clean=False) as device:
        device.wait(JOBS, b"work")
    with Peer(broker.url("monitor")) as monitor:
        monitor.subscribe(STATUS)
        assert monitor.wait(STATUS, b"offline")


def test_a_broker_that_was_killed_and_lost_its_store_comes_back_empty(broker: servers.Mosquitto) -> None:
    with Peer(broker.url("edge-1")) as device:
        device.publish(STATUS, b"idle", retain=True)
    broker.kill()
    broker.forget()
    broker.start()
    with Peer(broker.url("bridge")) as bridge:
        bridge.subscribe("airflow/v1/#")
        bridge.publish(JOBS, b"first")
        bridge.wait(JOBS, b"first")
        assert bridge.topics() == [JOBS]


def test_a_device_that_takes_a_foreign_session_gets_nothing_of_it(broker: servers.Mosquitto) -> None:
    """A client id is no secret. What waits in a session is held against the rights of who comes for it."""
    with Peer(broker.url("edge-1"), "airflow-worker-edge-1", clean=False) as device:
        device.subscribe(JOBS)
    with Peer(broker.url("bridge")) as bridge:
        bridge.publish(JOBS, b"secret")
        with Peer(broker.url("edge-2"), "airflow-worker-edge-1", clean=False) as thief:
            thief.subscribe("airflow/v1/worker/edge-2/ack")
            bridge.publish(JOBS, b"more")
            bridge.publish("airflow/v1/worker/edge-2/ack", b"the end")
            thief.wait("airflow/v1/worker/edge-2/ack", b"the end")
            assert thief.topics() == ["airflow/v1/worker/edge-2/ack"]


def test_what_one_account_can_take_of_the_broker_is_bounded() -> None:
    deployed = settings("mosquitto.conf")
    assert 0 < int(deployed["max_connections"]) < 8192
    assert "nofile: {soft: 8192, hard: 8192}" in (CONFIG_DIR.parent / "compose.yaml").read_text()
    assert "LimitNOFILE=8192" in (CONFIG_DIR.parent / "docs/how-to/run-a-broker.md").read_text()
    assert int(deployed["memory_limit"]) >= 4 * int(deployed["max_queued_bytes"])
    assert deployed["persistent_client_expiration"] == "1d"


def test_connections_are_bounded_and_those_that_stand_go_on() -> None:
    with servers.mosquitto(accounts=["edge-1"], overrides={"max_connections": 4}) as broker, ExitStack() as stack:
        reader = stack.enter_context(Peer(broker.url("bridge")))
        reader.subscribe(EVENTS)
        device = stack.enter_context(Peer(broker.url("edge-1")))
        silent = [stack.enter_context(socket.create_connection((broker.host, broker.port))) for _ in range(8)]
        silent[-1].settimeout(60)
        assert silent[-1].recv(1) == b""  # it is closed at once
        device.publish(EVENTS, b"fine")
        reader.wait(EVENTS, b"fine")
