"""A connection is tested where it will be used: from the UI's API, over the scheduler, on the device (Airflow 3.3 on)."""

import pytest

from airflow_site import WholeSite
from demo.site import airflow_version
from servers import wait_for

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(airflow_version() < (3, 3), reason="Airflow before 3.3 tests no connections on workers"),
]


@pytest.mark.parametrize(("path", "state"), [("/", "success"), ("/not/there", "failed")])
def test_a_connection_is_tested_on_the_device(site: WholeSite, path: str, state: str) -> None:
    body = {"connection_id": f"disk_{state}", "conn_type": "fs", "extra": f'{{"path": "{path}"}}', "queue": "edge"}
    token = site.client.call("POST", "connections/enqueue-test", json=body)["token"]
    headers = {"Airflow-Connection-Test-Token": token}
    client = site.client

    def ended() -> dict | None:
        found = client._http.get(
            "/api/v2/connections/enqueue-test", headers={"Authorization": f"Bearer {client._token}", **headers}
        ).json()
        return found if found["state"] in ("success", "failed") else None

    result = wait_for(ended, what="the test's result", timeout=60)
    assert (result["state"], path in result["result_message"]) == (state, True)
    database = site.airflow.database_url.rsplit("/", 1)[-1]
    sql = "select distinct worker from mqtt_job where workload_type = 'TestConnection'"
    assert site.database.psql(sql, database) == "edge-1"
