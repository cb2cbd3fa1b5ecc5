"""JSON in, JSON out; zlib where it pays; limits before anything is decoded."""

import re
import zlib
from typing import Any

import orjson

from airflow_mqtt.protocol.errors import PayloadError

#: A payload that starts with this byte is zlib-compressed JSON (a JSON object starts with 0x7B).
ZLIB_MAGIC = b"\x78"

#: Below this size compression costs more bytes or battery than it saves.
COMPRESS_FROM = 160

#: What a payload may decompress to. A device must not be able to fill the bridge's memory with 1 KB.
MAX_DECODED_BYTES = 8 * 1024 * 1024

#: What the bridge lets a payload unpack to, for each byte of `max_message_bytes`, and at least: text of logs and XComs
#: packs to an eighth at best, and a chunk of log takes 96 KiB when each of its 16 Ki characters is escaped.
UNPACKED = 8
UNPACKED_AT_LEAST = 128 * 1024

#: How deep a payload may nest. orjson reads 1024 levels and writes 254; Python's `repr` ends earlier still. What is
#: decoded here can be shown in an error message, and be encoded again into a journal.
MAX_DEPTH = 100

#: How many values a payload may hold. 8 MiB of empty lists are 180 MB of objects; a `Born` has 8,000 values at most.
MAX_VALUES = 50_000

#: A string of JSON, or what begins as one and does not end.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)

JsonObject = dict[str, Any]


def encode(value: object) -> bytes:
    """Return the payload of `value` (a dict or dataclass): UTF-8 JSON, zlib-compressed when that is shorter.

    Raises `TypeError` when `value` holds what JSON has no place for: an integer over 64 bits, a lone surrogate.
    """
    return pack(orjson.dumps(value))


def pack(plain: bytes) -> bytes:
    """Return the JSON text `plain`, compressed when that is shorter."""
    if len(plain) < COMPRESS_FROM:
        return plain
    packed = zlib.compress(plain, 6)
    return packed if len(packed) < len(plain) else plain


def unpacked_limit(max_message_bytes: int) -> int:
    """Return what a payload may unpack to where payloads have this limit."""
    return min(MAX_DECODED_BYTES, max(UNPACKED_AT_LEAST, UNPACKED * max_message_bytes))


def unpack(payload: bytes, *, max_bytes: int = MAX_DECODED_BYTES) -> bytes:
    """Return the text in `payload`, which says nothing yet about what that is.

    Raises `PayloadError` when it is too large (before or after decompression), or compressed twice.
    """
    if len(payload) > max_bytes:
        raise PayloadError(f"payload of {len(payload)} bytes is over the limit of {max_bytes}")
    if payload[:1] != ZLIB_MAGIC:
        return payload
    plain = _decompress(payload, max_bytes)
    if plain[:1] == ZLIB_MAGIC:
        raise PayloadError("payload is compressed twice")
    return plain


def decode(payload: bytes, *, max_bytes: int = MAX_DECODED_BYTES) -> JsonObject:
    """Return the JSON object in `payload`.

    Raises `PayloadError` when it is too large (before or after decompression), too deep or of too many values, is not
    JSON, or is not an object.
    """
    plain = unpack(payload, max_bytes=max_bytes)
    if _separators(plain) > MAX_VALUES and _holds_too_many(plain):
        raise PayloadError(f"payload holds more than {MAX_VALUES} values")
    try:
        value = orjson.loads(plain)
    except orjson.JSONDecodeError as error:
        raise PayloadError(f"payload is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise PayloadError(f"payload is a JSON {type(value).__name__}, not an object")
    if plain.count(b"[") + plain.count(b"{") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise PayloadError(f"payload nests deeper than {MAX_DEPTH} levels")
    return value


def _separators(text: bytes) -> int:
    """How many values JSON of this `text` has at most: each but the first follows one of these."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _holds_too_many(text: bytes) -> bool:
    """Whether JSON `text` has more than `MAX_VALUES` values, what is in its strings left out.

    The quotes are counted first, since to look for a million strings takes a second: a value has at most two strings,
    its key and itself, and the quote that begins one is never escaped.
    """
    if text.count(b'"') - text.count(b'\\"') > 4 * MAX_VALUES:
        return True
    return _separators(_STRING.sub(b"", text)) > MAX_VALUES


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Level by level, since recursion is what this protects from."""
    level = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def _decompress(payload: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(payload, max_bytes)
    except zlib.error as error:
        raise PayloadError(f"payload is not zlib data: {error}") from None
    if inflater.unconsumed_tail:
        raise PayloadError(f"payload decompresses to more than {max_bytes} bytes")
    if not inflater.eof:
        raise PayloadError("payload is truncated zlib data")
    if inflater.unused_data:
        raise PayloadError("payload goes on after its zlib data")
    return plain
