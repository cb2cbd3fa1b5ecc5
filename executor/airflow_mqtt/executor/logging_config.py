"""Airflow's logging, with the logs of our workers in it, for `[logging] logging_config_class`.

Where `MqttExecutor` is among the executors nothing need be set: the plugin puts the same reader in place. This is for
sites that have taken it out and still want to see its logs, and for a logging configuration that starts from here.
"""

from typing import Any

from airflow.config_templates import airflow_local_settings

from airflow_mqtt.executor.log_io import MqttLogIO

LOGGING_CONFIG: dict[str, Any] = airflow_local_settings.DEFAULT_LOGGING_CONFIG

#: What `[logging] remote_logging` would use else keeps the logs that are not ours.
REMOTE_TASK_LOG = MqttLogIO(airflow_local_settings.REMOTE_TASK_LOG)

DEFAULT_REMOTE_CONN_ID: str | None = airflow_local_settings.DEFAULT_REMOTE_CONN_ID
