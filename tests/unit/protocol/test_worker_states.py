"""Every wish and every observation of a worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.protocol import workers
from airflow_mqtt.protocol.messages import ReportedState
from airflow_mqtt.protocol.workers import GONE, PLACEABLE, TABLE, Observation, Wish, WorkerState

WISHES = st.sampled_from(list(Wish))
SEEN = st.fixed_dictionaries({"maintenance": st.booleans(), "running": st.integers(0, 99), "silent": st.booleans()})
REPORTED = st.sampled_from(list(ReportedState))


def test_the_table_is_total_and_uses_every_state():
    assert set(TABLE) == {(wish, seen) for wish in Wish for seen in Observation}
    assert set(TABLE.values()) == set(WorkerState)


def test_the_words_are_those_of_the_edge_provider():
    assert {state.value for state in WorkerState} == {
        "starting",
        "idle",
        "running",
        "terminating",
        "offline",
        "unknown",
        "maintenance request",
        "maintenance pending",
        "maintenance mode",
        "maintenance exit",
        "offline maintenance",
        "shutdown request",
    }


@given(WISHES, REPORTED, SEEN)
def test_jobs_go_only_to_workers_that_live_and_are_wished_to_work(wish, reported, seen):
    state = workers.derive(wish, workers.observe(reported, **seen))
    if state in PLACEABLE:
        assert wish is Wish.WORK
        assert not seen["silent"]
        assert not seen["maintenance"]
        assert reported in (ReportedState.IDLE, ReportedState.RUNNING)


@given(WISHES, REPORTED, SEEN)
def test_a_worker_is_gone_exactly_when_it_is_offline_or_silent(wish, reported, seen):
    state = workers.derive(wish, workers.observe(reported, **seen))
    assert (state in GONE) == (seen["silent"] or reported is ReportedState.OFFLINE)


@pytest.mark.parametrize(
    ("maintenance", "shutdown", "wish"),
    [
        (False, False, Wish.WORK),
        (True, False, Wish.MAINTENANCE),
        (False, True, Wish.SHUTDOWN),
        (True, True, Wish.SHUTDOWN),
    ],
)
def test_a_shutdown_goes_before_maintenance(maintenance, shutdown, wish):
    assert workers.wish_of(maintenance=maintenance, shutdown=shutdown) is wish


def test_placeable_and_gone_have_nothing_in_common():
    assert not PLACEABLE & GONE


def test_the_markdown_table_has_a_row_for_each_observation():
    rows = workers.table().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == list(Observation)
    assert all(row.count("|") == len(Wish) + 2 for row in rows)
