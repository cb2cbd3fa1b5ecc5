"""What is shown to a person in a terminal, in tables and logs. Devices choose some of the words: made harmless here."""

import logging
import sys
from typing import Any


def plain(text: str) -> str:
    """Return `text` without what moves a cursor, begins a line or turns the direction of writing: escaped instead."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class PlainFormatter(logging.Formatter):
    """One line for each record, whatever words are in it; those of a traceback stay lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        record.message = plain(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(plain, super().formatException(ei).split("\n")))


def log_to_stderr(level: str, form: str) -> None:
    """Log what is of `level` and above, in the form of `logging.Formatter`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler])
