import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.bridge import bounds
from airflow_mqtt.bridge.bounds import Bound, Once, Quota, Recent


def test_pieces_and_bytes_in_all():
    quota = Quota(total=Bound(3, 10), each=Bound())
    assert quota.enter("a", 9)
    assert not quota.enter("b", 2)
    assert quota.enter("b", 1) and quota.enter("c", 0)
    assert not quota.enter("d", 0)
    quota.leave("a", 9)
    assert quota.enter("d", 9)


def test_one_owner_leaves_room_for_the_others():
    quota = Quota(total=Bound(100, 100), each=Bound(2, 10))
    assert quota.enter("a", 5) and quota.enter("a", 5)
    assert not quota.enter("a", 0)
    assert quota.enter("b", 10)
    assert not quota.enter("b", 1)


def test_what_left_is_forgotten():
    quota = Quota(each=Bound(1))
    for owner in range(100):
        assert quota.enter(owner, 1)
        quota.leave(owner, 1)
    assert quota._of == {} and (quota._pieces, quota._bytes) == (0, 0)


def test_once_for_each_owner_and_subject():
    once = Once()
    assert [once("a", "x"), once("a", "x"), once("b", "x"), once("a", "y")] == [True, False, True, True]


def test_its_end_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(bounds, "_REMEMBERED", 7)
    monkeypatch.setattr(bounds, "_REMEMBERED_OF_ONE", 3)
    once = Once()
    with caplog.at_level(logging.WARNING):
        assert sum(once("loud", str(number)) for number in range(50)) == 3
        assert sum(once(f"owner-{number}", "x") for number in range(50)) == 4
    assert len(caplog.records) == 1
    assert len(once._said) == 7


def held(recent):
    return [key for own in recent._payloads.values() for key in own]


def test_recent_payloads_are_bounded_by_bytes_and_count():
    recent = Recent(total=Bound(5, 100), each=Bound())
    for number in range(50):
        recent.add("w", number, b"x" * 30)
        assert recent._total._bytes <= 100
    assert held(recent) == [47, 48, 49]
    for number in range(50, 100):
        recent.add("w", number, b"")
    assert held(recent) == [95, 96, 97, 98, 99] and recent._total._bytes == 0


def test_one_who_adds_many_pushes_out_its_own():
    recent = Recent(total=Bound(100, 10_000), each=Bound(3, 100))
    recent.add("quiet", "first", b"kept")
    for number in range(1000):
        recent.add("loud", number, b"x" * 40)
    assert recent.get("quiet", "first") == b"kept"
    assert held(recent) == ["first", 998, 999]
    assert recent.get("loud", 997) is None and recent.get("nobody", 1) is None


def test_where_all_are_too_many_those_go_that_have_added_nothing_for_longest():
    recent = Recent(total=Bound(6, 10_000), each=Bound(3, 100))
    for owner in "abc":
        for number in range(2):
            recent.add(owner, f"{owner}{number}", b"x")
    recent.add("a", "a2", b"x")
    assert held(recent) == ["b1", "c0", "c1", "a0", "a1", "a2"]


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12)), max_size=60),
    st.integers(1, 6), st.integers(1, 30), st.integers(1, 6), st.integers(1, 30),
)  # fmt: skip
def test_what_is_counted_is_what_is_kept(added, pieces, size, pieces_each, size_each):
    recent = Recent(total=Bound(pieces, size), each=Bound(pieces_each, size_each))
    for number, (owner, length) in enumerate(added):
        recent.add(owner, number, b"x" * length)
        fits = length <= min(size, size_each)
        assert (recent.get(owner, number) is not None) == fits
        kept = {one: [len(payload) for payload in own.values()] for one, own in recent._payloads.items() if own}
        assert sum(map(len, kept.values())) == recent._total._pieces <= pieces
        assert sum(map(sum, kept.values())) == recent._total._bytes <= size
        assert {one: (len(sizes), sum(sizes)) for one, sizes in kept.items()} == recent._each._of
        assert all(len(sizes) <= pieces_each and sum(sizes) <= size_each for sizes in kept.values())
