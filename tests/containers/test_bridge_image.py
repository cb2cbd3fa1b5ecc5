"""The built bridge image against the images of broker and database: what its health says, and what ends it."""

import os
from typing import Any

import pytest
import sqlalchemy as sa
from parts import await_log, confined, health, log

from airflow_mqtt.database import tables
from servers import wait_for


@pytest.fixture
def settings(container_broker, shared_postgres, postgres_url: str) -> dict[str, str]:
    """The settings of a bridge whose tables are there."""
    engine = sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg2://"))
    tables.metadata.create_all(engine)
    engine.dispose()
    place = f"{shared_postgres.host}:{shared_postgres.port}"
    return {
        "AIRFLOW_MQTT_BROKER_URL": container_broker.url("bridge", host=container_broker.address, port=1883),
        "AIRFLOW_MQTT_DATABASE_URL": postgres_url.replace(place, f"{shared_postgres.address}:5432"),
        "AIRFLOW_MQTT_EXECUTION_API_URL": "http://127.0.0.1:1/execution/",
        "AIRFLOW_MQTT_LEASE_TTL": "1",
    }


def bridge(settings: dict[str, str], **more: str) -> Any:
    return confined(os.environ["BRIDGE_IMAGE"], {**settings, **more})


def await_health(container: Any, code: int, text: str) -> None:
    def there() -> bool:
        found, said = health(container, "bridge")
        assert "\n" not in said
        return found == code and text in said

    try:
        wait_for(there, what=f"health {code}: {text}", every=0.5)
    except TimeoutError as error:
        raise AssertionError(f"{error}; it is {health(container, 'bridge')}\n{log(container)}") from None


def test_a_standby_that_hangs_is_unhealthy_and_says_so(settings: dict[str, str]) -> None:
    with bridge(settings, AIRFLOW_MQTT_INSTANCE="one") as leader:
        await_health(leader, 0, "healthy")
        with bridge(settings, AIRFLOW_MQTT_INSTANCE="two") as standby:
            await_health(standby, 0, "healthy")
            await_log(standby, "standing by")
            standby.exec(["sh", "-c", "kill -STOP -1"])  # all but the container's first process
            await_health(standby, 1, "it has stood still")
            await_log(standby, "bridge: unhealthy: it has stood still")
            await_health(leader, 0, "healthy")
            standby.exec(["sh", "-c", "kill -CONT -1"])
            await_health(standby, 0, "healthy")
            await_log(standby, "bridge: healthy again")


def with_a_wrong_password(settings: dict[str, str], setting: str, account: str) -> Any:
    url = settings[f"AIRFLOW_MQTT_{setting}"]
    password = url.partition(f"{account}:")[2].partition("@")[0]
    return bridge(settings, **{f"AIRFLOW_MQTT_{setting}": url.replace(password, "wrong")})


def test_a_wrong_password_of_the_broker_makes_it_unhealthy(settings: dict[str, str]) -> None:
    with with_a_wrong_password(settings, "BROKER_URL", "bridge") as container:
        await_health(container, 1, "refuses the account bridge")
        await_log(container, "bridge: unhealthy: the broker")


def test_a_wrong_password_of_the_database_ends_it(settings: dict[str, str]) -> None:
    with with_a_wrong_password(settings, "DATABASE_URL", "airflow") as container:
        assert container.get_wrapped_container().wait(timeout=60)["StatusCode"] == 1
        await_log(container, "password authentication failed")


def test_a_broker_whose_rules_are_for_others(settings: dict[str, str]) -> None:
    """mosquitto/acl gives the account `bridge` what is below `airflow`; this one wants another root."""
    with bridge(settings, AIRFLOW_MQTT_ROOT="elsewhere") as container:
        await_health(container, 1, "it must let the account bridge write and read elsewhere/# (mosquitto/acl)")
        await_log(container, "bridge: unhealthy: the broker knows of no bridge")


def test_without_tables_it_ends_with_one_line(settings: dict[str, str], shared_postgres) -> None:
    place = settings["AIRFLOW_MQTT_DATABASE_URL"].rpartition("/")[0]
    empty = shared_postgres.new_database().rpartition("/")[2]
    with bridge(settings, AIRFLOW_MQTT_DATABASE_URL=f"{place}/{empty}") as container:
        wrapped = container.get_wrapped_container()
        assert wrapped.wait(timeout=60)["StatusCode"] == 1
        *before, line = log(container).splitlines()
        assert len(before) <= 1, "a password over mqtt:// is warned of"
        assert "run `airflow db migrate`" in line
