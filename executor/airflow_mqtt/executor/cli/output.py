"""What the commands print. Devices choose some of the words: see `config.printing`."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from airflow.cli.simple_table import AirflowConsole
from rich.markup import escape

from airflow_mqtt.config.printing import plain


class _Console(AirflowConsole):  # type: ignore[misc]
    """Airflow's, which leaves a pipe that is closed to `command`."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def print_rows(rows: Sequence[dict[str, Any]], output: str) -> None:
    """Print `rows` as Airflow's own commands do. JSON and YAML escape for themselves."""
    if output == "table":
        rows = [_each(row, lambda text: escape(plain(text))) for row in rows]
    elif output == "plain":
        rows = [_each(row, plain) for row in rows]
    _Console().print_as(data=rows, output=output)


def print_parts(whole: dict[str, Any], parts: Sequence[Sequence[dict[str, Any]]], output: str) -> None:
    """Print one thing: for programs as one document, `whole`, and for people as a table for each of `parts`."""
    if output == "json":
        _Console().print_as_json(whole)
    elif output == "yaml":
        _Console().print_as_yaml(whole)
    else:
        for rows in filter(None, parts):
            print_rows(rows, output)


def _each(row: dict[str, Any], harmless: Callable[[str], str]) -> dict[str, Any]:
    return {name: _value(value, harmless) for name, value in row.items()}


def _value(value: Any, harmless: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_value(item, harmless) for item in value]
    return harmless(value) if isinstance(value, str) else value


def say(text: str) -> None:
    """Answer in one line."""
    print(plain(text))  # noqa: T201 - a command's answer


def refuse(text: str) -> NoReturn:
    """End the command with one line and exit code 1."""
    raise SystemExit(plain(text))
