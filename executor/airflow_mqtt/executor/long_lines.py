"""Lines of a log that are too long to be shown: one of Airflow's entries stays one, with its time and level. Pure."""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from airflow_mqtt.protocol.task_log import LONGEST

#: Characters of a line that are shown, and kept in memory while its end has not come.
LINE: Final = LONGEST

#: Characters around the place where a long line is cut, and at its end, in which what an entry needs is looked for.
_TAIL: Final = 4096

_NEEDED: Final = ("timestamp", "level", "logger")

_KEY: Final = re.compile(r'[{,]\s*"(\w+)"\s*:\s*')
_VALUE: Final = json.JSONDecoder()


class Line:
    """One line that comes in pieces.

    What begins as an entry does, a JSON object, becomes one entry. Any other that is longer than `LINE` is shown as
    several lines, which begin at the same places however the pieces are cut.
    """

    def __init__(self) -> None:
        self._held: list[str] = []  # joined rarely, since that takes as long as it has become
        self._size = 0
        self._is_text = False
        self._beyond = 0  # characters past the head of an entry
        self._next = ""  # the first of them: a value may be cut in two
        self._tail = ""

    def add(self, text: str) -> list[str]:
        """Take the next piece, and return what of the line can be shown already."""
        if self._beyond:
            self._drop(text)
            return []
        self._held.append(text)
        self._size += len(text)
        if self._size <= LINE:
            return []
        whole = "".join(self._held)
        if whole.startswith("{") and not self._is_text:
            self._held = [whole[:LINE]]
            self._drop(whole[LINE:])
            return []
        self._is_text = True
        *full, rest = pieces(whole)
        self._held, self._size = [rest], len(rest)
        return full

    def _drop(self, text: str) -> None:
        self._beyond += len(text)
        self._next += text[: _TAIL - len(self._next)]
        self._tail = (self._tail + text)[-_TAIL:]

    def end(self) -> list[str]:
        """Return what has not been shown: the line has its end. Nothing has come of it when this is ['']."""
        whole = "".join(self._held)
        return [shortened(whole, (self._next, self._tail), self._beyond)] if self._beyond else pieces(whole)


def pieces(line: str) -> list[str]:
    return [line[start : start + LINE] for start in range(0, len(line) or 1, LINE)]


def shortened(head: str, seen: tuple[str, str], beyond: int) -> str:
    """Return an entry in place of one that begins with `head`, and goes on for `beyond` characters.

    `seen` are the first of these, and the last.
    """
    entry = dict(_fields(head))
    for name in _NEEDED:
        wanted = re.compile(rf'"{name}"\s*:\s*"([^"\\]*)"')
        found = [*wanted.findall(head[-_TAIL:] + seen[0]), *wanted.findall(seen[1])]
        if name not in entry and found:
            entry[name] = found[-1]
    entry["event"] = f"{entry.get('event', '')} … ({beyond} characters of this line are not shown)"
    return json.dumps(entry)


def _fields(head: str) -> Iterable[tuple[str, Any]]:
    """Yield the fields of an object that is cut off: those that are whole, and of `event` as much as is there."""
    position = 0
    while (key := _KEY.match(head, position)) is not None:
        try:
            value, position = _VALUE.raw_decode(head, key.end())
        except (ValueError, RecursionError):
            if key[1] == "event" and head[key.end() : key.end() + 1] == '"':
                yield "event", _begun(head[key.end() :])
            return
        yield key[1], _plain(value)


def _begun(quoted: str) -> str:
    """Return the text that `quoted` begins; its last character may be an escape that is cut in two."""
    for cut in range(13):
        try:
            return str(_plain(json.loads(quoted[: len(quoted) - cut] + '"')))
        except ValueError:
            continue
    return ""


def _plain(value: Any) -> Any:
    """Halves of surrogates, which JSON has and text has not, are replaced."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
