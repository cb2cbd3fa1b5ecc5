"""What Airflow's own configuration says in `[mqtt]`, read as Airflow reads it (`airflow._shared.configuration.parser`).

Airflow itself is not imported: the bridge's image does not hold it. What it has and we cannot is a secrets backend.
"""

import configparser
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from airflow_mqtt.config.printing import plain
from airflow_mqtt.config.settings import Setting, Source
from airflow_mqtt.protocol.errors import SettingError

#: A variable that names itself would be expanded for ever.
_EXPANSIONS: Final = 20

#: Seconds for a command that prints a secret. Airflow would wait for ever, and nobody would be told for what.
_COMMAND_TIMEOUT: Final = 60.0


def sources(settings: Sequence[Setting], environment: Mapping[str, str]) -> list[Source]:
    """Return what is said of `settings`, in Airflow's order: `AIRFLOW__MQTT__…`, then `[mqtt]` of `airflow.cfg`.

    Of a secret there may be, in either place, a command that prints it (`…_CMD`) or its name in Airflow's secrets
    backend (`…_SECRET`). Neither is looked at before the value is asked for. Keys that are not among `settings` are the
    executor's and are left alone.
    """
    names = [setting.name for setting in settings]
    secrets = [setting.name for setting in settings if setting.secret]
    home = environment.get("AIRFLOW_HOME", str(Path.home() / "airflow"))
    path = Path(environment.get("AIRFLOW_CONFIG", str(Path(home) / "airflow.cfg")))
    written = _mqtt_section(path, [*names, *(name + end for name in secrets for end in ("_cmd", "_secret"))])

    def variable(name: str) -> str:
        return f"AIRFLOW__MQTT__{name.upper()}"

    def in_environment(end: str, of: list[str]) -> dict[str, str]:
        return {name: found for name in of if (found := environment.get(variable(name + end)))}

    def in_file(end: str, of: list[str]) -> dict[str, str]:
        return {name: found for name in of if (found := written.get(name + end))}

    def named(end: str) -> Callable[[Setting], str]:
        return lambda setting: f"the environment variable {variable(setting.name + end)}"

    def placed(end: str) -> Callable[[Setting], str]:
        return lambda setting: f"[mqtt] {setting.name}{end} in {path}"

    return [
        Source(named(""), _Read(in_environment("", names), _expanded)),
        Source(named("_CMD"), _Read(in_environment("_CMD", secrets), _printed)),
        Source(named("_SECRET"), _Read(in_environment("_SECRET", secrets), _in_no_backend)),
        Source(placed(""), _Read(in_file("", names), _expanded)),
        Source(placed("_cmd"), _Read(in_file("_cmd", secrets), _printed)),
        Source(placed("_secret"), _Read(in_file("_secret", secrets), _in_no_backend)),
    ]


class _Read(Mapping[str, str]):
    """Values that are made of what is written when somebody asks for them: a command is not run for a flag's sake."""

    def __init__(self, written: Mapping[str, str], read: Callable[[str], str]) -> None:
        self._written = written
        self._read = read

    def __getitem__(self, name: str) -> str:
        return self._read(self._written[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._written)

    def __len__(self) -> int:
        return len(self._written)


def _mqtt_section(path: Path, names: list[str]) -> dict[str, str]:
    parser = configparser.ConfigParser(strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not parser.has_section("mqtt"):
        return {}
    return {name: value for name in names if (value := _interpolated(parser, name, path).strip())}


def _interpolated(parser: configparser.ConfigParser, name: str, path: Path) -> str:
    """Return the value as Airflow reads it: `%%` is a percent sign, `%(other)s` another value."""
    try:
        return parser.get("mqtt", name, fallback="")
    except configparser.InterpolationError:
        raise SettingError(
            f"[mqtt] {name} in {path}: a '%' is written '%%' there, as in all of airflow.cfg: Airflow itself cannot"
            " read this file"
        ) from None


def _expanded(value: str) -> str:
    """Expand variables and `~` until nothing changes, as Airflow's `expand_env_var` does."""
    for _ in range(_EXPANSIONS):
        if (expanded := os.path.expanduser(os.path.expandvars(value))) == value:  # noqa: PTH111  text, not always a path
            break
        value = expanded
    return value


def _printed(command: str) -> str:
    """Return what `command` prints, without the end of the line; no shell takes part, as with Airflow's `run_command`.

    What it printed before it failed may be the secret, and is not shown.
    """
    try:
        done = subprocess.run(  # noqa: S603  the site's own command
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SettingError(f"the command has not ended after {_COMMAND_TIMEOUT:g} s") from None
    except (OSError, ValueError, IndexError) as error:
        raise SettingError(f"the command cannot be run: {plain(str(error))}") from None
    if done.returncode:
        told = plain(done.stderr.decode(errors="replace").strip()[-200:]) or "it says nothing"
        raise SettingError(f"the command ended with exit code {done.returncode}: {told}")
    return done.stdout.decode(errors="replace").strip()


def _in_no_backend(_name: str) -> str:
    raise SettingError(
        "only Airflow itself can ask a secrets backend; give …_cmd instead, a command that prints the value"
    )
