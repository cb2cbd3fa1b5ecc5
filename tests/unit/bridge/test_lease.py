from airflow_mqtt.bridge.lease import Lease, look, may_take

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
