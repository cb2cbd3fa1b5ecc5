"""What is wished of a worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.database import desired
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Desired

CHANGES = [
    lambda now: desired.request_maintenance(now, "why"),
    desired.exit_maintenance,
    lambda now: desired.shutdown(now, "why"),
    lambda now: desired.set_comment(now, "why"),
    lambda now: desired.set_slots(now, 3),
    lambda now: desired.add_queues(now, ["own"], ["a"]),
    lambda now: desired.remove_queues(now, ["own"], ["a"]),
    desired.reset_queues,
]
QUEUES = st.none() | st.lists(st.sampled_from("abc"), unique=True)

documents = st.builds(
    Desired,
    revision=st.integers(0, 9),
    maintenance=st.booleans(),
    shutdown=st.booleans(),
    slots=st.none() | st.integers(0, 9),
    queues=QUEUES,
    comment=st.sampled_from(["", "why"]),
)


@given(documents, st.sampled_from(CHANGES))
def test_a_change_raises_the_revision_and_survives_the_table(before, change):
    after = desired.revised(change(before))
    assert after.revision == before.revision + 1
    assert desired.parse(desired.render(after), after.revision) == after


@given(documents, st.sampled_from(CHANGES))
def test_what_is_wished_again_is_the_same(before, change):
    assert change(change(before)) == change(before)


def test_what_the_changes_mean():
    fresh = Desired(revision=0)
    assert desired.request_maintenance(fresh, "").maintenance
    assert desired.shutdown(fresh, "").shutdown
    both = desired.shutdown(desired.request_maintenance(fresh, "x"), "y")
    assert both.comment == "y"
    assert desired.exit_maintenance(both) == fresh
    assert desired.set_comment(both, "z").maintenance
    assert desired.set_slots(desired.set_slots(fresh, 4), None) == fresh


@given(QUEUES, st.lists(st.sampled_from("abcd"), unique=True))
def test_queues_are_added_to_what_is_served_and_taken_from_it(wished, more):
    own = ["a", "d"]
    before = Desired(revision=0, queues=wished)
    served = own if wished is None else wished
    added = desired.add_queues(before, own, more).queues
    assert added[: len(served)] == served and set(added) == {*served, *more} and len(added) == len(set(added))
    assert desired.remove_queues(before, own, more).queues == [queue for queue in served if queue not in more]
    assert desired.reset_queues(before).queues is None


def test_the_column_of_a_new_worker_is_no_wish():
    assert desired.parse("{}", 0) == Desired(revision=0)


@pytest.mark.parametrize("document", ['{"maintenance": "yes"}', "no json", "[]", '{"queues": [1]}'])
def test_a_document_that_is_none(document):
    with pytest.raises(PayloadError):
        desired.parse(document, 1)


@pytest.mark.parametrize(
    "wished",
    [Desired(revision=0, comment="x" * 5000), Desired(revision=0, queues=["q" * 300]), Desired(revision=0, slots=-1)],
)
def test_what_no_worker_could_read_is_not_made(wished):
    with pytest.raises(PayloadError):
        desired.revised(wished)
