"""Every line that bridge and executor write into a task's log has the fields and types that Airflow's page shows.

Those of worker and runner: `worker/test_task_log.py`.
"""

import ast
import io
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mqtt.bridge.dispatch.reports import within
from airflow_mqtt.executor import task_log
from airflow_mqtt.executor.task_log import Part, assemble, lines_of
from airflow_mqtt.protocol import task_log as lines
from bridge_samples import job
from log_schema import check

ROOT = Path(__file__).parents[2]
PARTS = ("protocol", "config", "database", "bridge", "executor", "worker", "monitor", "cli")


def test_the_bridge_says_where_it_cut_a_log():
    kept, said, rest = within(b"x" * 20, job(), 10, 1.5).split(b"\n")
    assert (kept, rest) == (b"x" * 10, b"")
    assert "log_limit of the bridge (10 bytes)" in check(said)["event"]


def test_the_executor_says_where_it_cut_the_log_of_a_triggerer():
    *_, (_, cut) = task_log._pieces(io.BytesIO(b"x" * 20), 10)
    assert check(cut.strip(b"\n"))["event"] == task_log._CUT


def test_the_executor_says_what_is_missing():
    part = Part("job", 1, "", complete=False, size=8, where="They are on worker edge-1.", last_word="More is to come.")
    *_, gap, _, word = lines_of(assemble([(0, b"one\n"), (90, b"two\n")]), part)
    assert "86 bytes" in check(gap.encode())["event"]
    assert check(word.encode())["event"] == "More is to come."


@pytest.mark.parametrize("at", [0.0, -5.0, 1e300, 1.5, "2026-01-01T00:00:00Z"])
def test_a_line_has_a_time_whatever_a_clock_says(at):
    check(lines.line(at, "info", "x\x00\ud800" * 5000, "airflow_mqtt.executor"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20) | st.text("\x00ä€", max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5), st.integers(0, 4), st.integers(1, 200_000))
@settings(max_examples=60, deadline=None)
def test_an_entry_of_any_length_stays_one_with_its_time_and_level(more, depth, size):
    large = "\x01ä" * size
    for _ in range(depth):
        large = [large, {"in": large}] if depth < 3 else [large]
    entry = more | {"timestamp": "2026-01-01T00:00:00Z", "level": "info", "logger": "x", "event": "said", "more": large}
    line = orjson.dumps(entry)
    short = lines.fitted(line)
    assert len(short) <= lines.LONGEST
    found = orjson.loads(short)
    assert all(found[name] == entry[name] for name in ("timestamp", "level", "logger", "event"))
    assert found == entry or ("left out" in short.decode() or "more" not in found)


def test_of_very_many_values_an_entry_keeps_what_it_needs():
    entry = {"timestamp": "t", "level": "error", "logger": "x", "event": "y" * 10**6, "many": list(range(10**5))}
    found = orjson.loads(lines.fitted(orjson.dumps(entry)))
    assert found.keys() == {"timestamp", "level", "logger", "event"}
    assert found["event"].startswith("yyy") and found["event"].endswith("characters are left out)")


@pytest.mark.parametrize("line", [b"x" * 10**6, b"[" + b"1," * 10**5 + b"1]"])
def test_what_is_no_entry_stays_as_it_is(line):
    assert lines.fitted(line) == line


def test_nobody_writes_such_a_line_by_hand():
    """All come from `protocol.task_log.line`: no text in our code is a piece of one."""
    found = [
        (file.name, node.lineno)
        for part in PARTS
        for file in (ROOT / part).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and '"event":' in (str(node.value)).replace(" ", "")
    ]
    assert found == []
