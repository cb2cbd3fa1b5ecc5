"""JSON and zlib: limits hold, and whatever comes in, only `PayloadError` comes out."""

import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.errors import PayloadError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=3)


@given(OBJECTS)
def test_an_object_comes_back_as_it_went(value):
    assert codec.decode(codec.encode(value)) == value


@given(OBJECTS)
def test_a_peer_may_compress_anything_or_nothing(value):
    plain = json.dumps(value).encode()
    assert codec.decode(plain) == codec.decode(zlib.compress(plain)) == value


@given(st.text("ab", min_size=1, max_size=8).map(lambda text: text * 600))
def test_what_compresses_well_is_compressed(text):
    payload = codec.encode({"text": text})
    assert payload[:1] == codec.ZLIB_MAGIC
    assert len(payload) < len(text)


def test_what_does_not_compress_is_left_alone():
    payload = codec.encode({"a": 1})
    assert payload == b'{"a":1}'


@settings(max_examples=1500)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: codec.ZLIB_MAGIC + tail))
def test_random_bytes_raise_only_payload_error(payload):
    try:
        assert isinstance(codec.decode(payload), dict)
    except PayloadError as error:
        assert "\n" not in str(error)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_in_zlib_raise_only_payload_error(data):
    try:
        codec.decode(zlib.compress(data))
    except PayloadError as error:
        assert "\n" not in str(error)


@given(OBJECTS)
def test_zlib_cut_anywhere_is_refused(value):
    packed = zlib.compress(json.dumps(value).encode())
    for size in range(len(packed)):
        with pytest.raises(PayloadError):
            codec.decode(packed[:size])


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b'"text"',
        b"{",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xff"}',
        b'{"\\udfff":1}',
        b"\x78",
        b"\x78\x9c",
        zlib.compress(b"[]"),
        zlib.compress(b"{}") + b"{}",
        zlib.compress(zlib.compress(b"{}")),
    ],
)
def test_what_is_not_a_json_object_is_refused(payload):
    with pytest.raises(PayloadError):
        codec.decode(payload)


def test_an_integer_of_any_size_is_only_a_number():
    assert codec.decode(b'{"a":' + b"9" * 200 + b"}")["a"] == float("9" * 200)
    with pytest.raises(PayloadError):  # past the range of a double
        codec.decode(b'{"a":' + b"9" * 5000 + b"}")


def test_a_bomb_is_refused_before_it_is_unpacked():
    bomb = zlib.compress(b'{"a":"' + b" " * (24 * 1024 * 1024) + b'"}', 9)
    assert len(bomb) < 100_000
    with pytest.raises(PayloadError, match="decompresses to more than"):
        codec.decode(bomb)


@pytest.mark.parametrize("item", [b"[]", b"{}", b"0", b'""', b'"a\\""', b'{"a":[0]}'])
def test_a_payload_of_too_many_values_is_refused_before_they_are_made(item):
    many = b'{"a":[' + b",".join([item] * 300_000) + b"]}"
    assert len(many) <= codec.MAX_DECODED_BYTES
    with pytest.raises(PayloadError, match="values"):
        codec.decode(zlib.compress(many))


@pytest.mark.parametrize("text", ["[]" * 300_000, ',"' * 300_000, "{\\" * 300_000, '\\"' * 300_000])
def test_what_is_in_a_string_is_one_value(text):
    payload = codec.encode({"body": text})
    assert codec.decode(payload) == {"body": text}


@pytest.mark.parametrize("piece", [b'"', b'\\"', b'[\\"', b'["\\', b'["\\"', b"\\"])
def test_a_string_that_does_not_end_is_read_once(piece):
    """Looked at again from each of its quotes, this would take days."""
    payload = b'{"a":' + b"[" * 300_000 + b'"' + piece * (2 * 1024 * 1024)
    with pytest.raises(PayloadError):
        codec.decode(payload, max_bytes=16 * 1024 * 1024)


@pytest.mark.parametrize("size", range(40, 60))
def test_the_limit_is_exact(size):
    plain = b'{"a":"' + b"x" * (size - 8) + b'"}'
    for payload in (plain, zlib.compress(plain)):
        assert codec.decode(payload, max_bytes=max(size, len(payload)))
        with pytest.raises(PayloadError):
            codec.decode(payload, max_bytes=size - 1)


def _nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return b'{"a":' + opening * depth + b"0" + closing * depth + b"}"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"b":', b"}")])
def test_nesting_is_bounded(opening, closing):
    value = codec.decode(_nested(codec.MAX_DEPTH - 1, opening, closing))
    assert repr(value)
    assert codec.decode(codec.encode(value)) == value  # what we took in, we can write into the journal
    for depth in (codec.MAX_DEPTH, 500, 1000, 1023, 100_000):
        with pytest.raises(PayloadError):
            codec.decode(_nested(depth, opening, closing))


def test_brackets_in_text_and_wide_lists_are_not_depth():
    value = {"text": "[{" * 500, "list": [[] for _ in range(500)]}
    assert codec.decode(json.dumps(value).encode()) == value
