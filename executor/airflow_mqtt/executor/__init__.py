"""What Airflow loads: `MqttExecutor`, the database manager, the log reader, the CLI group `airflow mqtt`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_mqtt.executor.executor import MqttExecutor

__all__ = ["MqttExecutor"]


def __getattr__(name: str) -> Any:
    """Import the executor, and with it Airflow, only when somebody asks for it.

    Airflow imports this package for its provider metadata in every command, before it is itself set up.
    """
    if name == "MqttExecutor":
        from airflow_mqtt.executor.executor import MqttExecutor  # noqa: PLC0415

        return MqttExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
