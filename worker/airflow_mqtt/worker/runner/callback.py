"""Runs callbacks. The SDK makes no call before their code, so the start gate is a request of our own."""

from pathlib import Path
from typing import Any

from airflow_mqtt.protocol import execution_api, kinds
from airflow_mqtt.protocol.messages import sanitise
from airflow_mqtt.worker.runner import compat
from airflow_mqtt.worker.runner.outcome import Outcome


def run(workload: dict[str, Any], client: Any, log_path: Path) -> Outcome:
    client.patch(execution_api.gate_of(kinds.CALLBACK, workload["callback"]["id"]), content="{}")
    try:
        return Outcome(compat.run_callback(workload, client, log_path))
    except RuntimeError as error:  # so says the SDK that the callback's own code failed
        return Outcome(1, sanitise(str(error)))
