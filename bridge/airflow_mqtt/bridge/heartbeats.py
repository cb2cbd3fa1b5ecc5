"""Heartbeats of running tasks to Airflow, on behalf of workers that live (or are covered while silent)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from airflow_mqtt.bridge.database import Database
from airflow_mqtt.bridge.gateway import ExecutionApi, UnavailableError
from airflow_mqtt.bridge.store import SqlTx
from airflow_mqtt.bridge.values import Job

log = logging.getLogger(__name__)

_CONCURRENCY: Final = 16

#: What Airflow answers when a task should not be running: see `_send_heartbeat_if_needed` in
#: `airflow.sdk.execution_time.supervisor`.
STOP: Final = frozenset({404, 409, 410})


async def beat(database: Database, api: ExecutionApi, stop: Callable[[Job, str], Awaitable[None]]) -> None:
    """Heartbeat all running tasks once; call `stop` with the reason for those that Airflow wants ended.

    An error is raised as it is, and after the other tasks had their heartbeats.
    """
    async with database.read() as connection:
        tasks = await SqlTx(connection, database.team_name).running_tasks()
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def one(job: Job) -> None:
        async with slots:
            await _beat_one(job, api, stop)

    for error in await asyncio.gather(*(one(job) for job, _ in tasks), return_exceptions=True):
        if error is not None:
            raise error


async def _beat_one(job: Job, api: ExecutionApi, stop: Callable[[Job, str], Awaitable[None]]) -> None:
    try:
        response = await api.heartbeat(job)
    except UnavailableError as error:
        log.warning("heartbeat of job %s: %s", job.id, error)
        return
    if response.status_code in STOP:
        await stop(job, f"airflow: heartbeat answered {response.status_code}")
    elif response.status_code >= 400:
        log.warning("heartbeat of job %s: status %d: %.200s", job.id, response.status_code, response.text)
