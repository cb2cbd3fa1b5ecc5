"""Who comes with another's client id throws it off, on any account of the broker: so nobody can know one.

A leader that is thrown off all the same lets another bridge lead.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from link_ends import TOPICS, BridgeEnd  # first: see there  # isort: skip
import servers
from airflow_mqtt.bridge.mqtt.losses import LOSSES, PERIOD, Losses, ThrownOffError
from airflow_mqtt.database import tables
from airflow_mqtt.protocol.messages import BridgeStatus
from airflow_mqtt.worker.journal import Journal
from bridge_bench import Site
from fakes import FakeExecutionApi, FakeWorker
from mqtt_peer import Peer
from proxy import Proxy
from servers import wait_for
from worker_bench import FakeBridge, WorkerProcess

NAME, THIEF = "edge-1", "edge-2"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[servers.Mosquitto]:
    with servers.mosquitto(tmp_path / "broker", accounts=[NAME, THIEF]) as running:
        yield running


def test_a_device_cannot_throw_the_bridge_off_with_what_the_bridge_says_of_itself(broker: servers.Mosquitto) -> None:
    """Before: `bridge/status` names the instance, and that was the client id."""
    with BridgeEnd(broker.url("bridge"), "5") as bridge, Peer(broker.url(THIEF)) as reader:
        reader.subscribe(TOPICS.bridge_status)
        reader.wait(TOPICS.bridge_status)
        status = BridgeStatus.decode(reader.received[-1][1])
        assert bridge.link._secret not in reader.received[-1][1].decode()
        for client_id in (f"airflow-bridge-{status.instance}", status.instance):
            with Peer(broker.url(THIEF), client_id) as thief:
                thief.subscribe(TOPICS.bridge_status)
        bridge.publish(bridge.status("leading"))
        assert (bridge.ups, bridge.downs) == (1, 0)


def test_a_device_cannot_throw_another_one_off(broker: servers.Mosquitto, tmp_path: Path) -> None:
    """Before: the client id was made of the worker's name."""
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME))
    with FakeBridge(broker.url("bridge"), NAME) as bridge, servers.running(process):
        before = bridge.status("idle")
        for _ in range(3):
            with Peer(broker.url(THIEF), f"airflow-worker-{NAME}") as thief:
                thief.subscribe(TOPICS.bridge_status)
        bridge.desire(revision=7, maintenance=True)
        after = bridge.status("idle", revision=7)
        assert (after.instance, after.connection) == (before.instance, before.connection)
        with Journal(process.state_dir / "journal.sqlite") as journal:
            secret = journal.load().meta["client"]
        assert not any(secret.encode() in payload for _, payload, _ in bridge.received)


def test_a_leader_that_cannot_keep_its_connection_lets_another_lead(
    broker: servers.Mosquitto, tmp_path: Path, postgres_url: str
) -> None:
    """Before: the lease stayed with the victim, and no job was placed."""
    with FakeExecutionApi() as api, Proxy(broker.port) as way, FakeWorker(broker.url(NAME), NAME) as worker:
        site = Site(postgres_url, broker, api, tmp_path)
        try:
            site.start_bridge("--instance", "one", "--broker-url", broker.url("bridge", port=way.port))
            wait_for(lambda: worker.epoch == 1, what="the first to lead")
            site.start_bridge("--instance", "two")
            wait_for(lambda: "standing by" in site.log_text(1), what="the standby")

            def leads() -> bool:
                way.cut()
                way.heal()
                return _holder(site) == "two"

            wait_for(leads, what="the standby to lead", timeout=PERIOD)
            assert "the lease is given up" in site.log_text(0)
            job = site.queue()
            assert worker.order().job == job
        finally:
            site.close()


def _holder(site: Site) -> str:
    with site.engine.connect() as connection:
        return connection.execute(sa.select(tables.bridge.c.holder)).scalar_one()


def test_losses_far_between_are_the_links() -> None:
    losses = Losses()
    for number in range(10 * LOSSES):
        losses.add(number * PERIOD / (LOSSES - 2), taken_over=False)


@pytest.mark.parametrize(("taken_over", "count"), [(False, LOSSES), (True, LOSSES // 2)])
def test_so_many_at_once_are_too_many(taken_over: bool, count: int) -> None:
    losses = Losses()
    for number in range(count - 1):
        losses.add(number, taken_over=taken_over)
    with pytest.raises(ThrownOffError, match="the lease is given up"):
        losses.add(count, taken_over=taken_over)
