"""One site for all tests of this directory that leave it as it was."""

from collections.abc import Iterator

import pytest

from airflow_site import WholeSite, whole_site

SITE_NAME = "plant-7"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSite]:
    pytest.importorskip("airflow", reason="Airflow is not installed")
    with whole_site(tmp_path_factory.mktemp("site"), {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled"}) as running:
        client = running.client
        client.call("POST", "variables", json={"key": "site_name", "value": SITE_NAME})
        plant = {"connection_id": "plant_api", "conn_type": "http", "host": "plant.example", "port": 8080}
        client.call("POST", "connections", json=plant)
        yield running
