"""Frames on local stream sockets: four bytes of length (big-endian), then a JSON object.

Used between a runner and the worker (`worker.sock`), and between the worker and its runner host.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from airflow_mqtt.protocol.errors import PayloadError

HEADER_BYTES = 4

#: Above this a frame is a mistake, where nobody says another limit.
MAX_FRAME_BYTES = 256 * 1024 * 1024

#: The id in an answer to a frame that the worker does not take, and so has no id.
UNREAD = ""


def largest_call(max_message_bytes: int) -> int:
    """Return how large the frame may be that a runner sends, for a message of at most `max_message_bytes`.

    The worker takes twice that: it may have been started again with a lower limit, and answers 413.
    A body is JSON in JSON, and each of its bytes becomes at most six. `core.calls` measures the message itself.
    """
    return 6 * max_message_bytes + 64 * 1024


def pack(value: Any) -> bytes:
    """Return `value` as one frame."""
    data = orjson.dumps(value)
    return len(data).to_bytes(HEADER_BYTES, "big") + data


class Unpacker:
    """Collects bytes and gives out the objects in them. No frame may be larger than `limit` bytes."""

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit

    @property
    def waiting(self) -> int:
        """How many bytes of an unfinished frame are here."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield each object that `data` completes; `PayloadError` when a frame is none of ours."""
        self._buffer += data
        while (frame := self._next()) is not None:
            yield _decoded(frame)

    def _next(self) -> bytes | None:
        if len(self._buffer) < HEADER_BYTES:
            return None
        size = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        if size > self._limit:
            raise PayloadError(f"frame of {size} bytes is over the limit of {self._limit}")
        end = HEADER_BYTES + size
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[HEADER_BYTES:end])
        del self._buffer[:end]
        return frame


def _decoded(frame: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(frame)
    except orjson.JSONDecodeError as error:
        raise PayloadError(f"frame is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise PayloadError("frame is not a JSON object")
    return value
