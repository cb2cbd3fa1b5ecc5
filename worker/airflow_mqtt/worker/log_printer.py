"""Prints the logs of tasks that are kept on the device, as text that is safe in a terminal."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import orjson

from airflow_mqtt.config.printing import plain
from airflow_mqtt.protocol.errors import RefusedError
from airflow_mqtt.worker import job_files
from airflow_mqtt.worker.job_files import JobFiles

#: Seconds between two looks at what is written.
PAUSE = 0.3

#: Bytes of a line that are kept until its end comes.
MAX_LINE = 1024 * 1024
READ_BYTES = 256 * 1024

#: Of a line, what is shown by its place or not at all.
_HIDDEN = frozenset({"timestamp", "level", "event", "logger", "error_detail", "filename", "lineno"})

Attempt = tuple[str, int]


@dataclass(slots=True)
class _Open:
    """A log that is read; it can be read on when its name is gone."""

    files: JobFiles
    file: IO[bytes]
    rest: bytes = b""

    def lines(self) -> list[bytes]:
        """Return the lines that are complete, as far as one look reads."""
        data = self.file.read(READ_BYTES)
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > MAX_LINE:
            lines, self.rest = [*lines, self.rest], b""
        return lines


class _Printer:
    """Puts a head before the lines of another log than the last, when there are several."""

    def __init__(self, names: Mapping[str, str], out: TextIO, *, heads: bool) -> None:
        self._names = names
        self._out = out
        self._heads = heads
        self._last: Attempt | None = None

    def print(self, log: _Open, lines: list[bytes]) -> None:
        attempt = (log.files.job, log.files.attempt)
        if lines and self._heads and attempt != self._last:
            self._last = attempt
            name = self._names.get(attempt[0], f"{attempt[0]} attempt {attempt[1]}")
            self._out.write(f"==> {plain(name)} <==\n")
        for line in lines:
            self._out.write(text_of(line) + "\n")


def follow(state_dir: Path, wanted: str, names: Mapping[str, str], out: TextIO, *, goes_on: bool) -> None:
    """Write the logs of jobs whose id begins with `wanted`, and what is added to them while it `goes_on`.

    That is as long as they are kept, or for ever where all are wanted. `RefusedError` when there is none.
    """
    printer = _Printer(names, out, heads=not wanted)
    logs: dict[Attempt, _Open] = {}
    found = _look(state_dir, wanted, logs)
    if not found and (wanted or not goes_on):
        raise RefusedError(_nothing(state_dir, wanted))
    while True:
        news = False
        for log in logs.values():
            lines = log.lines()
            news = news or bool(lines)
            printer.print(log, lines)
        if news:
            continue
        for attempt in [attempt for attempt in logs if attempt not in found]:
            logs.pop(attempt).file.close()
        if not goes_on or (wanted and not found):
            break
        out.flush()
        time.sleep(PAUSE)
        found = _look(state_dir, wanted, logs)
    for log in logs.values():
        printer.print(log, [log.rest] if log.rest else [])


def _look(state_dir: Path, wanted: str, logs: dict[Attempt, _Open]) -> set[Attempt]:
    """Open the logs that are new; return the attempts that are kept now."""
    found = set()
    for files in job_files.directories(state_dir):
        if not files.job.startswith(wanted):
            continue
        attempt = (files.job, files.attempt)
        found.add(attempt)
        if attempt not in logs and (file := files.open_log()) is not None:
            logs[attempt] = _Open(files, file)
    return found


def _nothing(state_dir: Path, wanted: str) -> str:
    kept = sorted({files.job for files in job_files.directories(state_dir)})
    if not wanted or not kept:
        return f"no job's log is kept in {plain(str(state_dir))}; what was sent and acknowledged is deleted here"
    return f"no job that begins with {plain(wanted)!r} is kept here; there are {plain(', '.join(kept[:10]))}"


def text_of(line: bytes) -> str:
    """Return a line of a task's log for people: time, level, text, and what else it says."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        entry = None
    if not isinstance(entry, dict) or "event" not in entry:
        return plain(line.decode(errors="replace"))
    more = [f"{name}={value}" for name, value in entry.items() if name not in _HIDDEN]
    words = [str(entry.get("timestamp", "")), f"{entry.get('level', '')!s:<8}", str(entry["event"]), *more]
    return "\n".join([plain(" ".join(filter(None, words))), *_errors(entry.get("error_detail"))])


def _errors(detail: Any) -> list[str]:
    errors = [error for error in detail if isinstance(error, dict)] if isinstance(detail, list) else []
    return [plain(f"    {error.get('exc_type')}: {error.get('exc_value')}") for error in errors]
