"""What the bridge makes of a device's clock, and of the times in its calls."""

import json
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.protocol import clocks
from airflow_mqtt.protocol.clocks import APART, TOLERANCE, WINDOW, Clock

HOURS = 7200.0


def heard(offset, delays, *, clock=None, start=1000.0, every=30.0):
    """Return what is known after messages of a device `offset` behind, each so long under way."""
    clock = clock or Clock()
    for number, delay in enumerate(delays):
        made = start + number * every
        clock = clock.hear(made - offset, made + delay)
    return clock


@pytest.mark.parametrize("offset", [0.0, HOURS, -HOURS])
def test_the_least_delay_counts(offset):
    assert heard(offset, [9.0, 0.2, 40.0, 3.0, 600.0]).offset == pytest.approx(offset + 0.2)


@given(st.floats(-1e9, 1e9), st.lists(st.floats(0, 30), min_size=1, max_size=30))
def test_no_delay_makes_it_less_than_it_is(offset, delays):
    clock = heard(offset, delays)
    assert offset - 0.01 <= clock.offset <= offset + max(delays) + 0.01


def test_nothing_is_corrected_before_anything_is_heard_nor_what_is_nearly_right():
    assert (Clock().correction, Clock().note) == (0.0, "")
    assert heard(1.5, [0.1, 0.1]).correction == 0.0
    assert heard(TOLERANCE + 1, [0.1]).correction > TOLERANCE
    assert heard(59.0, [0.0]).note == ""


@pytest.mark.parametrize(
    ("offset", "note"), [(HOURS, "its clock is 2:00:00 behind"), (-90.0, "its clock is 0:01:30 ahead")]
)
def test_beyond_a_minute_a_person_is_told(offset, note):
    assert heard(offset, [0.0]).note == note


def test_a_clock_that_is_set_forward_is_noticed_at_once():
    assert heard(0.0, [0.1], clock=heard(HOURS, [0.1] * 5), start=2000.0).offset == pytest.approx(0.1)


def test_a_clock_that_is_set_back_is_noticed_when_three_agree():
    ahead = heard(-HOURS, [0.1] * 5)
    assert heard(0.0, [0.3, 0.1], clock=ahead, start=2000.0).offset < -HOURS + 1
    assert heard(0.0, [0.3, 0.1, 0.2], clock=ahead, start=2000.0).offset == pytest.approx(0.2)


def test_what_was_held_up_and_comes_at_once_is_no_clock():
    """The bridge was away for an hour, and the broker kept what was said."""
    clock = heard(0.0, [0.1] * 5)
    for made in (1200.0, 1200.2, 1200.4, 1230.0, 1260.0):
        clock = clock.hear(made, 4800.0)
    assert clock.offset < 1


def test_it_is_noticed_after_two_windows_in_any_case():
    clock = heard(-HOURS, [0.1])
    for number in range(60):
        made = 1000.0 + number * APART
        clock = clock.hear(made, made + (number * 7919) % 100)  # no two agree
    assert clock.offset >= 0 and 60 * APART >= 2 * WINDOW


def test_the_next_leader_begins_with_what_the_last_one_knew():
    assert Clock.of(HOURS).correction == HOURS
    assert Clock.of(HOURS).hear(1000.0 - HOURS, 1000.4).offset == HOURS
    assert Clock.of(None) == Clock()


BODY = {"state": "up_for_reschedule", "reschedule_date": "2026-01-01T12:00:05Z", "end_date": "2026-01-01T12:00:00.5Z"}


def test_times_of_a_body_are_moved_and_nothing_else():
    moved = clocks.corrected(BODY, ("end_date", "reschedule_date", "not_there"), -HOURS)
    assert moved == {"reschedule_date": "2026-01-01T10:00:05+00:00", "end_date": "2026-01-01T10:00:00.500000+00:00"}
    assert clocks.corrected(BODY, ("end_date",), 0.0) == {}
    assert clocks.corrected({"end_date": "soon"}, ("end_date",), 5.0) == {}


@given(st.one_of(st.none(), st.text(), st.floats(), st.datetimes().map(str)), st.floats(-1e12, 1e12))
def test_whatever_a_field_holds(value, seconds):
    for moved in clocks.corrected({"end_date": value}, ("end_date",), seconds).values():
        datetime.fromisoformat(moved)


def test_an_answer_is_moved_back():
    assert json.loads(clocks.answered('"2026-01-01T12:00:00Z"', ("",), HOURS)) == "2026-01-01T14:00:00+00:00"
    assert clocks.answered("null", ("",), HOURS) == "null"
    assert clocks.answered("no JSON", ("",), HOURS) == "no JSON"
    context = (
        '{"max_tries": 1, "start_date": "2026-01-01T12:00:00Z", "dag_run": {"start_date": "2026-01-01T12:00:00Z"}}'
    )
    answered = json.loads(clocks.answered(context, ("start_date",), HOURS))
    assert answered["start_date"] == (datetime.fromisoformat("2026-01-01T12:00:00Z") + timedelta(hours=2)).isoformat()
    assert answered["dag_run"]["start_date"] == "2026-01-01T12:00:00Z"
