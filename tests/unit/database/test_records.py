"""Rows as values."""

from dataclasses import fields, replace

import pytest

from airflow_mqtt.database.records import Worker, replaced
from airflow_mqtt.protocol.messages import Desired
from bridge_samples import job, worker


@pytest.mark.parametrize("record", [job(), worker()])
def test_a_copy_with_other_values_is_that_of_the_standard_library(record):
    for field in fields(record):
        assert replaced(record, **{field.name: "x"}) == replace(record, **{field.name: "x"}) != record
    assert replaced(record) == record


def test_a_copy_has_no_field_that_the_record_has_not():
    with pytest.raises(KeyError):
        replaced(job(), stat="queued")


def test_what_is_desired_of_most_workers_is_one_value():
    """Of ten thousand that a new leader reads, nobody ever desired anything."""
    seen = ("idle", "{}", "{}", "i", 1, 0.0, "j", "[]", 0, 1, None, "")
    one, other = (Worker.of((name, "{}", 0, *seen)) for name in ("edge-1", "edge-2"))
    assert one.desired is other.desired
    assert Worker.of(("edge-3", '{"maintenance":true}', 2, *seen)).desired == Desired(revision=2, maintenance=True)
    assert Worker.of(("edge-4", "{}", 1, *seen)).desired == Desired(revision=1)
