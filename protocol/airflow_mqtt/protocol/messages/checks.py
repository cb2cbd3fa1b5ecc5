"""What a field may hold: the bounds of numbers and texts, and the checks that a decoded value must pass.

Messages name them as `checks.slots`, since many a field has the name of its check.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from airflow_mqtt.protocol.topics import JOB_ID, WORKER_NAME

#: Numbers stay where a double and a signed 64-bit column agree.
MAX_INTEGER = 2**53

#: What goes into a 32-bit column.
MAX_INT32 = 2**31 - 1

#: What counts up by one may begin as high as this, and still never comes to `MAX_INTEGER`. A peer that says more is not
#: followed there: whoever did could count no further, and nobody would hear it any more.
MAX_POSITION = 2**52

#: Bytes of a log, and where in it something begins. The sum of the two stays a number of this protocol.
MAX_SIZE = 2**48

#: Seconds between two things that a peer repeats.
MAX_INTERVAL = 3600

#: How many jobs a worker may hold at once, and what a `Born` may list: as many again whose last report is not
#: acknowledged yet.
MAX_SLOTS = 1000
MAX_HELD = 2048

#: Text fields that carry names or reasons. Bodies have their own limit, `codec.MAX_DECODED_BYTES`.
MAX_TEXT = 4096
MAX_SHORT_TEXT = 256
MAX_TEXTS = 256

#: The path of a call: names of Airflow's have up to 250 characters (a key 512), each of up to 12 when percent-encoded.
MAX_PATH = 16_384

#: How many messages one `Parcel` may hold, and answers an `Ack`.
MAX_PARTS = 256

#: Bytes of the end of a log that may be sent, and are stored, before its middle.
MAX_TAIL = 64 * 1024

Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and "\x00" not in value


def sanitise(value: str, length: int = MAX_TEXT) -> str:
    """Return `value`, which may be anybody's words, as text fields take it: a message that does not fit comes again."""
    return value[:length].encode(errors="replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")


def cut(value: str, length: int = 200) -> str:
    """Return `value` as a line for a person repeats it: of what is longer than any name the beginning."""
    return value if len(value) <= length else f"{value[:length]}…"


def path(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_PATH


def short(value: Any) -> bool:
    """Items of lists and maps: a worker's row, which holds them, is read once a second."""
    return text(value) and len(value) <= MAX_SHORT_TEXT


def body(value: Any) -> bool:
    return isinstance(value, str)


@dataclass(frozen=True, eq=False, slots=True)
class Whole:
    """Check of an integer from `least` to `greatest`."""

    least: int
    greatest: int

    def __call__(self, value: Any) -> bool:
        return type(value) is int and self.least <= value <= self.greatest


@dataclass(frozen=True, eq=False, slots=True)
class Real:
    """Check of a number from `least` to `greatest`."""

    least: int
    greatest: int

    def __call__(self, value: Any) -> bool:
        return type(value) in (int, float) and self.least <= value <= self.greatest


@dataclass(frozen=True, eq=False, slots=True)
class Maybe:
    """Check of what may be null, else passes `inside`."""

    inside: Check

    def __call__(self, value: Any) -> bool:
        return value is None or self.inside(value)


#: Each number has the bounds of what it means, so that none is too large for a column, for a sum, or for a deadline.
count = Whole(0, MAX_INTEGER)
position = Whole(0, MAX_INTEGER)
ordinal = Whole(0, MAX_INT32)
int32 = Whole(-MAX_INT32 - 1, MAX_INT32)
size = Whole(0, MAX_SIZE)
slots = Whole(0, MAX_SLOTS)
held_count = Whole(0, MAX_HELD)
http_status = Whole(100, 599)
time = Real(0, 10**11)
interval = Real(0, MAX_INTERVAL)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def json_object(value: Any) -> bool:
    return isinstance(value, dict)


def texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_TEXTS and all(short(item) for item in value)


def text_map(value: Any) -> bool:
    return (
        isinstance(value, dict) and len(value) <= 64 and all(short(key) and short(item) for key, item in value.items())
    )


def objects(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_PARTS and all(isinstance(item, dict) for item in value)


def matching(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def one_of(kind: type[StrEnum]) -> Check:
    values = frozenset(kind)
    return lambda value: isinstance(value, str) and value in values


job_id = matching(JOB_ID)
worker_name = matching(WORKER_NAME)
