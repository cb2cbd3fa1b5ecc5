"""The lines that worker and runner add to a task's log: exceptions, and why Airflow refused a call."""

import traceback
from collections.abc import Iterator
from typing import Any

import orjson

from airflow_mqtt.protocol import task_log
from airflow_mqtt.protocol.messages import sanitise

#: Bounds of one line: it is our word on a task, not the task's own log.
MAX_ERRORS = 8
MAX_FRAMES = 50
MAX_NOTES = 8
MAX_BODY = 1000


def line(wall: float, level: str, text: str, logger: str, error: BaseException | None = None) -> bytes:
    """Return one line. `wall` is in seconds since the epoch; what led to `error` is listed below it."""
    return task_log.line(wall, level, text, logger, None if error is None else list(_errors(error)))


def _errors(error: BaseException | None) -> Iterator[dict[str, Any]]:
    is_cause = False
    for _ in range(MAX_ERRORS):
        if error is None:
            return
        yield _described(error, is_cause=is_cause)
        is_cause = error.__cause__ is not None
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _described(error: BaseException, *, is_cause: bool) -> dict[str, Any]:
    return {
        "exc_type": type(error).__name__,
        "exc_value": sanitise(_text(error)),
        "exc_notes": [sanitise(str(note)) for note in getattr(error, "__notes__", [])[:MAX_NOTES]],
        "syntax_error": None,
        "is_cause": is_cause,
        "frames": _frames(error),
        "is_group": False,
        "exceptions": [],
    }


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(it has no text)"


def _frames(error: BaseException) -> list[dict[str, Any]]:
    """Return the innermost frames of `error`, the outermost of them first."""
    found = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    return [
        {"filename": sanitise(frame.filename), "lineno": frame.lineno or 0, "name": sanitise(frame.name)}
        for frame in found
    ]


def refusal(method: str, path: str, status: int, body: str) -> str:
    """Return in one sentence that, and why, a call was refused. `path` is that of the Execution API."""
    what = "the start of the task" if method == "PATCH" and path.endswith("/run") else f"{method} {path}"
    return f"Airflow refused {what} with status {status}: {_why(body)}"


def _why(body: str) -> str:
    """Return what an answer of the Execution API gives as its reason (`detail`: a text, an object, or a list)."""
    try:
        detail = orjson.loads(body)["detail"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        detail = body
    if isinstance(detail, dict):
        before = f"the task is {detail['previous_state']}" if detail.get("previous_state") else ""
        told = [str(text) for text in (detail.get("reason"), before, detail.get("message")) if text]
        detail = ": ".join(told) or body
    text = detail if isinstance(detail, str) else orjson.dumps(detail).decode()
    return text[:MAX_BODY] or "it gave no reason"
