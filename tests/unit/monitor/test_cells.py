"""Text for a terminal is as wide as it says, whatever a device put into it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.monitor.cells import CUT, cut, fit, width

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "a\nb\rc\td",
    "\x9b31m",
    "\u202eright to left",
    "name\x07",
    "<b>&amp;</b>",
    "a" + "\u0301" * 10_000,
    "\u0301" * 50,
    "東京の機械" * 100,
    "👩‍🔧🏭",
    "☃\ufe0f",
    "x" * 10_000,
    "\ud800",
    "\x00",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("size", [0, 1, 2, 7, 80])
def test_a_text_fills_its_cells_exactly_and_holds_nothing_that_moves_a_cursor(text, size):
    for shown in (fit(text, size), fit(text, size, right=True)):
        assert width(shown) == size
        assert shown.isprintable()
        assert len(shown) <= 3 * size
    assert width(cut(text, size)) <= size


@given(st.text(), st.integers(0, 60))
def test_any_text_does(text, size):
    shown = fit(text, size)
    assert width(shown) == size
    assert shown.isprintable()


def test_what_is_cut_says_so_and_what_fits_is_whole():
    assert fit("edge-1", 6) == "edge-1"
    assert fit("edge-1", 5) == f"edge{CUT}"
    assert fit("7", 3, right=True) == "  7"
    assert fit("東京", 3) == f"東{CUT}"
    assert fit("東京", 2) == f"{CUT} "
    assert cut("a\x1bb", 10) == "a\\x1bb"


def test_one_character_keeps_the_marks_that_a_language_has():
    assert cut("e\u0301", 5) == "é"
    assert cut("q\u0301\u0323\u0323\u0323", 5) == "q\u0323\u0323"
