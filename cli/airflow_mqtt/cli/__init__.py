"""The command `airflow-mqtt`. The parts are imported when they are asked for: a device has no bridge."""

from airflow_mqtt.cli.main import main

__all__ = ["main"]
