"""What Airflow's log page takes: `StructuredLogMessage`, and the entries of `error_detail` that its UI goes through."""

import json
from datetime import datetime
from typing import Any

LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})
FIELDS = {"timestamp": str, "level": str, "event": str, "logger": str}
ERROR = {
    "exc_type": str,
    "exc_value": str,
    "exc_notes": list,
    "syntax_error": type(None),
    "is_cause": bool,
    "frames": list,
    "is_group": bool,
    "exceptions": list,
}
FRAME = {"filename": str, "lineno": int, "name": str}


def check(line: bytes) -> dict[str, Any]:
    """Return the entry in a line of ours, which has exactly these fields and types."""
    assert line.count(b"\n") <= 1
    entry = json.loads(line)
    errors = entry.get("error_detail", [])
    _fits({name: value for name, value in entry.items() if name != "error_detail"}, FIELDS)
    assert entry["level"] in LEVELS
    assert datetime.fromisoformat(entry["timestamp"]).tzinfo is not None
    assert isinstance(errors, list)
    for error in errors:
        _fits(error, ERROR)
        assert all(isinstance(note, str) for note in error["exc_notes"])
        for frame in error["frames"]:
            _fits(frame, FRAME)
    return entry


def _fits(found: dict[str, Any], wanted: dict[str, type]) -> None:
    assert {name: type(value) for name, value in found.items()} == wanted
