"""Airflow's logging, with the logs of our workers in it.

On API servers, and on triggerers, set `[logging] logging_config_class` to
`airflow_mqtt.executor.logging_config.LOGGING_CONFIG`. A module of your own that starts from this one does as well.
"""

from typing import Any

from airflow.config_templates import airflow_local_settings

from airflow_mqtt.executor.task_log import MqttLogIO

LOGGING_CONFIG: dict[str, Any] = airflow_local_settings.DEFAULT_LOGGING_CONFIG

#: What `[logging] remote_logging` would use else keeps the logs that are not ours.
REMOTE_TASK_LOG = MqttLogIO(airflow_local_settings.REMOTE_TASK_LOG)

DEFAULT_REMOTE_CONN_ID: str | None = airflow_local_settings.DEFAULT_REMOTE_CONN_ID
