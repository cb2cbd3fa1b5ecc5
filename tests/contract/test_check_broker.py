"""What `airflow mqtt check` finds at real brokers that are set up well and badly."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from airflow_mqtt.config.broker_url import parse_broker_url
from airflow_mqtt.executor.cli import broker_facts, check
from airflow_mqtt.executor.cli.broker_facts import Account

DEVICE = "edge-1"


@pytest.fixture(scope="module", params=["mosquitto", "nats"])
def broker(request: pytest.FixtureRequest) -> Iterator[servers.Broker]:
    start = servers.mosquitto if request.param == "mosquitto" else servers.nats
    with start(accounts=[DEVICE]) as running:
        yield running


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives may take its time on a busy machine."""
    monkeypatch.setattr("airflow_mqtt.executor.cli.mqtt_client._PATIENCE", 60)


def account_at(url: str) -> Account:
    found = broker_facts.bridge_account({"AIRFLOW_MQTT_BROKER_URL": url, "AIRFLOW_CONFIG": "/nonexistent"})
    assert found is not None
    return found


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[servers.Broker]:
    with servers.mosquitto(accounts=[DEVICE, "edge-2"]) as running:
        yield running


@pytest.fixture
def bridge(broker: servers.Broker) -> Account:
    return account_at(broker.url("bridge"))


def results(lines: list[check.Line]) -> dict[str, str]:
    return {line.subject: line.result.value for line in lines}


def test_without_the_bridges_settings_there_is_no_account() -> None:
    assert broker_facts.bridge_account({"AIRFLOW_CONFIG": "/nonexistent", "AIRFLOW_MQTT_NAME": "a worker's"}) is None


def test_a_broker_that_is_set_up(bridge: Account, patience: None) -> None:
    lines = check.broker(broker_facts.of_broker(bridge))
    assert results(lines) == dict.fromkeys(("broker", "rights", "retained", "size", "queued"), "ok"), lines


def test_a_device_with_its_own_account(broker: servers.Broker, bridge: Account, patience: None) -> None:
    facts = broker_facts.of_device(bridge, bridge.of(parse_broker_url(broker.url(DEVICE))), DEVICE)
    assert check.device(facts)[0].result is check.Result.OK, facts


def test_a_device_with_the_account_of_another(mosquitto: servers.Broker) -> None:
    bridge = account_at(mosquitto.url("bridge"))
    facts = broker_facts.of_device(bridge, bridge.of(parse_broker_url(mosquitto.url("edge-2"))), DEVICE)
    assert set(facts.cannot_write) == {"status", "info", "events", "request", "probe", "logs"}
    assert set(facts.cannot_read) == {"ack", "desired", "response", "status", "probe", "jobs"}


def test_a_device_whose_account_may_do_everything(bridge: Account, patience: None) -> None:
    facts = broker_facts.of_device(bridge, bridge, DEVICE)
    assert (facts.cannot_read, facts.cannot_write) == ([], [])
    assert "jobs of another worker" in facts.reads_more and "its own ack" in facts.writes_more


def test_a_device_with_a_wrong_password(broker: servers.Broker, bridge: Account) -> None:
    wrong = parse_broker_url(f"mqtt://{DEVICE}:wrong@127.0.0.1:{broker.port}")
    (line,) = check.device(broker_facts.of_device(bridge, bridge.of(wrong), DEVICE))
    assert "access denied" in line.says and "password" in line.todo


def test_a_connection_that_the_broker_has_ended_takes_nothing(tmp_path: Path) -> None:
    """It may end of a word that is too large, at the moment of the next. Before: `airflow mqtt check` broke off."""
    with servers.mosquitto(tmp_path) as running, account_at(running.url("bridge")).connect() as client:
        running.stop()
        servers.wait_for(lambda: client._ended, what="the end of the connection")
        client.publish("airflow/v1/bridge/echo/x", b"x")
        client.publish_all("airflow/v1/bridge/echo/x", [b"x"] * 2)


def test_a_broker_as_it_is_installed(tmp_path: Path) -> None:
    """It lets in who has no account, has its own bounds, and rules that forget a kind of topic."""
    overrides: dict[str, str | int | None] = {
        "allow_anonymous": "true", "max_queued_messages": 100, "max_inflight_messages": 20, "max_queued_bytes": 0,
        "max_inflight_bytes": 0, "message_size_limit": 200_000,
    }  # fmt: skip
    with servers.mosquitto(tmp_path, overrides=overrides) as running:
        acl = tmp_path / "acl"
        acl.write_text(acl.read_text().replace("user bridge\n", "user bridge\ntopic deny airflow/v1/queue/+/jobs/+\n"))
        running.stop()
        running.start()
        lines = check.broker(broker_facts.of_broker(account_at(running.url("bridge"))))
    assert results(lines) == {
        "broker": "ok", "anonymous": "warning", "rights": "fault", "retained": "ok", "size": "fault",
        "queued": "warning",
    }, lines  # fmt: skip
    says = {line.subject: line.says for line in lines}
    assert says["rights"].endswith("of jobs")
    assert "one of 65536 bytes arrives, and none of 1048576" in says["size"]
