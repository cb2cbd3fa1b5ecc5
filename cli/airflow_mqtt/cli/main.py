"""`airflow-mqtt worker run …`, `airflow-mqtt bridge run …` and `airflow-mqtt top …`; on the device `… worker status …`.

Exit codes: 0 done, 1 refused or failed while running, 2 a mistake in the settings. Those of a worker: `worker.main`.
"""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_mqtt.config.settings import ENV_PREFIX, Setting, Source, from_environment, from_table, resolve
from airflow_mqtt.protocol.errors import AirflowMqttError, RefusedError, SettingError

EXIT_REFUSED = 1
EXIT_SETTINGS = 2


PROG = "airflow-mqtt"


@dataclass(frozen=True, slots=True)
class Part:
    """One of the programs behind the command."""

    name: str
    summary: str
    settings: str  # module with SETTINGS
    main: str  # module with run(values)
    extra: str  # what to install where it is missing
    console: str = ""  # module with more actions: SETTINGS, add_actions(subparsers) and run(chosen, values)
    action: str = "run"  # the word behind its name, if there is one

    def command(self, action: str | None) -> str:
        return " ".join(filter(None, (PROG, self.name, action or self.action)))


PARTS = (
    Part(
        "worker",
        "Run Airflow's tasks on this machine, over nothing but MQTT.",
        "airflow_mqtt.worker.settings",
        "airflow_mqtt.worker.main",
        "airflow-mqtt",
        "airflow_mqtt.worker.console",
    ),
    Part(
        "bridge",
        "Connect Airflow's database and Execution API with the broker.",
        "airflow_mqtt.config.bridge",
        "airflow_mqtt.bridge.main",
        "airflow-mqtt[bridge]",
    ),
    Part(
        "top",
        "Look at fleet, queues and running jobs in the terminal, from the status topics alone. h shows the keys.",
        "airflow_mqtt.monitor.settings",
        "airflow_mqtt.monitor.main",
        "airflow-mqtt",
        action="",
    ),
)

#: Names that only `airflow.cfg [mqtt]` knows, and that may still be in a shared environment or file.
FOREIGN: frozenset[str] = frozenset({"config"})

EPILOG = (
    "Each setting is a flag, an environment variable " + ENV_PREFIX + "NAME, or a key NAME of the TOML file"
    " given with --config; a flag goes before the environment, and that before the file."
    " Exit codes: 0 done, 1 refused, 2 a wrong setting; of a worker also 3 name in use,"
    " 74 disk full, read-only or broken."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; `arguments` are those of the process if None. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except SettingError as error:
        print(f"airflow-mqtt: {error}", file=sys.stderr)  # noqa: T201  what a command line says
        return EXIT_SETTINGS
    except RefusedError as error:
        print(f"airflow-mqtt: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_REFUSED


def _run(given: list[str]) -> int:
    wanted = next((part for part in PARTS if given[:1] == [part.name]), None)
    module = _load(wanted) if wanted else None
    settings = module.SETTINGS if module else ()
    # Not for `run`: a worker has little memory to spare.
    console = _import(wanted.console, wanted) if wanted and wanted.console and given[1:2] != ["run"] else None
    parser = _parser(wanted, settings, console)
    chosen, unknown = parser.parse_known_args(given)
    command = wanted.command(getattr(chosen, "action", None)) if wanted else PROG
    if unknown:  # `parse_args` would point to the help of the whole command, which lists no flags
        # Not what they are given: behind a misspelt --broker-url that is a password.
        flags = [item.partition("=")[0] for item in unknown if item.startswith("-")]
        raise SettingError(f"unrecognized arguments: {' '.join(flags or unknown[:1])[:200]}; see {command} --help")
    if wanted is None:
        parser.print_help()
        return EXIT_SETTINGS
    if wanted.action and chosen.action is None:
        others = " or another" if wanted.console else ""
        raise SettingError(f"give `{wanted.action}`{others}: {command} …; see {PROG} {wanted.name} --help")
    if console and chosen.action != wanted.action:
        values = resolve(console.SETTINGS, _sources(console.SETTINGS, chosen, os.environ))
        code: int = console.run(chosen, values)
        return code
    sources = _sources(settings, chosen, os.environ)
    if more := getattr(module, "airflow_sources", None):  # a part that runs at the Airflow site
        sources += more(os.environ)
    values = resolve(settings, sources)
    run: Callable[[dict[str, Any]], int] = _import(wanted.main, wanted).run
    return run(values)


def _load(part: Part) -> Any:
    return _import(part.settings, part)


def _import(module: str, part: Part) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SettingError(
            f"the {part.name} needs {error.name}, which is not installed: pip install '{part.extra}'"
        ) from None


# --- flags ------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse would print the usage first."""

    def error(self, message: str) -> Any:
        raise SettingError(f"{message}; see {self.prog} --help")


def _parser(wanted: Part | None, settings: Sequence[Setting], console: Any = None) -> argparse.ArgumentParser:
    parser = _Parser(prog=PROG, description="Airflow where only MQTT reaches.", epilog=EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="Say the version.")
    parts = parser.add_subparsers(metavar="|".join(part.name for part in PARTS), parser_class=_Parser)
    for part in PARTS:
        about: dict[str, Any] = {"help": part.summary, "description": part.summary, "epilog": EPILOG}
        run = parts.add_parser(part.name, **about)
        if part.action:
            actions = run.add_subparsers(dest="action", metavar=part.action + "|…" * bool(part.console))
            run = actions.add_parser(part.action, **about)
        if part is wanted:
            _add_flags(run, settings)
        for other in console.add_actions(actions) if console and part is wanted else ():
            _add_flags(other, console.SETTINGS)
    return parser


def _add_flags(parser: argparse.ArgumentParser, settings: Sequence[Setting]) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings.")
    for setting in settings:
        default = f" Default: {setting.default}." if setting.default else ""
        needed = " Required." if setting.required else ""
        text = f"{setting.help}{needed}{default} Allowed: {setting.allowed}. [{setting.env}]"
        given: dict[str, Any] = {"nargs": "?", "const": "true"} if setting.switch else {}
        parser.add_argument(
            setting.flag, dest=setting.name, metavar=setting.name.upper(), help=text.replace("%", "%%"), **given
        )


class _Version(argparse.Action):
    """Looks the version up when it is asked for, since that costs memory."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        try:
            found = version("airflow-mqtt")
        except PackageNotFoundError:
            found = "(not installed)"
        print(f"airflow-mqtt {found}")  # noqa: T201
        parser.exit()


# --- sources ----------------------------------------------------------------------------------------------


def _sources(settings: Sequence[Setting], chosen: argparse.Namespace, environment: Mapping[str, str]) -> list[Source]:
    known = _Known(settings)
    flags = {setting.name: value for setting in settings if (value := getattr(chosen, setting.name)) is not None}
    sources = [
        Source(lambda setting: f"the flag {setting.flag}", flags),
        from_environment(settings, environment, known),
    ]
    file = chosen.config or environment.get(f"{ENV_PREFIX}CONFIG")
    if file:
        sources.append(from_table(settings, _read(file), file, known))
    return sources


class _Known(set[str]):
    """The names of all settings of all parts: one of another part is no mistake.

    The other part is only asked when a name turns up that is not ours, so that a worker does not load the bridge.
    """

    def __init__(self, ours: Sequence[Setting]) -> None:
        super().__init__({setting.name for setting in ours} | FOREIGN)
        self._complete = False

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name) and not self._complete:
            self._complete = True
            self._ask_parts()
        return super().__contains__(name)

    def _ask_parts(self) -> None:
        for part in PARTS:
            with contextlib.suppress(AirflowMqttError):  # not installed here
                self.update(setting.name for setting in _load(part).SETTINGS)


def _read(file: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415  few use a file, and it costs memory

    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"--config: {file} cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"--config: {file} is not TOML ({error})") from None
