"""The proxy that fault tests rely on does what it says, between a client and a real broker."""

import time
from collections.abc import Iterator

import pytest

import servers
from mqtt_peer import Peer
from proxy import Direction, Proxy

EVENTS = "airflow/v1/worker/edge-1/events"
ACK = "airflow/v1/worker/edge-1/ack"


@pytest.fixture(scope="module")
def broker() -> Iterator[servers.Mosquitto]:
    with servers.mosquitto(accounts=["edge-1"]) as running:
        yield running


@pytest.fixture
def proxy(broker: servers.Mosquitto) -> Iterator[Proxy]:
    with Proxy(broker.port) as running:
        yield running


@pytest.fixture
def bridge(broker: servers.Mosquitto) -> Iterator[Peer]:
    with Peer(broker.url("bridge")) as peer:
        peer.subscribe(EVENTS)
        yield peer


@pytest.fixture
def device(broker: servers.Mosquitto, proxy: Proxy) -> Iterator[Peer]:
    with Peer(broker.url("edge-1", port=proxy.port)) as peer:
        peer.subscribe(ACK)
        yield peer


def test_it_passes_everything_on(bridge: Peer, device: Peer) -> None:
    device.publish(EVENTS, b"x" * 500_000)
    bridge.wait(EVENTS, b"x" * 500_000)


def test_cut_ends_connections_and_refuses_new_ones(broker, proxy: Proxy, device: Peer) -> None:
    proxy.cut()
    servers.wait_for(lambda: device.disconnects, what="the end of the connection")
    with pytest.raises(OSError), Peer(broker.url("edge-1", port=proxy.port)) as peer:
        peer.subscribe(ACK)
    proxy.heal()
    with Peer(broker.url("edge-1", port=proxy.port)) as peer:
        peer.subscribe(ACK)


def test_stall_keeps_bytes_until_it_is_healed(proxy: Proxy, bridge: Peer, device: Peer) -> None:
    proxy.stall()
    device.client.publish(EVENTS, b"late", qos=1)
    bridge.publish(ACK, b"late too")
    with pytest.raises(TimeoutError):
        bridge.wait(EVENTS, timeout=0.3)
    assert not device.received
    proxy.heal()
    bridge.wait(EVENTS, b"late")
    device.wait(ACK, b"late too")
    assert not device.disconnects


def test_stall_of_one_direction_lets_the_other_through(proxy: Proxy, bridge: Peer, device: Peer) -> None:
    proxy.stall(Direction.DOWN)
    device.client.publish(EVENTS, b"up", qos=1)
    bridge.wait(EVENTS, b"up")
    bridge.publish(ACK, b"down")
    with pytest.raises(TimeoutError):
        device.wait(ACK, timeout=0.3)
    proxy.heal()
    device.wait(ACK, b"down")


def test_delay_and_limit_slow_it_down(proxy: Proxy, bridge: Peer, device: Peer) -> None:
    began = time.monotonic()
    proxy.delay(0.3)
    device.client.publish(EVENTS, b"slow", qos=1)
    bridge.wait(EVENTS, b"slow")
    assert time.monotonic() - began >= 0.3
    proxy.heal()
    proxy.limit(50_000)
    began = time.monotonic()
    device.client.publish(EVENTS, b"x" * 100_000, qos=1)
    bridge.wait(EVENTS, b"x" * 100_000)
    assert time.monotonic() - began >= 0.9


def test_a_share_of_new_connections_is_reset(broker, proxy: Proxy) -> None:
    proxy.reset(1.0)
    with pytest.raises(OSError), Peer(broker.url("edge-1", port=proxy.port)) as peer:
        peer.subscribe(ACK)
