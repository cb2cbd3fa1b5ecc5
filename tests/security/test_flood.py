"""One device at full speed does not hold up another, and nobody loses the lease.

What is asserted is that the others' jobs go on, and how much of the flood came through; how long it takes measures
`python -m security.flood`.
"""

import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.messages import Run
from bridge_bench import SUBJECT, Site
from fakes import FakeWorker
from security.flood import LARGE, LOUD, RATES, flooding, start, start_times
from servers import wait_for

#: Jobs of the other device while each flood goes on, and the seconds in which each of them must have gone on at all.
JOBS, PATIENCE = 4, 60.0


@pytest.fixture(scope="module")
def run(site: Site, victim: FakeWorker, stolen: FakeWorker) -> Iterator[Run]:
    """A job that runs on the device whose account is stolen."""
    site.start_bridge()
    wait_for(lambda: victim.acks.qsize() and stolen.acks.qsize(), what="both workers are known", timeout=60)
    site.api.answer("GET", "large", 200, "x" * LARGE)
    site.queue(queue="other")
    yield start(stolen, SUBJECT + "0")
    log = site.log_text(0)
    assert "Traceback" not in log and "no longer leading" not in log
    assert site.bridges[0].poll() is None
    assert len(log.splitlines()) < 1_000, "lines of the bridge, however many messages there were"


def epoch(site: Site) -> int:
    with site.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT epoch FROM mqtt_bridge").scalar_one()


def log_of(site: Site, job: str) -> tuple[int, int]:
    """In how many rows the log of a job is, and what the job says that they take."""
    with site.engine.connect() as connection:
        rows = connection.execute(
            sa.select(sa.func.count()).select_from(tables.job_log).where(tables.job_log.c.job_id == job)
        ).scalar_one()
    return rows, site.job(job).log_stored


@pytest.mark.parametrize("way", RATES)
def test_the_jobs_of_others_go_on(
    site: Site, victim: FakeWorker, stolen: FakeWorker, run: Run, broker, way: str
) -> None:
    before, asked, began = epoch(site), len(site.api.calls("GET", "large")), time.monotonic()
    with flooding(way, broker.url(LOUD[way]), stolen, run.job):
        if way == "answers":
            wait_for(lambda: len(site.api.calls("GET", "large")) > asked, what="the first large answer", timeout=60)
        times = start_times(site, victim, "default", JOBS, PATIENCE)
    assert len(times) == JOBS
    assert epoch(site) == before == 1
    if way == "logs":
        rows, stored = log_of(site, run.job)
        assert 0 < rows * 192 <= stored
    if way == "answers":  # 16 MiB at once, those of one job that were under way then, and 4 MiB a second
        assert len(site.api.calls("GET", "large")) - asked < 3 + 4 + 1 + (time.monotonic() - began)
