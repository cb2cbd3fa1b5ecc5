import logging

import pytest

from airflow_mqtt.bridge import bounds
from airflow_mqtt.bridge.bounds import Bound, Once, Recent, Room


def test_pieces_and_bytes_in_all():
    room = Room(total=Bound(3, 10), each=Bound())
    assert room.enter("a", 9)
    assert not room.enter("b", 2)
    assert room.enter("b", 1) and room.enter("c", 0)
    assert not room.enter("d", 0)
    room.leave("a", 9)
    assert room.enter("d", 9)


def test_one_owner_leaves_room_for_the_others():
    room = Room(total=Bound(100, 100), each=Bound(2, 10))
    assert room.enter("a", 5) and room.enter("a", 5)
    assert not room.enter("a", 0)
    assert room.enter("b", 10)
    assert not room.enter("b", 1)


def test_what_left_is_forgotten():
    room = Room(each=Bound(1))
    for owner in range(100):
        assert room.enter(owner, 1)
        room.leave(owner, 1)
    assert room._of == {} and (room._pieces, room._bytes) == (0, 0)


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


def test_recent_payloads_are_bounded_by_bytes_and_count():
    recent = Recent(Bound(5, 100))
    for number in range(50):
        recent.add(("w", "j", str(number)), b"x" * 30)
        assert recent._bytes <= 100
    assert list(recent._payloads) == [("w", "j", str(number)) for number in (47, 48, 49)]
    for number in range(50, 100):
        recent.add(("w", "j", str(number)), b"")
    assert len(recent._payloads) == 5 and recent._bytes == 0
