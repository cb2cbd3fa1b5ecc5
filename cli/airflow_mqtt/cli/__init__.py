"""The command `airflow-mqtt`. The parts are imported when they are asked for: a device has no bridge.

A *part* is one of the programs behind the command (`main.PARTS`): the module of its settings, and the module that runs
it. The command resolves the settings and hands them over; it writes nothing but lines for people, and holds nothing
that could race or be lost. The commands of `airflow mqtt` are not here: Airflow loads them
(`airflow_mqtt.executor.cli`).
"""

from airflow_mqtt.cli.main import main

__all__ = ["main"]
