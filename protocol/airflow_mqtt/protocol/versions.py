"""Versions of releases, compared. Pure.

As much of the rules for version specifiers as releases of airflow-mqtt use: numbers with dots, then at most one of
`.devN`, `aN`, `bN`, `rcN`, `.postN`, then whatever a build says of itself behind a `+`, which does not count.
https://packaging.python.org/en/latest/specifications/version-specifiers/
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Self

from airflow_mqtt.protocol.errors import PayloadError

_FORM: Final = re.compile(
    r"(?P<numbers>\d{1,9}(?:\.\d{1,9}){0,5})"
    r"(?:[-_.]?(?P<stage>dev|a|b|rc|post)[-_.]?(?P<number>\d{0,9}))?"
    r"(?:\+[A-Za-z0-9.]{1,64})?",
    re.ASCII,
)

#: In this order; a release has no word.
_STAGES: Final = ("dev", "a", "b", "rc", "", "post")


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """One version; `text` is how it was written."""

    numbers: tuple[int, ...]
    stage: int
    number: int
    text: str = field(compare=False)

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the version in `text`. Raises `PayloadError` when it is none that can be compared."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise PayloadError("not a version such as 1.2.3 or 1.2.3rc1")
        numbers = [int(part) for part in found["numbers"].split(".")]
        while numbers and numbers[-1] == 0:  # 1.2 and 1.2.0 are one
            numbers.pop()
        return cls(tuple(numbers), _STAGES.index(found["stage"] or ""), int(found["number"] or 0), text)


@lru_cache(maxsize=1024)
def objection(text: str, least: Version) -> str:
    """Return what is wrong with a peer that says that its version is `text`; nothing where that is `least` or more."""
    if not text:
        return f"it has not said its version, and must be at least {least.text}"
    try:
        version = Version.of(text)
    except PayloadError:
        return f"its version {text[:40]!a} cannot be compared with {least.text}"
    return f"its version {text:.40} is below {least.text}" if version < least else ""
