"""What a task asks of this executor in its `executor_config`, under the key "mqtt". Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from airflow_mqtt.config.settings import durations
from airflow_mqtt.database import labels
from airflow_mqtt.database.labels import Labels
from airflow_mqtt.protocol.errors import PayloadError, SettingError

#: The key of ours. Other executors have theirs, and a task may be given to any.
KEY: Final = "mqtt"

#: In `[mqtt] start_within` it stands for all queues that are not named.
EVERY: Final = "*"

_LABELS: Final = "labels"
_START_WITHIN: Final = "start_within"

_MAX_SECONDS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Options:
    """`start_within` is in seconds; None: as its queue says, 0: no deadline."""

    labels: Labels = ()
    start_within: float | None = None


def read(executor_config: Any) -> Options:
    """Return what a task asks for. Raises `PayloadError`, with what to write instead."""
    asked = executor_config.get(KEY) if isinstance(executor_config, Mapping) else None
    if asked is None:
        return Options()
    if not isinstance(asked, Mapping):
        raise PayloadError(_wrong(f"it is {str(asked)[:40]!a}"))
    if unknown := [key for key in asked if key not in (_LABELS, _START_WITHIN)]:
        raise PayloadError(_wrong(f"there is no {str(unknown[0])[:40]!a}"))
    try:
        seconds = _seconds(asked[_START_WITHIN]) if _START_WITHIN in asked else None
        return Options(labels.checked(asked.get(_LABELS, {})), seconds)
    except PayloadError as error:
        raise PayloadError(_wrong(str(error))) from None


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PayloadError(f"start_within is a number of seconds, not {str(value)[:40]!a}")
    if not 0 <= value <= _MAX_SECONDS:
        raise PayloadError(f"start_within is 0 to {_MAX_SECONDS:.0f} seconds")
    return float(value)


def _wrong(what: str) -> str:
    example = '{"mqtt": {"labels": {"camera": "yes"}, "start_within": 600}}'
    return f"the task's executor_config cannot be understood: {what}; it is written like {example}"


def start_within(text: str) -> dict[str, float]:
    """Return queue -> seconds of the option `[mqtt] start_within`. Raises `SettingError`."""
    try:
        return durations(text)
    except (SettingError, ValueError) as error:
        raise SettingError(
            f"[mqtt] start_within: {error}; allowed: queue=seconds,…, such as gateways=600,*=0"
        ) from None


def deadline(options: Options, queue: str, by_queue: Mapping[str, float], now: float) -> float | None:
    """Return by when a job that is queued `now` must have begun, if it must."""
    of_queue = by_queue.get(queue, by_queue.get(EVERY, 0.0))
    seconds = of_queue if options.start_within is None else options.start_within
    return now + seconds if seconds else None
