import pytest

from airflow_mqtt.bridge.dispatch.reports import because


@pytest.mark.parametrize("reason", ["a\nERROR all is lost", "a\rb", "\x1b[2J", "a\u2028b", "ü\n" * 4000])
def test_a_reason_begins_no_line_and_moves_no_cursor(reason):
    said = because(reason)
    assert said.isprintable() and len(said) <= 302


def test_a_reason_in_plain_words_stays_as_it_is():
    assert because("the worker's supervisor failed: Größe") == ": the worker's supervisor failed: Größe"
    assert because("") == ""
