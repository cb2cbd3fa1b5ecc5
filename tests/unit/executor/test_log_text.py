"""Chunks become text, however they were cut, repeated or lost."""

import io
import json
import tracemalloc
from itertools import pairwise
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.executor import long_lines, task_log
from airflow_mqtt.executor.task_log import Part, assemble, lines_of
from log_schema import check

WHOLE = Part("job", 1, "", complete=True, size=0)
GROWING = Part("job", 1, "", complete=False, size=0)


def cut(data, points):
    edges = sorted({0, len(data), *(point % (len(data) + 1) for point in points)})
    return [(start, data[start:end]) for start, end in pairwise(edges)]


@given(st.text(), st.lists(st.integers(min_value=0, max_value=400)))
def test_any_cut_gives_the_same_text(text, points):
    data = text.encode()
    assert b"".join(assemble(cut(data, points))) == data
    expected = text.split("\n")
    assert list(lines_of(assemble(cut(data, points)), WHOLE)) == (expected if expected[-1] else expected[:-1])


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0, max_value=200)), st.integers(0, 30))
def test_overlapping_chunks_show_nothing_twice(data, points, more):
    chunks = [(start, data[start : start + len(part) + more]) for start, part in cut(data, points)]
    assert b"".join(assemble(chunks)) == data


@given(st.binary(max_size=200))
def test_whatever_a_device_sends_is_readable(data):
    for line in lines_of([data], WHOLE):
        line.encode()


def test_a_gap_is_said_where_it_is_in_a_line_of_its_own():
    before = b'{"timestamp":"2026-01-01T00:00:07Z","event":"last"}\nhalf a li'
    part = GROWING._replace(arrived=len(before), where="They are on worker edge-1.")
    first, said, after = lines_of(assemble([(0, before), (1000, b"the end\n")]), part)
    assert (first, after) == (before.decode().split("\n")[0], "the end")
    entry = check(said.encode())
    assert f"{1000 - len(before)} bytes of this log are missing here. They are on worker edge-1." == entry["event"]
    assert entry["timestamp"] == "2026-01-01T00:00:07Z"


def test_what_log_limit_has_cut_is_no_gap():
    part = GROWING._replace(arrived=1100)
    assert list(lines_of(assemble([(0, b"cut here\n"), (1000, b"the end\n")]), part)) == ["cut here", "the end"]


@pytest.mark.parametrize("last", ["no JSON", "[1]", '{"timestamp": 7}', '{"x": 1}'])
def test_a_line_of_ours_stands_below_whatever_a_task_wrote(last):
    part = WHOLE._replace(last_word="more is to come", at=5.0)
    *_, said = lines_of([last.encode()], part)
    assert check(said.encode())["timestamp"] == "1970-01-01T00:00:05Z"


def test_a_line_without_an_end_waits_for_it():
    assert list(lines_of([b"one\ntw"], GROWING)) == ["one"]
    assert list(lines_of([b"one\ntw"], WHOLE)) == ["one", "tw"]


@given(st.text("ab\n\N{EURO SIGN}", max_size=60), st.lists(st.integers(min_value=0, max_value=200)), st.booleans())
def test_a_long_line_is_cut_wherever_its_chunks_are(text, points, complete):
    *ends, rest = text.split("\n")
    expected = [line[start : start + 4] for line in ends for start in range(0, len(line) or 1, 4)]
    # Of a line without an end all is shown but the last four characters, as many as a line may have.
    shown = len(rest) if complete else (len(rest) - 1) // 4 * 4
    expected += [rest[start : start + 4] for start in range(0, shown, 4)]
    with mock.patch.object(long_lines, "LINE", 4):
        assert list(lines_of(assemble(cut(text.encode(), points)), GROWING._replace(complete=complete))) == expected


@pytest.mark.timeout(60)  # minutes, if each chunk were added to a text
def test_a_log_without_lines_is_read_in_proportion():
    lines = list(lines_of([b"x" * 1024] * 32_768, WHOLE))
    assert "".join(lines) == "x" * 1024 * 32_768


def test_a_log_without_lines_takes_little_memory():
    tracemalloc.start()
    try:
        longest = max(len(line) for line in lines_of((b"x" * 16384 for _ in range(2048)), WHOLE))
        assert tracemalloc.get_traced_memory()[1] < 64 * long_lines.LINE
    finally:
        tracemalloc.stop()
    assert longest == long_lines.LINE


ENTRIES = st.fixed_dictionaries(
    {"timestamp": st.just("2026-01-01T00:00:07Z"), "level": st.just("info"), "event": st.text(min_size=60)},
    optional={"logger": st.just("task"), "n": st.integers(), "deep": st.lists(st.lists(st.text()))},
)


@given(
    ENTRIES.flatmap(lambda entry: st.permutations(list(entry.items()))), st.booleans(), st.lists(st.integers(0, 999))
)
def test_an_entry_that_is_too_long_stays_one_with_its_time_and_level(items, escaped, points):
    whole = json.dumps(dict(items), ensure_ascii=escaped)
    with mock.patch.object(long_lines, "LINE", 50):
        lines = list(lines_of(assemble(cut(f"{whole}\nnext\n".encode(errors="replace"), points)), WHOLE))
    shown, after = lines
    entry = json.loads(shown)
    assert (after, entry["timestamp"], entry["level"]) == ("next", "2026-01-01T00:00:07Z", "info")
    if len(whole) > 50:
        assert entry["event"].endswith(f"… ({len(whole) - 50} characters of this line are not shown)")


def test_a_level_that_is_cut_in_two_is_that_of_the_entry():
    whole = '{"timestamp": "2026-01-01T00:00:07Z", "level": "info", "event": "' + "x" * 10_000 + '", "logger": "task"}'
    for length in range(30, 60):
        with mock.patch.object(long_lines, "LINE", length):
            (shown,) = lines_of([whole.encode() + b"\n"], WHOLE)
        entry = json.loads(shown)
        assert (entry["timestamp"], entry["level"], entry["logger"]) == ("2026-01-01T00:00:07Z", "info", "task")


def test_what_a_task_returned_that_is_large_is_shown_in_part():
    text = "Done. Returned value was: " + "x" * 2_000_000
    line = json.dumps({"timestamp": "2026-01-01T00:00:07Z", "level": "info", "event": text, "logger": "task"})
    (shown,) = lines_of([line.encode() + b"\n"], WHOLE)
    entry = check(shown.encode())
    assert entry["event"].startswith("Done. Returned value was: xxx") and len(shown) < 70_000
    assert (entry["timestamp"], entry["level"], entry["logger"]) == ("2026-01-01T00:00:07Z", "info", "task")


class Counted(io.BytesIO):
    asked = 0

    def read(self, size=-1):
        assert size > 0
        self.asked += size
        return super().read(size)


@pytest.mark.parametrize(("size", "limit", "kept"), [(0, 9, 0), (9, 9, 9), (300_000, 300_000, 300_000), (9, 0, 0)])
def test_a_file_is_kept_up_to_the_limit(size, limit, kept):
    pieces = list(task_log._pieces(Counted(b"x" * size), limit))
    whole = b"".join(data for _, data in pieces)
    assert whole.count(b"x" * kept) and (task_log._CUT.encode() in whole[kept:]) == (size > limit)
    assert [offset for offset, _ in pieces] == [sum(len(d) for _, d in pieces[:n]) for n in range(len(pieces))]


def test_a_file_of_any_size_is_read_a_little_beyond_the_limit():
    file = Counted(b"x" * 10_000_000)
    pieces = list(task_log._pieces(file, 100_000))
    assert max(len(data) for _, data in pieces) <= task_log._CHUNK
    assert file.asked == 100_001
