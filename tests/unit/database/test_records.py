"""Rows as values."""

from dataclasses import fields, replace

import pytest

from airflow_mqtt.database.records import replaced
from bridge_samples import job, worker


@pytest.mark.parametrize("record", [job(), worker()])
def test_a_copy_with_other_values_is_that_of_the_standard_library(record):
    for field in fields(record):
        assert replaced(record, **{field.name: "x"}) == replace(record, **{field.name: "x"}) != record
    assert replaced(record) == record


def test_a_copy_has_no_field_that_the_record_has_not():
    with pytest.raises(KeyError):
        replaced(job(), stat="queued")
