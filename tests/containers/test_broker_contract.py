"""The access rules' contract, on the broker's image: the same tests as on a local Mosquitto."""

import time

import pytest
from parts import await_log, log

from contract.test_broker_acl import *  # noqa: F403  the suite
from contract.test_broker_acl import connect  # noqa: F401  and its fixture
from servers import wait_for


@pytest.fixture(scope="module")
def broker(container_broker):
    return container_broker


def test_an_account_is_added_while_it_runs(broker, connect) -> None:  # noqa: F811
    answer = broker.container.exec(["broker-account", "pi-1"])
    assert answer.exit_code == 0
    broker.passwords["pi-1"] = answer.output.decode().strip()
    device = connect("pi-1", "airflow/v1/worker/pi-1/ack")
    connect("bridge").publish("airflow/v1/worker/pi-1/ack", b"hello")
    device.wait("airflow/v1/worker/pi-1/ack", b"hello")


def test_its_health_is_asked_of_itself(broker) -> None:
    answer = broker.container.exec(["broker-health"])
    assert (answer.exit_code, answer.output) == (0, b"")


def test_a_wrong_password_makes_it_unhealthy_and_is_said_once(broker) -> None:
    def health() -> tuple[int, str]:
        answer = broker.container.exec(["broker-health"])
        return answer.exit_code, answer.output.decode()

    broker.container.exec(["broker-account", "monitor", "another"])
    wait_for(lambda: health()[0] == 1, what="an unhealthy broker", every=0.2)
    code, said = health()
    assert (code, said.count("\n")) == (1, 1)
    assert "the account monitor hears nothing: it has another password than .env says" in said
    reason = "broker: unhealthy: the account monitor"
    await_log(broker.container, reason)
    time.sleep(1)  # the image's own look, at the same time, may say it too
    said_until_now = log(broker.container).count(reason)
    for _ in range(3):
        health()
    time.sleep(1)
    assert log(broker.container).count(reason) == said_until_now
    broker.container.exec(["broker-account", "monitor", broker.passwords["monitor"]])
    wait_for(lambda: health() == (0, ""), what="a healthy broker", every=0.2)
