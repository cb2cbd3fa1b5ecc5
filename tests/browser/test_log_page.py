"""Airflow's own page of a task's log, in a real browser, with the lines that worker, bridge and executor write there.

No scheduler, bridge or worker runs: the parts of them that write such lines do so here, into the database of a real
api-server.
"""

import os
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bridge_samples import job as job_of_the_bridge
from browser.chromium import Browser
from demo.site import AirflowSite

pytest.importorskip("airflow", reason="Airflow is not installed")

from airflow_mqtt.bridge.dispatch.reports import within
from airflow_mqtt.protocol import kinds, task_log
from airflow_mqtt.protocol.jobs import JobEvent
from airflow_mqtt.worker.job_files import JobFiles
from airflow_mqtt.worker.runner import supervise
from integration.executor.world import TO_RUNNING, World

pytestmark = pytest.mark.timeout(900)

DAG = "shows_logs"


class Case(NamedTuple):
    """A task whose job waits for a worker."""

    site: AirflowSite
    world: World
    ti: Any
    job: Any
    directory: Path

    def runs(self) -> None:
        self.world.drive(self.job.id, JobEvent.DISPATCH, worker="edge-1")
        self.world.drive(self.job.id, *TO_RUNNING[1:])

    def task_is(self, state: str) -> None:
        self.world.set_task(self.ti, state=state)


# --- whose lines ------------------------------------------------------------------------------------------------


def of_the_runner(case: Case) -> list[str]:
    """The task was marked success while its worker was away, and the api-server refuses its start."""
    from airflow.sdk.api.client import Client

    case.runs()
    case.task_is("success")
    # As on a device, but for the way to the api-server.
    client = Client(base_url=case.site.execution_api_url, token=case.job.token)

    def start(workload: dict[str, Any], *_: Any) -> None:
        client.task_instances.start(uuid.UUID(workload["id"]), os.getpid(), datetime.now(UTC))

    files = JobFiles(case.directory, case.job.id, 1)
    workload = {"type": kinds.TASK.workload, "id": case.job.subject}
    order = {"job": case.job.id, "attempt": 1, "max_call_bytes": 1000, "key": "", "workload": workload}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(supervise._RUN, kinds.TASK, start)
        reason = supervise._run(case.directory, order, files)["reason"]
    case.world.log(case.job.id, 0, files.task_log.read_bytes())
    case.world.drive(case.job.id, JobEvent.FAIL, reason=reason)
    assert reason.startswith("Airflow refused the start of the task with status 409: invalid_state")
    return [reason, "ServerResponseError: Server returned error", f'File "{__file__}", line ']


def of_the_bridge(case: Case) -> list[str]:
    """The log is larger than the bridge keeps."""
    case.runs()
    now = time.time()
    words = b"".join(task_log.line(now, "info", f"word {number}", "task") for number in range(20))
    case.world.log(case.job.id, 0, within(words, job_of_the_bridge(), 1000, now))
    case.world.drive(case.job.id, JobEvent.SUCCEED, final_state="success")
    case.task_is("success")
    return ["word 7", "Log cut here: it is larger than log_limit of the bridge (1000 bytes)."]


def of_the_executor_below_what_is_there(case: Case) -> list[str]:
    """The task failed, and the middle of its log is still on the device."""
    case.runs()
    first, last = (task_log.line(time.time(), "info", f"the {word} word", "task") for word in ("first", "last"))
    case.world.log(case.job.id, 0, first)
    case.world.log(case.job.id, 5000, last)
    case.world.set_job(case.job.id, log_bytes=len(first), log_size=5000 + len(last), log_tail=5000)
    case.world.drive(case.job.id, JobEvent.SUCCEED, final_state="failed")
    case.task_is("failed")
    missing = 5000 - len(first)
    return [
        "the first word", f"{missing} bytes of this log are missing here. They are still on worker edge-1",
        "the last word", f"This log is not complete yet: {missing} bytes of it are missing.",
    ]  # fmt: skip


def of_the_executor_where_nothing_is(case: Case) -> list[str]:
    """The scheduler took the task back before a worker had it."""
    case.world.executor().revoke_task(ti=case.ti)
    case.task_is("failed")
    return [f"There is no log: job {case.job.id} was cancelled before it wrote one: revoked by the scheduler"]


@pytest.mark.parametrize(
    "written",
    [of_the_runner, of_the_bridge, of_the_executor_below_what_is_there, of_the_executor_where_nothing_is],
)
def test_the_page_shows_the_lines(
    site: AirflowSite,
    world: World,
    browser: Browser,
    tmp_path: Path,
    written: Callable[[Case], list[str]],
) -> None:
    name = written.__name__
    ti, job = world.queue(world.executor(), world.queued_task_of_the_run(name))
    lines = written(Case(site, world, ti, job, tmp_path))
    browser.open(f"{site.url}/dags/{DAG}/runs/{world.run_id}/tasks/{name}")
    browser.await_text(*lines)
