"""Settings: one declaration each, read from flags, environment, a TOML file, and `airflow.cfg`.

`resolve` is pure: it is given what the sources hold. The order is the one people know from other tools: a flag
goes before the environment, that before the file, that before `airflow.cfg [mqtt]`, that before the default.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from airflow_mqtt.protocol.errors import SettingError

ENV_PREFIX: Final = "AIRFLOW_MQTT_"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `parse` turns text into its value and raises `SettingError`, `ValueError` or `OSError`.

    Of a `switch` the flag alone means true.
    """

    name: str
    parse: Callable[[str], Any]
    allowed: str
    help: str
    default: str | None = None
    required: bool = False
    secret: bool = False
    switch: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()


@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from: `label` names it in errors, `values` maps setting names to texts.

    To look one up may raise `SettingError`, where it has to be fetched.
    """

    label: Callable[[Setting], str]
    values: Mapping[str, str]


def resolve(settings: Sequence[Setting], sources: Sequence[Source]) -> dict[str, Any]:
    """Return a value for each of `settings`, from the first of `sources` that has it.

    Raises `SettingError` for the first setting that is missing or malformed.
    """
    return {setting.name: _value(setting, sources) for setting in settings}


def _value(setting: Setting, sources: Sequence[Source]) -> Any:
    for source in sources:
        text = _found(setting, source)
        if text is not None:
            return _parsed(setting, text, source.label(setting))
    if setting.default is not None:
        return _parsed(setting, setting.default, "its default")
    if setting.required:
        raise SettingError(
            f"{setting.name} is missing: give {setting.flag}, {setting.env} or {setting.name} in the file"
            f" of --config; allowed: {setting.allowed}"
        )
    return None


def _found(setting: Setting, source: Source) -> str | None:
    try:
        return source.values.get(setting.name)
    except SettingError as error:  # it had to be fetched from elsewhere
        raise SettingError(f"{setting.name} from {source.label(setting)}: {error}") from None


def _parsed(setting: Setting, text: str, where: str) -> Any:
    try:
        return setting.parse(text)
    except (SettingError, ValueError, OSError) as error:  # OSError: a path that cannot be looked at
        shown = "a value" if setting.secret else repr(text[:120])
        detail = f" ({error})" if isinstance(error, SettingError) else ""
        raise SettingError(
            f"{setting.name} from {where}: {shown} does not fit{detail}; allowed: {setting.allowed}"
        ) from None


def from_environment(settings: Sequence[Setting], environment: Mapping[str, str], known: set[str]) -> Source:
    """Return the values of `AIRFLOW_MQTT_…` variables.

    `known` holds the names of all settings of all commands: a variable that is none of them is a mistake worth
    stopping for, one that is another command's is not.
    """
    values = {}
    names = {setting.env: setting.name for setting in settings}
    for variable, text in environment.items():
        if variable in names:
            values[names[variable]] = text
        elif variable.startswith(ENV_PREFIX) and variable.removeprefix(ENV_PREFIX).lower() not in known:
            raise SettingError(
                f"{variable} in the environment is no setting; allowed: "
                + ", ".join(sorted(setting.env for setting in settings))
            )
    return Source(lambda setting: f"the environment variable {setting.env}", values)


def from_table(settings: Sequence[Setting], table: Mapping[str, Any], path: str, known: set[str]) -> Source:
    """Return the values of a TOML file's top level table; lists and numbers are taken as they would be typed."""
    values = {}
    names = {setting.name for setting in settings}
    for key, item in table.items():
        if key in names:
            values[key] = _typed(item)
        elif key not in known:
            raise SettingError(f"{key[:120]!r} in {path} is no setting; allowed: {', '.join(sorted(names))}")
    return Source(lambda setting: f"{setting.name} in {path}", values)


def _typed(item: Any) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, list):
        return ",".join(_typed(part) for part in item)
    if isinstance(item, dict):
        return ",".join(f"{key}={_typed(part)}" for key, part in item.items())
    return str(item)


# --- parsers ----------------------------------------------------------------------------------------------


def text(value: str) -> str:
    if not value.strip():
        raise SettingError("it is empty")
    return value.strip()


def matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise SettingError("it has other characters, or is too long")
        return value

    return parse


def expanded(value: str) -> Path:
    """Return `value` as a path, with `~` resolved."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise SettingError("there is no such user, or no home directory") from None


def existing_file(value: str) -> Path:
    path = expanded(text(value))
    if not path.is_file():
        raise SettingError("there is no such file")
    return path


def flag(value: str) -> bool:
    if value.strip().lower() in _TRUE:
        return True
    if value.strip().lower() in _FALSE:
        return False
    raise SettingError("it is neither true nor false")


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise SettingError("it is out of range")
        return number

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        number = float(value)
        if not low <= number <= high:
            raise SettingError("it is out of range")
        return number

    return parse


def choice(*options: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in options:
            raise SettingError("it is none of them")
        return value

    return parse


def names(value: str) -> tuple[str, ...]:
    """A comma-separated list, in order, without repeats."""
    items = tuple(dict.fromkeys(item.strip() for item in value.split(",") if item.strip()))
    if not items:
        raise SettingError("it is empty")
    return items


def pairs(value: str) -> dict[str, str]:
    """`key=value` pairs, comma-separated; an empty text gives none."""
    found = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        key, equals, rest = item.partition("=")
        if not equals or not key.strip():
            raise SettingError(f"{item[:120]!r} is not key=value")
        found[key.strip()] = rest.strip()
    return found


def durations(value: str) -> dict[str, float]:
    """`name=seconds` pairs, comma-separated; any number of seconds from 0 on."""
    parse = seconds(0, 1e10)
    return {key: parse(item) for key, item in pairs(value).items()}
