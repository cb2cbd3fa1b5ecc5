"""Text for a terminal, by the cells that it takes. Devices choose some of the words: made harmless here."""

import unicodedata
from typing import Final

from airflow_mqtt.config.printing import plain

#: What a text ends with that was cut.
CUT: Final = "…"

#: Marks that one character may carry. Some scripts use two; a thousand would be drawn over other lines.
_MARKS: Final = 2

#: Characters that are looked at for each cell that there is room for.
_LOOKED_AT: Final = 1 + _MARKS

#: They change how wide the character before them is, and terminals do not agree on how.
_SELECTORS: Final = frozenset({*map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))})


def width(text: str) -> int:
    """Return how many cells `text` takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def fit(text: str, size: int, *, right: bool = False) -> str:
    """Return `text` on one line of exactly `size` cells: without control characters, cut or filled up with blanks."""
    shown = cut(text, size)
    blanks = " " * (size - width(shown))
    return blanks + shown if right else shown + blanks


def cut(text: str, size: int) -> str:
    """Return `text` on one line of at most `size` cells."""
    shown = plain(text[: _LOOKED_AT * size + 1])
    if not shown.isascii():
        shown = _composed(shown)
    if width(shown) <= size:
        return shown
    if size < 1:
        return ""
    return _beginning(shown, size - 1) + CUT


def _composed(text: str) -> str:
    """Return `text` with as few marks as it can be written with, and no more of them in a row than `_MARKS`."""
    kept: list[str] = []
    marks = 0
    for one in unicodedata.normalize("NFC", text):
        marks = 0 if _cells(one) else marks + 1
        if marks <= (_MARKS if kept else 0) and one not in _SELECTORS:
            kept.append(one)
    return "".join(kept)


def _beginning(text: str, size: int) -> str:
    kept: list[str] = []
    for one in text:
        size -= _cells(one)
        if size < 0:
            break
        kept.append(one)
    return "".join(kept)


def _cells(one: str) -> int:
    if unicodedata.category(one) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(one) in ("W", "F") else 1
