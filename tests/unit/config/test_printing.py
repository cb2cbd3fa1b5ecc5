"""What a device says moves no cursor and begins no line, in tables and in logs."""

import logging

from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.config.printing import PlainFormatter, plain


@given(st.text())
def test_whatever_it_is_becomes_printable_and_stays_one_line(text):
    assert plain(text).isprintable()
    assert plain(text) == text or not text.isprintable()


def record(text, *values, exc_info=None):
    return logging.LogRecord("name", logging.ERROR, "file", 1, text, values, exc_info)


def test_words_of_a_device_begin_no_line_of_the_log():
    shown = PlainFormatter("%(levelname)s %(message)s").format(
        record("job %s: %s", "a", "x\n2026 ERROR forged \x1b[2J")
    )
    assert shown == "ERROR job a: x\\n2026 ERROR forged \\x1b[2J"


def test_a_traceback_stays_one_and_its_words_are_harmless():
    try:
        raise ValueError("red \x1b[31m")
    except ValueError as error:
        shown = PlainFormatter("%(message)s").format(
            record("failed", exc_info=(type(error), error, error.__traceback__))
        )
    lines = shown.split("\n")
    assert lines[0] == "failed" and lines[-1] == "ValueError: red \\x1b[31m" and len(lines) > 3
