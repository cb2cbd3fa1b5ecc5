"""Heartbeats of running tasks to Airflow, on behalf of workers that live (or are covered while silent)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from airflow_mqtt.bridge.calls.execution_api import ExecutionApi, MalformedError, UnavailableError
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol.jobs import JobState

log = logging.getLogger(__name__)

#: What Airflow answers when a task should not be running: see `_send_heartbeat_if_needed` in
#: `airflow.sdk.execution_time.supervisor`.
STOP: Final = frozenset({404, 409, 410})


def wanted(jobs: Iterable[Job]) -> list[Job]:
    """Return the tasks among `jobs` that Airflow must hear of: it has accepted their start, and not their end."""
    return [
        job
        for job in jobs
        if job.state is JobState.RUNNING
        and job.is_tracked
        and job.running_since is not None
        and job.final_state is None
    ]


async def beat(jobs: Iterable[Job], api: ExecutionApi, stop: Callable[[Job, str], Awaitable[None]]) -> None:
    """Heartbeat the running tasks among `jobs` once; call `stop` with the reason for those that Airflow wants ended.

    An error is raised as it is, and after the other tasks had their heartbeats.
    """
    for error in await asyncio.gather(*(_beat_one(job, api, stop) for job in wanted(jobs)), return_exceptions=True):
        if error is not None:
            raise error


async def _beat_one(job: Job, api: ExecutionApi, stop: Callable[[Job, str], Awaitable[None]]) -> None:
    try:
        response = await api.heartbeat(job)
    except (UnavailableError, MalformedError) as error:
        log.warning("heartbeat of job %s: %.300r", job.id, str(error))
        return
    if response.status_code in STOP:
        await stop(job, f"airflow: heartbeat answered {response.status_code}")
    elif response.status_code >= 400:
        log.warning("heartbeat of job %s: status %d: %.200r", job.id, response.status_code, response.text)
