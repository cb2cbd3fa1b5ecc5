"""Heartbeats of running tasks to Airflow, on behalf of workers that live (or are covered while silent)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from airflow_mqtt.bridge.calls.execution_api import HEARTBEATS, ExecutionApi, MalformedError, UnavailableError
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol.jobs import JobState

log = logging.getLogger(__name__)

#: What Airflow answers when a task should not be running: see `_send_heartbeat_if_needed` in
#: `airflow.sdk.execution_time.supervisor`.
STOP: Final = frozenset({404, 409, 410})

#: Looks at who is due, in one interval: each heartbeat comes by so much of it too early at most, and never too late.
LOOKS: Final = 5


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


def due(jobs: Iterable[Job], interval: float, *, after: float, until: float) -> list[Job]:
    """Return the tasks among `jobs` that Airflow must hear of in the time from `after` to `until`.

    Each is heartbeaten every `interval` seconds, counted from its start. The start has told Airflow that it lives
    (`ti_run` in `airflow.api_fastapi.execution_api.routes.task_instances` sets `last_heartbeat_at`). So tasks that
    began one after the other are not heartbeaten all at once, and one that is short is not at all.
    """
    return [job for job in wanted(jobs) if _is_due(job.running_since or 0.0, interval, after, until)]


def _is_due(since: float, interval: float, after: float, until: float) -> bool:
    """Whether a whole number of intervals, but not none, has passed since then by a time after `after`.

    It is less than none when the clock was set back: a task that Airflow has known for long goes on.
    """
    passed = (until - since) // interval
    return passed not in (0, (after - since) // interval)


async def beat(jobs: Iterable[Job], api: ExecutionApi, stop: Callable[[Job, str], Awaitable[None]]) -> None:
    """Heartbeat the running tasks among `jobs` once; call `stop` with the reason for those that Airflow wants ended.

    `HEARTBEATS` are under way at a time. An error is raised as it is, and after the other tasks had their heartbeats.
    Of those that failed one line is logged: all do while the API server is away.
    """
    beaten = wanted(jobs)
    following = iter(beaten)
    failures: list[tuple[str, str]] = []
    errors: list[Exception] = []

    async def beat_some() -> None:
        for job in following:
            try:
                if said := await _beat_one(job, api, stop):
                    failures.append((job.id, said))
            except Exception as error:
                errors.append(error)

    await asyncio.gather(*(beat_some() for _ in beaten[:HEARTBEATS]))
    if failures:
        more = f", and those of {len(failures) - 1} jobs more" if len(failures) > 1 else ""
        log.warning("heartbeat of job %s failed%s: %.300r", failures[0][0], more, failures[0][1])
    if errors:
        raise errors[0]


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
