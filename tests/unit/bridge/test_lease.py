import pytest

from airflow_mqtt.bridge.lease import Lease, look, may_take, next_look

HELD = Lease("one", 4, 10)


def test_a_renewed_lease_is_not_free():
    watch = look(None, HELD, 0.0)
    assert not may_take(watch, 3, 2.9)
    watch = look(watch, Lease("one", 4, 11), 2.9)
    assert not may_take(watch, 3, 5.8)


def test_one_that_stands_still_is():
    watch = look(look(None, HELD, 0.0), HELD, 2.0)
    assert may_take(watch, 3, 3.0)


def test_one_given_back_is_free_at_once():
    assert may_take(look(None, Lease("", 4, 10), 0.0), 3, 0.0)


def test_a_takeover_starts_the_watch_again():
    watch = look(look(None, HELD, 0.0), Lease("two", 5, 0), 2.9)
    assert not may_take(watch, 3, 3.5)


@pytest.mark.parametrize("seen_at", [0.0, 0.3, 0.49])
def test_a_standby_looks_when_the_lease_becomes_free(seen_at):
    watch, now, looks = look(None, HELD, seen_at), seen_at, 0
    while not may_take(watch, 3, now):
        now += next_look(watch, 3, now)
        watch, looks = look(watch, HELD, now), looks + 1
    assert now - seen_at == pytest.approx(3, abs=0.002)
    assert looks <= 8


def test_one_that_may_not_take_it_or_does_not_know_it_looks_as_often_as_ever():
    assert next_look(None, 3, 7.0) == 0.5
    assert next_look(look(None, HELD, 0.0), 3, 3.0) == 0.5  # somebody was faster, or this one rests
    assert next_look(look(None, HELD, 0.0), 3, 1.0) == 0.5
