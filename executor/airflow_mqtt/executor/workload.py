"""Airflow's workloads as rows of `mqtt_job`."""

import os
from dataclasses import dataclass
from typing import Any, Final

from airflow_mqtt.executor.core import Subject
from airflow_mqtt.protocol.messages import JobKind

#: Callbacks complete work that was begun, and go before all tasks (`BaseExecutor._get_workloads_to_schedule`).
CALLBACK_PRIORITY: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Who queues a workload, and how the job is called."""

    job_id: str
    owner: str
    team_name: str
    callback_queue: str
    now: float


def row_of(workload: Any, dispatch: Dispatch) -> dict[str, Any]:
    """Return the columns of the job that runs `workload` (`ExecuteTask` or `ExecuteCallback`)."""
    row = {
        "id": dispatch.job_id,
        "team_name": dispatch.team_name,
        "owner": dispatch.owner,
        "kind": JobKind.AIRFLOW.value,
        "workload_type": workload.type,
        # The device gets this document; the token stays with the bridge.
        "workload": workload.model_dump_json(exclude={"token"}),
        "token": workload.token,
        "token_at": dispatch.now,
        "log_path": os.fspath(workload.log_path or ""),
    }
    if workload.type == Subject.CALLBACK:
        return row | _callback_columns(workload.callback, dispatch.callback_queue)
    return row | _task_columns(workload.ti)


def _task_columns(ti: Any) -> dict[str, Any]:
    return {
        "subject": str(ti.id),
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": ti.map_index,
        "try_number": ti.try_number,
        "queue": ti.queue,
        "priority": ti.priority_weight,
        "slots": max(1, ti.pool_slots),
    }


def _callback_columns(callback: Any, queue: str) -> dict[str, Any]:
    # Airflow keeps no names of Dag and run with a callback, only where its log goes.
    return {"subject": str(callback.id), "queue": queue, "priority": CALLBACK_PRIORITY, "slots": 1}
