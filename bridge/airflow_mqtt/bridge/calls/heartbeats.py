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

    An error is raised as it is, and after the other tasks had their heartbeats. Of those that failed one line is
    logged: all do while the API server is away.
    """
    beaten = wanted(jobs)
    outcomes = await asyncio.gather(*(_beat_one(job, api, stop) for job in beaten), return_exceptions=True)
    failures = [(job.id, said) for job, said in zip(beaten, outcomes, strict=True) if isinstance(said, str)]
    if failures:
        more = f", and those of {len(failures) - 1} jobs more" if len(failures) > 1 else ""
        log.warning("heartbeat of job %s failed%s: %.300r", failures[0][0], more, failures[0][1])
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _beat_one(job: Job, api: ExecutionApi, stop: Callable[[Job, str], Awaitable[None]]) -> str | None:
    """Return why it failed, if it did."""
    try:
        response = await api.heartbeat(job)
    except (UnavailableError, MalformedError) as error:
        return str(error)
    if response.status_code in STOP:
        await stop(job, f"airflow: heartbeat answered {response.status_code}")
    elif response.status_code >= 400:
        return f"status {response.status_code}: {response.text[:200]}"
    return None
