"""What Airflow loads of us as a plugin (entry point `airflow.plugins`).

Every process that loads plugins imports this module, also one that runs a single task on a device: nothing is imported
here, nor done in `on_load`, that an API server alone needs.
"""

from typing import Any

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from airflow_mqtt.executor import remote_logs


def is_configured() -> bool:
    """Whether `MqttExecutor` is among the executors here, by whatever alias and of whatever team."""
    return "airflow_mqtt.executor." in conf.get("core", "executor", fallback="")


class MqttPlugin(AirflowPlugin):  # type: ignore[misc]
    """Shows the logs of our tasks."""

    name = "mqtt"

    @classmethod
    def on_load(cls, *_args: Any, **_kwargs: Any) -> None:
        """Put our reader of logs in place."""
        if is_configured():
            remote_logs.put_in_place()
