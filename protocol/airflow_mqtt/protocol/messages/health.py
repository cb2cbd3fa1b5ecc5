"""What a device says of its health: figures by name, those of the site's own among them."""

from collections.abc import Mapping
from typing import Any, Final

from airflow_mqtt.protocol.messages import checks
from airflow_mqtt.protocol.messages.checks import Check, Real

#: What a device may say of its health: how many figures, how many of the site's own, and how long names and texts are.
MAX_FIGURES = 32
MAX_EXTRA = 16
MAX_EXTRA_NAME = 32
MAX_EXTRA_TEXT = 64

#: Characters of all names and texts of the site's own figures together: each health carries them over the link.
MAX_EXTRA_SIZE = 512

#: Figures of the site's own, on either side of zero.
MAX_FIGURE = 10**15

_percent = Real(0, 100)
_degrees = Real(-273, 10_000)
_figure = Real(-MAX_FIGURE, MAX_FIGURE)

#: The figures of a device's health that have a meaning of their own, and what each may be.
FIGURES: Final[Mapping[str, Check]] = {
    "cpu": _percent,
    "load": _figure,
    "memory_used": checks.size,
    "memory_total": checks.size,
    "disk_free": checks.size,
    "disk_total": checks.size,
    "temperature": _degrees,
    "battery": _percent,
    "uptime": checks.time,
    "link_in": checks.size,
    "link_out": checks.size,
    "journal": checks.size,
}


def is_extra(name: Any, value: Any) -> bool:
    """Whether `value` may be a figure, or a short text, of the site's own."""
    if not isinstance(name, str) or len(name) > MAX_EXTRA_NAME or not checks.text(name):
        return False
    return _figure(value) or (checks.text(value) and len(value) <= MAX_EXTRA_TEXT)


def extra_size(extra: Mapping[str, Any]) -> int:
    """Return what counts against `MAX_EXTRA_SIZE`."""
    return sum(len(name) + len(str(value)) for name, value in extra.items())


def _extra(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_EXTRA
        and all(is_extra(name, item) for name, item in value.items())
        and extra_size(value) <= MAX_EXTRA_SIZE
    )


def is_health(value: Any) -> bool:
    """Figures by name; one that is not known is of a newer device."""
    return (
        isinstance(value, dict)
        and len(value) <= MAX_FIGURES
        and all(
            _extra(item) if name == "extra" else FIGURES[name](item) if name in FIGURES else is_extra(name, item)
            for name, item in value.items()
        )
    )


def fitting(health: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a device's own figures has the form of `health`: a status with any other is refused."""
    return {name: value for name, value in health.items() if is_health({name: value})}
