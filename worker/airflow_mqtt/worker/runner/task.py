"""Runs tasks: the SDK's supervisor makes all calls, the start gate first."""

from pathlib import Path
from typing import Any

from airflow_mqtt.worker.runner import compat
from airflow_mqtt.worker.runner.outcome import Outcome


def run(workload: dict[str, Any], client: Any, log_path: Path) -> Outcome:
    return Outcome(compat.run_task(workload, client, log_path))
