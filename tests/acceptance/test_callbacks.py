"""Callbacks that Airflow gives to executors (`ExecuteCallback`, from Airflow 3.3 on) run on the device."""

import pytest

from airflow_site import WholeSite
from demo.site import airflow_version
from servers import wait_for

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(airflow_version() < (3, 3), reason="Airflow before 3.3 gives executors no callbacks"),
]


def test_a_missed_deadline_is_told_by_the_device(site: WholeSite) -> None:
    database = site.airflow.database_url.rsplit("/", 1)[-1]
    site.run("misses_deadline")

    def row(sql: str) -> str:
        return site.database.psql(sql, database)

    wait_for(lambda: row("select state from callback") == "success", what="the callback's success", timeout=60)
    job = row("select state, worker, attempt from mqtt_job where workload_type = 'ExecuteCallback'")
    assert job == "succeeded|edge-1|1"
    events = "select string_agg(event, ' ' order by e.id) from mqtt_job_event e join mqtt_job j on j.id = e.job_id"
    assert row(f"{events} where workload_type = 'ExecuteCallback'") == "queue dispatch accept start succeed"
    log = "select string_agg(convert_from(data, 'UTF8'), '') from mqtt_job_log l join mqtt_job j on j.id = l.job_id"
    wait_for(
        lambda: "the deadline was missed: as planned" in row(f"{log} where workload_type = 'ExecuteCallback'"),
        what="the callback's log",
        timeout=60,
    )
