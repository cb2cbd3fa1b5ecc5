"""The built bridge image against the images of broker and database: what its health says, and what ends it."""

import os
from typing import Any

import pytest
import sqlalchemy as sa
from parts import confined, health, log

from airflow_mqtt.bridge import tables
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
        wait_for(there, what=f"health {code}: {text}", timeout=40, every=0.5)
    except TimeoutError as error:
        raise AssertionError(f"{error}; it is {health(container, 'bridge')}\n{log(container)}") from None


def test_a_standby_that_hangs_is_unhealthy_and_says_so(settings: dict[str, str]) -> None:
    with bridge(settings, AIRFLOW_MQTT_INSTANCE="one") as leader:
        await_health(leader, 0, "healthy")
        with bridge(settings, AIRFLOW_MQTT_INSTANCE="two") as standby:
            await_health(standby, 0, "healthy")
            assert "standing by" in log(standby)
            standby.exec(["sh", "-c", "kill -STOP -1"])  # all but the container's first process
            await_health(standby, 1, "it has stood still")
            assert "bridge: unhealthy: it has stood still" in log(standby)
            await_health(leader, 0, "healthy")
            standby.exec(["sh", "-c", "kill -CONT -1"])
            await_health(standby, 0, "healthy")
            assert "bridge: healthy again" in log(standby)


@pytest.mark.parametrize(
    ("setting", "account", "said", "logged"),
    [
        ("BROKER_URL", "bridge", "refuses the account bridge", "bridge: unhealthy: the broker"),
        ("DATABASE_URL", "airflow", "it has not found its database yet", "password authentication failed"),
    ],
)
def test_a_wrong_password(settings: dict[str, str], setting: str, account: str, said: str, logged: str) -> None:
    url = settings[f"AIRFLOW_MQTT_{setting}"]
    password = url.partition(f"{account}:")[2].partition("@")[0]
    with bridge(settings, **{f"AIRFLOW_MQTT_{setting}": url.replace(password, "wrong")}) as container:
        await_health(container, 1, said)
        wait_for(lambda: logged in log(container), what="the reason in the log")


def test_a_broker_whose_rules_are_for_others(settings: dict[str, str]) -> None:
    """mosquitto/acl gives the account `bridge` what is below `airflow`; this one wants another root."""
    with bridge(settings, AIRFLOW_MQTT_ROOT="elsewhere") as container:
        await_health(container, 1, "it must let the account bridge write and read elsewhere/# (mosquitto/acl)")
        assert "bridge: unhealthy: the broker knows of no bridge" in log(container)


def test_without_tables_it_ends_with_one_line(settings: dict[str, str], shared_postgres) -> None:
    place = settings["AIRFLOW_MQTT_DATABASE_URL"].rpartition("/")[0]
    empty = shared_postgres.new_database().rpartition("/")[2]
    with bridge(settings, AIRFLOW_MQTT_DATABASE_URL=f"{place}/{empty}") as container:
        wrapped = container.get_wrapped_container()
        assert wrapped.wait(timeout=60)["StatusCode"] == 1
        (line,) = log(container).splitlines()
        assert "run `airflow db migrate`" in line
