"""The lines that we add to a task's log, as Airflow 3.1 to 3.3 show them. Bridge, executor and worker make them here.

Airflow's reader takes any object with `event` (`airflow.utils.log.file_task_handler.StructuredLogMessage`). But its UI
goes through `error_detail` as a list, and a text there breaks the whole page.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from airflow_mqtt.protocol.messages import sanitise

#: The last moment that `datetime` knows, less a day: a clock may say anything.
_LATEST = 253_402_214_400.0


def stamp(wall: float) -> str:
    """Return a time, in seconds since the epoch, as a log has it."""
    return datetime.fromtimestamp(min(max(0.0, wall), _LATEST), UTC).isoformat().replace("+00:00", "Z")


def line(at: float | str, level: str, text: str, logger: str, errors: Sequence[dict[str, Any]] | None = None) -> bytes:
    """Return one line. `at` is in seconds since the epoch, or as a log has it; `errors` are listed below the line.

    An entry of `errors` is what structlog's `ExceptionDictTransformer` makes, by which the Task SDK writes its own.
    """
    when = at if isinstance(at, str) else stamp(at)
    entry: dict[str, Any] = {"timestamp": when, "level": level, "event": sanitise(text), "logger": logger}
    if errors is not None:
        entry["error_detail"] = errors
    return orjson.dumps(entry) + b"\n"
