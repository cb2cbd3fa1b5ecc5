"""Where Airflow asks for the logs of tasks, and our reader in that place.

Not in `compat`, which needs Airflow's models: `put_in_place` runs in processes that read no log and should stay small,
and what it puts there is asked for by each supervisor of a task.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from airflow_mqtt.executor.log_io import MqttLogIO


def reader() -> Any:
    """Return what reads the logs of tasks in this process beside their executors, or None."""
    from airflow import logging_config  # noqa: PLC0415 - it is being imported when our logging_config is

    if _asks_a_function(logging_config):
        return logging_config.get_remote_task_log()
    return getattr(logging_config, "REMOTE_TASK_LOG", None)


def put_in_place() -> None:
    """Have Airflow ask our tables, too, wherever it asks for logs that are kept elsewhere.

    From 3.2 on, what finds the site's own reader is wrapped, not what it has found: Airflow looks for that when the
    first log is read, and again when its logging is configured anew.
    """
    from airflow import logging_config  # noqa: PLC0415 - see `reader`

    if _asks_a_function(logging_config):
        from airflow.sdk import log  # noqa: PLC0415 - triggerers upload by it

        logging_config.get_remote_task_log = _with_ours(logging_config.get_remote_task_log)
        log.load_remote_log_handler = _with_ours(log.load_remote_log_handler)
    else:  # 3.1 has found it by now, and its Task SDK looks here, too
        logging_config.REMOTE_TASK_LOG = _ours(logging_config.REMOTE_TASK_LOG)
    for handler in logging.getLogger("airflow.task").handlers:
        _have_ask(handler)


def _have_ask(handler: Any) -> None:
    """Have a handler that reads logs its own way (Elasticsearch, OpenSearch) read ours as Airflow itself does."""
    base: Any = next((one for one in type(handler).__mro__ if one.__name__ == "FileTaskHandler"), None)
    if base is None or type(handler)._read is base._read:  # noqa: SLF001 - what Airflow has its providers override
        return
    own = handler._read  # noqa: SLF001

    @functools.wraps(own)
    def read(ti: Any, try_number: int, metadata: Any = None) -> Any:
        from airflow_mqtt.executor.log_reader import is_ours  # noqa: PLC0415 - only where a log is read

        if is_ours(ti, try_number):
            return base._read(handler, ti, try_number, metadata)  # noqa: SLF001
        return own(ti, try_number, metadata)

    handler._read = read  # noqa: SLF001


def _asks_a_function(logging_config: Any) -> bool:
    # Not `hasattr`: the module of 3.1 answers None for any name.
    return "get_remote_task_log" in vars(logging_config)


def _with_ours(find: Callable[[], Any]) -> Callable[[], Any]:
    @functools.wraps(find)
    def found() -> Any:
        return _ours(find())

    return found


def _ours(other: Any) -> Any:
    """Return our reader in front of the `other`: in place of None, and of itself."""
    return other if isinstance(other, MqttLogIO) else MqttLogIO(other)
