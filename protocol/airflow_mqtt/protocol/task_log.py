"""The lines that we add to a task's log, as Airflow 3.1 to 3.3 show them. Bridge, executor and worker make them here.

Airflow's reader takes any object with `event` (`airflow.utils.log.file_task_handler.StructuredLogMessage`). But its UI
goes through `error_detail` as a list, and a text there breaks the whole page.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from airflow_mqtt.protocol.messages import sanitise

#: How long a line may be to be shown, in characters, and to be kept on a device, in bytes.
LONGEST: Final = 64 * 1024

#: What an entry keeps however much else is in it.
_NEEDED: Final = ("timestamp", "level", "logger", "event")

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


def fitted(entry: bytes) -> bytes:
    """Return an entry of a task's log, without its end of line, and in place of one above `LONGEST` a shorter one.

    Its texts are cut, each where it says so, or with very many of them all but what an entry needs is left out. What is
    no entry stays as it is.
    """
    if len(entry) <= LONGEST:
        return entry
    try:
        whole = orjson.loads(entry)
    except orjson.JSONDecodeError:
        return entry
    if not isinstance(whole, dict):
        return entry
    most = LONGEST
    while (most := most // 2) > 100:
        if len(short := orjson.dumps(_cut(whole, most))) <= LONGEST:
            return short
    return orjson.dumps(_cut({name: whole[name] for name in _NEEDED if isinstance(whole.get(name), str)}, most))


def _cut(value: Any, most: int) -> Any:
    """Return a value of JSON whose texts are of at most `most` characters, and a word on how many more there were."""
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[:most]} … ({len(value) - most} characters are left out)"
    if isinstance(value, list):
        return [_cut(one, most) for one in value]
    if isinstance(value, dict):
        return {name: _cut(one, most) for name, one in value.items()}
    return value
