"""Wishes for a worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.executor.wishes import Command, change, parse, render
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Desired


@given(st.booleans(), st.booleans(), st.integers(0, 9), st.none() | st.integers(0, 9), st.sampled_from(Command))
def test_each_change_raises_the_revision_and_survives_the_table(maintenance, shutdown, revision, slots, command):
    before = Desired(revision=revision, maintenance=maintenance, shutdown=shutdown, slots=slots)
    after = change(before, command, "why")
    assert after.revision == revision + 1
    assert (after.slots, after.comment) == (slots, "why")
    assert parse(render(after), after.revision) == after


def test_what_the_commands_mean():
    fresh = Desired(revision=0)
    assert change(fresh, Command.ENTER, "").maintenance
    assert change(fresh, Command.STOP, "").shutdown
    both = change(change(fresh, Command.ENTER, ""), Command.STOP, "")
    assert change(both, Command.EXIT, "") == Desired(revision=3)


def test_the_column_of_a_new_worker_is_no_wish():
    assert parse("{}", 0) == Desired(revision=0)


def test_a_document_that_is_none():
    with pytest.raises(PayloadError):
        parse('{"maintenance": "yes"}', 1)
