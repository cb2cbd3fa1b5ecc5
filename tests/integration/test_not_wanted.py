"""A real bridge and a real worker, and a job that Airflow does not want any more: it ends cancelled, and says why."""

import json
from contextlib import contextmanager

import pytest

from log_schema import check
from servers import running, wait_for
from worker_bench import RUN_CONTEXT, WorkerProcess, workload

NAME = "edge-1"
REFUSAL = {
    "detail": {"reason": "invalid_state", "message": "TI is not in a state to be started", "previous_state": "success"}
}


@contextmanager
def both(site, broker, tmp_path):
    with running(WorkerProcess(tmp_path / "worker", broker.url(NAME), NAME)) as worker:
        site.start_bridge()
        yield worker


def queued(site, task):
    order = workload(task)
    return site.queue(workload=json.dumps(order), subject=order["ti"]["id"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_start_that_airflow_does_not_want_ends_cancelled_with_its_reason(site, broker, tmp_path):
    """The task was marked success while the device was away. Before: failed, with a line that broke the log's page."""
    site.api.answer("PATCH", "run", 409, REFUSAL)
    with both(site, broker, tmp_path):
        job = queued(site, "quick")
        site.wait_state(job, "cancelled", "failed", timeout=120)
        told = b"409: invalid_state"
        wait_for(lambda: told in site.log_of(job), what="the reason in its log")
        assert site.job(job).state == "cancelled"
        assert "invalid_state, the task is success" in site.job(job).reason
        assert all(check(line) for line in site.log_of(job).splitlines() if told in line)  # and it breaks no page
        assert not site.job(job).token


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_task_that_airflow_does_not_want_any_more_ends_cancelled_with_its_reason(site, broker, tmp_path):
    """It was cleared or marked while it ran: its heartbeat says so, and the device ends it."""
    site.api.answer("PATCH", "run", 200, RUN_CONTEXT)
    with both(site, broker, tmp_path):
        job = queued(site, "wait_for_file")
        wait_for(lambda: b"waiting" in site.log_of(job), what="the task to run", timeout=120)
        site.api.answer("PUT", "heartbeat", 409, {"detail": {"reason": "not_running"}})
        site.wait_state(job, "cancelled", "failed", "succeeded", timeout=60)
        assert site.job(job).state == "cancelled"
        assert "409" in site.job(job).reason
        wait_for(lambda: b"Task killed!" in site.log_of(job), what="the end of its log")
        assert not site.api.calls("PATCH", "state")
