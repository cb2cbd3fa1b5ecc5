"""Who may serve what, and what jobs may call: documents and patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.database import access
from airflow_mqtt.database.access import OPEN, Access
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.execution_api import RIGHTS

WORKERS = st.text("abAB01_-*", min_size=1, max_size=6)
QUEUES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=6)
DOCUMENTS = st.builds(
    Access,
    st.lists(st.tuples(WORKERS, QUEUES), unique=True, max_size=5).map(lambda pairs: tuple(sorted(pairs))),
    st.dictionaries(QUEUES, st.frozensets(st.sampled_from(RIGHTS)), max_size=3),
    st.integers(0, 9),
)


@pytest.mark.parametrize(
    ("worker", "queue", "may"),
    [
        ("edge-1", "camera", True), ("edge-1", "radar", False), ("edge-11", "camera", False), ("lab-7", "x.y[z]", True),
        ("lab-7", "xay[z]", False), ("lab-", "x.y[z]", True), ("a-lab-7", "x.y[z]", False), ("boat", "sea/north", True),
        ("boat", "sea/north\n", True), ("boat", "lake", False), ("", "camera", False),
    ],
)  # fmt: skip
def test_patterns(worker, queue, may):
    given = Access((("edge-1", "camera"), ("lab-*", "x.y[z]"), ("boat", "sea*")))
    assert given.may_serve(worker, queue) is may


def test_nobody_may_before_somebody_says_so():
    assert not Access().may_serve("edge-1", "edge")
    assert OPEN.may_serve("edge-1", "edge")


def test_of_rights_the_queues_own_entry_counts_and_else_that_for_all():
    assert Access().rights("a") is None
    given = Access(calls={"a": frozenset(), "*": frozenset({"variables"})})
    assert (given.rights("a"), given.rights("b")) == (frozenset(), {"variables"})


@given(DOCUMENTS)
def test_a_document_comes_back_as_it_was(document):
    assert access.parse(access.render(document), document.revision) == document


@pytest.mark.parametrize(
    "document", ["", "[]", "3", '{"serve":3}', '{"serve":[["a"]]}', '{"calls":[]}', '{"calls":{"a":3}}']
)
def test_what_is_no_document(document):
    with pytest.raises(PayloadError):
        access.parse(document, 1)


@given(DOCUMENTS, WORKERS, st.lists(QUEUES, min_size=1, max_size=3))
def test_what_is_allowed_can_be_taken_back_in_the_same_words(before, worker, queues):
    after = access.allow(before, worker, queues)
    assert set(before.serve) | {(worker, queue) for queue in queues} == set(after.serve)
    assert set(access.disallow(after, worker, queues).serve) == set(before.serve) - {(worker, q) for q in queues}
    assert all(name != worker for name, _ in access.disallow(after, worker, ()).serve)
    assert access.allow(after, worker, queues) == after


@pytest.mark.parametrize(
    ("worker", "queue"),
    [("", "a"), ("a b", "a"), ("a/b", "a"), ("a" * 65, "a"), ("a", ""), ("a", "x\n"), ("a", "x" * 257)],
)
def test_names_that_nobody_has(worker, queue):
    with pytest.raises(PayloadError):
        access.allow(Access(), worker, [queue])


def test_an_entry_can_be_taken_away():
    given = access.allow_calls(Access(), "a", ["variables"])
    assert given.rights("a") == {"variables"}
    assert access.allow_calls(given, "a", ()).rights("a") == frozenset()
    assert access.allow_calls(given, "a", None) == Access()
