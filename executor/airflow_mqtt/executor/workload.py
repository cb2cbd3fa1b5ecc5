"""Airflow's workloads as rows of `mqtt_job`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from airflow_mqtt.database import labels
from airflow_mqtt.executor import options
from airflow_mqtt.executor.options import Options
from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.kinds import Kind

#: Callbacks complete work that was begun, and go before all tasks (`BaseExecutor._get_workloads_to_schedule`). For a
#: connection test a person waits.
FIRST: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Who queues a workload, and how the job is called."""

    job_id: str
    owner: str
    team_name: str
    callback_queue: str
    default_queue: str
    now: float
    options: Options = Options()
    start_within: Mapping[str, float] = field(default_factory=dict)


def row_of(workload: Any, dispatch: Dispatch) -> dict[str, Any]:
    """Return the columns of the job that runs `workload`, which is of one of `kinds.KINDS`."""
    kind = kinds.of(workload.type)
    assert kind is not None
    row = {
        "id": dispatch.job_id,
        "team_name": dispatch.team_name,
        "owner": dispatch.owner,
        "kind": kind.runs_on.value,
        "workload_type": kind.workload,
        "subject": subject_of(kind, workload),
        # The device gets this document; the token stays with the bridge.
        "workload": workload.model_dump_json(exclude={"token"}),
        "token": workload.token,
        "token_at": dispatch.now,
        "log_path": os.fspath(getattr(workload, "log_path", None) or ""),
    }
    row |= _COLUMNS[kind](workload, dispatch)
    by = options.deadline(dispatch.options, row["queue"], dispatch.start_within, dispatch.now)
    return row | {"labels": labels.render(dispatch.options.labels), "not_after": by}


def options_of(workload: Any) -> Options:
    """Return what a task asks for; callbacks and tests of connections cannot. Raises `PayloadError`."""
    return options.read(getattr(getattr(workload, "ti", None), "executor_config", None))


def subject_of(kind: Kind, workload: Any) -> str:
    """Return the id that the token and the routes of `workload` name."""
    holder = getattr(workload, kind.holder) if kind.holder else workload
    return str(getattr(holder, kind.id))


def _task_columns(workload: Any, _: Dispatch) -> dict[str, Any]:
    ti = workload.ti
    return {
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": ti.map_index,
        "try_number": ti.try_number,
        "queue": ti.queue,
        "priority": ti.priority_weight,
        "slots": max(1, ti.pool_slots),
    }


def _callback_columns(_: Any, dispatch: Dispatch) -> dict[str, Any]:
    # Airflow keeps no names of Dag and run with a callback, only where its log goes.
    return {"queue": dispatch.callback_queue, "priority": FIRST, "slots": 1}


def _test_columns(workload: Any, dispatch: Dispatch) -> dict[str, Any]:
    return {"queue": workload.queue or dispatch.default_queue, "priority": FIRST, "slots": 1}


_COLUMNS: Final[dict[Kind, Callable[[Any, Dispatch], dict[str, Any]]]] = {
    kinds.TASK: _task_columns,
    kinds.CALLBACK: _callback_columns,
    kinds.CONNECTION_TEST: _test_columns,
}
