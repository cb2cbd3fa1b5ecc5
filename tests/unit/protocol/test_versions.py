"""Versions of releases, compared as Python's own tools compare them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.versions import Version, objection

ORDER = [
    "0.1",
    "0.2.0.dev1",
    "0.2.0a1",
    "0.2.0b3",
    "0.2rc1",
    "0.2.0rc10",
    "0.2.0",
    "0.2.0.post1",
    "0.2.1",
    "0.10.0",
    "1",
]


def test_in_order():
    for lower, higher in pairwise(ORDER):
        assert Version.of(lower) < Version.of(higher)


@pytest.mark.parametrize(("one", "other"), [("1.2", "1.2.0"), ("1.2.3", "1.2.3+local.7"), ("1.2.3-rc.1", "1.2.3rc1")])
def test_of_one_rank(one, other):
    assert Version.of(one) == Version.of(other)


@pytest.mark.parametrize("text", ["", "one", "1.2.x", "1..2", "v1", "1.2.3-debian1", "1" * 5000, "\u0661.2", "1.2\n"])
def test_what_is_no_version_is_said_to_be_none(text):
    with pytest.raises(PayloadError):
        Version.of(text)


@given(st.text(max_size=300))
def test_whatever_a_peer_says_is_no_error_and_moves_no_cursor(text):
    assert objection(text, Version.of("1.0")).isprintable()


NUMBERS = st.lists(st.integers(0, 20), min_size=1, max_size=4)


@given(NUMBERS, NUMBERS)
def test_numbers_count_as_numbers(one, other):
    width = max(len(one), len(other))
    as_numbers = [tuple(n + [0] * (width - len(n))) for n in (one, other)]
    versions = [Version.of(".".join(map(str, n))) for n in (one, other)]
    assert (versions[0] < versions[1]) == (as_numbers[0] < as_numbers[1])
