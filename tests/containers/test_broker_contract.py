"""The access rules' contract, on the broker's image: the same tests as on a local Mosquitto."""

import pytest

from contract.test_broker_acl import *  # noqa: F403  the suite
from contract.test_broker_acl import connect  # noqa: F401  and its fixture


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
