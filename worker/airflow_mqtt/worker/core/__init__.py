"""The decisions of the worker, without a clock, a socket, a file, randomness or a logger.

`Core` is told what happened (a message, a call of a runner, the end of a runner, a signal, the time) and says what
to do about it, as effects. All that must outlive the process is among them, so a core can be built again from
what the journal holds; the simulation in `tests/simulation` does that all the time.
"""

from airflow_mqtt.worker.core.machine import Core
from airflow_mqtt.worker.core.state import Config, Restored

__all__ = ["Config", "Core", "Restored"]
