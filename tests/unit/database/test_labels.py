"""Labels that jobs ask for: what may be one, and what fits."""

import pytest

from airflow_mqtt.database import labels
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import JobKind, WorkerInfo


def test_equal_wishes_are_one_value():
    one, other = labels.parse('{"b":"2","a":"1"}'), labels.parse('{"a":"1","b":"2"}')
    assert one == other == (("a", "1"), ("b", "2"))
    assert labels.parse(labels.render(one)) is other or labels.parse(labels.render(one)) == other
    assert labels.parse("{}") == ()


@pytest.mark.parametrize(
    "value",
    [None, 3, ["camera"], {"camera": 1}, {"": "x"}, {"x": ""}, {"a\nb": "c"}, {"x": "\x1b[31m"}, {"x": "y" * 257},
     {"x": "\ud800"}, {str(n): "x" for n in range(17)}],
)  # fmt: skip
def test_what_no_worker_can_have_is_said(value):
    with pytest.raises(PayloadError) as error:
        labels.checked(value)
    assert str(error.value).isprintable() and len(str(error.value)) < 250


@pytest.mark.parametrize("document", ["", "[]", "{", '{"a":1}', "null"])
def test_a_damaged_column_is_a_value_error(document):
    with pytest.raises(ValueError):
        labels.parse(document)


def test_all_that_are_asked_for_must_be_there():
    had = {"camera": "yes", "site": "north"}
    assert labels.fit((), had) and labels.fit((), {})
    assert labels.fit((("camera", "yes"), ("site", "north")), had)
    assert not labels.fit((("camera", "no"),), had) and not labels.fit((("gpu", "yes"),), had)


def test_a_kind_that_not_every_worker_runs_is_a_label_that_nobody_can_write():
    ((key, value),) = labels.of_kinds([kind.value for kind in JobKind] + ["unknown"])
    with pytest.raises(PayloadError):
        labels.checked({key: value})
    said = {"version": "1", "instance": "i", "queues": [], "kinds": [], "slots": 1}
    WorkerInfo.from_object(said)
    with pytest.raises(PayloadError, match="labels"):
        WorkerInfo.from_object(said | {"labels": {key: value}})
    assert labels.shown(((key, value), ("a", "1"))) == "kind airflow-connection-test, a=1"


def test_what_a_person_is_shown_is_short():
    assert labels.shown((("camera", "yes"), ("site", "north"))) == "camera=yes, site=north"
    assert len(labels.shown((("x", "y" * 256),))) == 201
