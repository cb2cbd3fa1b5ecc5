"""Runs connection tests. The call by which the SDK gets the connection, once, is their start gate."""

from pathlib import Path
from typing import Any

from airflow_mqtt.worker.runner import compat
from airflow_mqtt.worker.runner.outcome import Outcome


def run(workload: dict[str, Any], client: Any, _log_path: Path) -> Outcome:
    return Outcome(compat.run_connection_test(workload, client))
