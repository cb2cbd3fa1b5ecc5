"""Rules by which a device takes itself out of service: `disk_free < 200 MB, temperature > 80`.

A condition holds from when its figure passes its limit until that is back by a margin, or passes the limit for the
way back. A figure that is not told changes nothing: what holds goes on to hold, and nothing begins.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from airflow_mqtt.protocol.errors import SettingError
from airflow_mqtt.protocol.messages import FIGURES, MAX_EXTRA_NAME, MAX_FIGURE

#: Of the limit, so much a figure must be back before a condition ends, where no other limit is given for that.
MARGIN: Final = 0.1

#: How many conditions a setting may have.
MAX_CONDITIONS: Final = 16

#: Figures that may be given as a part of another one, with %.
_WHOLE: Final[Mapping[str, str]] = {"memory_used": "memory_total", "disk_free": "disk_total"}

_SIZES: Final = frozenset({"memory_used", "memory_total", "disk_free", "disk_total", "link_in", "link_out", "journal"})

_UNITS: Final[Mapping[str, int]] = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip

#: Units that say what a figure is in anyhow.
_OWN_UNITS: Final[Mapping[str, frozenset[str]]] = {
    "cpu": frozenset({"", "%"}),
    "battery": frozenset({"", "%"}),
    "temperature": frozenset({"", "c", "°c"}),
    "uptime": frozenset({"", "s"}),
}

_CONDITION: Final = re.compile(r"([A-Za-z_][\w.]*)\s*([<>])\s*(-?\d+(?:\.\d+)?)\s*(%|°?[A-Za-z]*)")

EXTRA: Final = "extra."


@dataclass(frozen=True, slots=True)
class Condition:
    """`name` is a figure, or `extra.` and one of the site's own. `limit` is in its unit, or in percent `of` another."""

    name: str
    above: bool
    limit: float
    of: str = ""

    def value(self, figures: Mapping[str, Any]) -> float | None:
        """Return the figure as the limit is given; None when it is not told, or is a text."""
        is_own = self.name.startswith(EXTRA)
        found = figures.get("extra", {}).get(self.name[len(EXTRA) :]) if is_own else figures.get(self.name)
        if not isinstance(found, (int, float)):
            return None
        if not self.of:
            return float(found)
        whole = figures.get(self.of)
        return 100.0 * found / whole if whole else None

    def passed(self, value: float) -> bool:
        return value > self.limit if self.above else value < self.limit

    def back(self, value: float) -> bool:
        """Whether `value` is back from beyond the limit by the margin."""
        margin = MARGIN * abs(self.limit)
        return value <= self.limit - margin if self.above else value >= self.limit + margin

    def __str__(self) -> str:
        return f"{self.name} {'>' if self.above else '<'} {self._shown(self.limit)}"

    def said(self, value: float) -> str:
        """Say that `value` is why."""
        return f"{self} ({self._shown(value)})"

    def _shown(self, value: float) -> str:
        if self.of:
            return f"{value:.4g} %"
        if self.name in _SIZES:
            return f"{value / 10**6:.7g} MB"
        return f"{value:.7g}"


@dataclass(frozen=True, slots=True)
class Rules:
    """`when` any of these is passed the device takes no jobs, `until` each that held is back."""

    when: tuple[Condition, ...] = ()
    until: tuple[Condition, ...] = ()

    def decide(self, held: Mapping[Condition, str], figures: Mapping[str, Any]) -> dict[Condition, str]:
        """Return the conditions that hold now, each with why in words, from those that held before."""
        after = {}
        for condition in self.when:
            value = condition.value(figures)
            if condition in held:
                if value is None or not self._is_over(condition, value, figures):
                    after[condition] = held[condition]
            elif value is not None and condition.passed(value):
                after[condition] = condition.said(value)
        return after

    def _is_over(self, condition: Condition, value: float, figures: Mapping[str, Any]) -> bool:
        if condition.passed(value):
            return False
        back = [other for other in self.until if other.name == condition.name]
        values = [(other, other.value(figures)) for other in back]
        return (
            all(found is not None and other.passed(found) for other, found in values) if back else condition.back(value)
        )


def reason(held: Mapping[Condition, str]) -> str:
    return "; ".join(held.values())


def conditions(text: str) -> tuple[Condition, ...]:
    """Parse conditions that commas part; an empty text holds none. `SettingError` names the one that is wrong."""
    found = tuple(_condition(part.strip()) for part in text.split(",") if part.strip())
    if len(found) > MAX_CONDITIONS:
        raise SettingError(f"there are more than {MAX_CONDITIONS}")
    return found


def _condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise SettingError(f"{text[:80]!r} is not like `disk_free < 200 MB`")
    name, sign, number, unit = match.groups()
    if name not in FIGURES and not (name.startswith(EXTRA) and 0 < len(name) - len(EXTRA) <= MAX_EXTRA_NAME):
        raise SettingError(f"{name[:80]!r} is no figure; there are {', '.join(FIGURES)} and extra.NAME")
    limit = float(number)
    if unit == "%" and name in _WHOLE:
        return Condition(name, sign == ">", limit, _WHOLE[name])
    factor = _factor(name, unit)
    if factor is None or abs(limit * factor) > MAX_FIGURE:
        raise SettingError(f"{text[:80]!r} has no unit of {name}, or is too large")
    return Condition(name, sign == ">", limit * factor)


def _factor(name: str, unit: str) -> int | None:
    if name in _SIZES:
        return _UNITS.get(unit.lower())
    return 1 if unit.lower() in _OWN_UNITS.get(name, frozenset({""})) else None


def of(when: Sequence[Condition], until: Iterable[Condition]) -> Rules:
    """Return the rules; `SettingError` for a way back that does not lead back."""
    rules = Rules(tuple(when), tuple(until))
    for back in rules.until:
        begun = [condition for condition in rules.when if condition.name == back.name]
        if not begun:
            raise SettingError(f"maintenance_until: nothing in maintenance_when is about {back.name}")
        for condition in begun:
            if condition.above == back.above:
                raise SettingError(f"maintenance_until: {back} is no way back from {condition}")
            if condition.of == back.of and back.passed(condition.limit):
                raise SettingError(f"maintenance_until: {back} is so already when {condition} begins")
    return rules
