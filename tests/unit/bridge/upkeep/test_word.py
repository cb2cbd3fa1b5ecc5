"""What the leader says of itself."""

from collections import Counter

from airflow_mqtt.bridge.tally import Tally
from airflow_mqtt.bridge.upkeep.word import Counts, rates, refusals


def test_figures_are_what_happened_since_the_last_ones():
    tally = Tally()
    tally.events["q", "start"] = 40
    tally.events["other", "start"] = 2
    tally.events["q", "lose"] = 6
    tally.events["q", "accept"] = 99
    tally.calls["GET", "x", 200] = 30
    before = Counts(at=100.0, cpu=5.0, started=30, ended=0, calls=0, messages=1000)
    after = Counts.of(tally, at=130.0, cpu=20.0, messages=1060)
    assert rates(before, after) == {
        "jobs_started_per_minute": 24.0, "jobs_ended_per_minute": 12.0, "calls_per_minute": 60.0,
        "messages_per_minute": 120.0, "cpu": 0.5,
    }  # fmt: skip


def test_two_looks_at_once_divide_by_nothing():
    one = Counts(at=1.0, cpu=1.0, started=1, ended=1, calls=1, messages=1)
    assert set(rates(one, one).values()) == {0.0}


def test_dropped_messages_are_refusals_too():
    tally = Tally()
    tally.refused["forbidden"] += 2
    assert refusals(tally, Counter({"events": 3})) == {"forbidden": 2, "message: events": 3}
