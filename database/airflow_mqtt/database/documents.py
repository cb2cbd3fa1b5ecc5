"""What stands in the documents of a worker's row, which are JSON as text: `info`, `status` and `desired`. Pure.

Only the bridge and operators write them, but a row that is damaged all the same, by hand or by a disk, must hide no
other: what cannot be read of it is left out, and said.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson


def _is_list_of_texts(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


#: What whoever looks at workers reads of them, and what it must be, if it is there.
_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "queues": _is_list_of_texts, "kinds": _is_list_of_texts, "labels": _is(dict), "platform": _is(dict),
    "health": _is(dict), "slots": _is(int), "version": _is(str), "reason": _is(str), "own_maintenance": _is(bool),
}  # fmt: skip


def read(document: str) -> dict[str, Any]:
    """Return a document; an empty one in place of one that nobody can read."""
    try:
        found = orjson.loads(document)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def sound(document: str) -> dict[str, Any]:
    """Return what of a document is what it must be. What is null is left out."""
    return {name: value for name, value in read(document).items() if value is not None and _fits(name, value)}


def is_damaged(document: str) -> bool:
    """Whether not all of it can be read, here and in SQL; PostgreSQL has no text with a NUL in it."""
    try:
        found = orjson.loads(document)
    except ValueError:
        return True
    if not isinstance(found, dict) or "\\u0000" in document:
        return True
    return not all(value is None or _fits(name, value) for name, value in found.items())


def _fits(name: str, value: Any) -> bool:
    check = _FIELDS.get(name)
    return check is None or check(value)
