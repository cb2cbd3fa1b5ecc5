"""Heartbeats of running tasks to Airflow, on behalf of workers that live (or are covered while silent)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from airflow_mqtt.bridge.calls.execution_api import HEARTBEATS, ExecutionApi, MalformedError, UnavailableError
from airflow_mqtt.bridge.store import SqlTx
from airflow_mqtt.database.engine import Database
from airflow_mqtt.database.records import Job

log = logging.getLogger(__name__)

#: What Airflow answers when a task should not be running: see `_send_heartbeat_if_needed` in
#: `airflow.sdk.execution_time.supervisor`.
STOP: Final = frozenset({404, 409, 410})


async def beat(database: Database, api: ExecutionApi, stop: Callable[[Job, str], Awaitable[None]]) -> None:
    """Heartbeat all running tasks once; call `stop` with the reason for those that Airflow wants ended.

    An error is raised as it is, and after the other tasks had their heartbeats.
    """
    async with database.read() as connection:
        tasks = await SqlTx(connection, database.team_name).running_tasks()
    slots = asyncio.Semaphore(HEARTBEATS)

    async def one(job: Job, token: str) -> None:
        async with slots:
            await _beat_one(job, token, api, stop)

    for error in await asyncio.gather(*(one(job, token) for job, token in tasks), return_exceptions=True):
        if error is not None:
            raise error


async def _beat_one(job: Job, token: str, api: ExecutionApi, stop: Callable[[Job, str], Awaitable[None]]) -> None:
    try:
        response = await api.heartbeat(job, token)
    except (UnavailableError, MalformedError) as error:
        log.warning("heartbeat of job %s: %.300r", job.id, str(error))
        return
    if response.status_code in STOP:
        await stop(job, f"airflow: heartbeat answered {response.status_code}")
    elif response.status_code >= 400:
        log.warning("heartbeat of job %s: status %d: %.200r", job.id, response.status_code, response.text)
