"""The pure parts of the benchmarks, and that a fleet of theirs is one that the protocol understands."""

import json
import os
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.messages import Run
from fleet.jobs import engine_of, job_values, make_history, make_tables, queue_name
from fleet.report import PARTS, Result, percentile, plot, table
from fleet.scenarios import QUICK, ROWS
from fleet.stub import request_end
from fleet.workers import Fleet
from page import begin, end, fill
from peers import report as peers
from proc import family, processor_seconds, proportional_mib

MEASURED = Result(
    "20", "20 workers", jobs=5000, jobs_per_s=312.5, accepted_p50_ms=40, accepted_p99_ms=1200,
    processor_ms={"bridge": 1.5, "broker": 0.2}, idle_percent=0.5, memory_mib=80, heard_s=0.1,
)  # fmt: skip
TAKEN_OVER = Result("takeover", "a <takeover> & more", jobs=100, takeover_s=3.1, led_s=0.9, refused=2)
FAILED = Result("2000", "2,000 workers", error="TimeoutError: waited 240 s in vain for the end of all jobs")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.99, 7.0),
        ([3, 1, 2, 4], 0.5, 2),
        (range(1, 101), 0.99, 99),
        (range(1, 1001), 0.99, 990),
        ([1, 2], 0, 1),
    ],
)
def test_a_percentile_is_one_of_the_values(values, share, expected):
    assert percentile(values, share) == expected


def test_of_nothing_there_is_no_percentile():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_the_table_has_a_cell_for_each_column_and_says_what_was_not_measured():
    lines = table([MEASURED, TAKEN_OVER, FAILED]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert (
        "| 20 workers | 5,000 | 312.5 | 40 ms | 1,200 ms | 1.5 | 0.2 | - | - | - | 0.5 % | 80 MiB | 0.1 s | - | - |"
        in lines
    )
    assert "| 3.1 s | 0.9 s |" in lines[3]
    assert "(2 calls refused)" in lines[3]
    assert "in vain" in lines[4]
    assert all(f"{part}, ms/job" in lines[0] for part in PARTS)


def test_the_plot_is_an_svg_with_a_bar_for_each_figure():
    picture = ET.fromstring(plot([MEASURED, TAKEN_OVER, FAILED]))
    bars = [bar for bar in picture.findall(f"{SVG}rect") if bar.get("fill") != "white"]
    assert len(bars) == 3
    assert "20 workers" in {text.text for text in picture.findall(f"{SVG}text")}
    other = Result("x", "a <b> & c", jobs_per_s=625.0)
    widths = [float(bar.get("width")) for bar in ET.fromstring(plot([other, MEASURED])).findall(f"{SVG}rect")[1:3]]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)


def test_a_plot_of_nothing_is_a_plot():
    assert ET.fromstring(plot([FAILED])).tag == f"{SVG}svg"


def test_a_result_comes_back_from_json():
    assert Result(**json.loads(json.dumps(MEASURED.to_json()))) == MEASURED


def test_a_page_is_filled_between_its_comments_and_nowhere_else():
    other = f"{begin('x')}\nkept\n{end('x')}\n"
    page = f"before\n\n{begin('y')}\nold\n{end('y')}\n\nafter\n{other}"
    filled = fill(page, "y", "new \\1")
    assert filled == f"before\n\n{begin('y')}\n\nnew \\1\n{end('y')}\n\nafter\n{other}"
    assert fill(filled, "y", "new \\1") == filled
    with pytest.raises(ValueError, match="the page has no"):
        fill("nothing", "y", "new")


PEERS = [
    peers.Result("celery", "Celery, Redis", started_p50_ms=41, tasks_per_s=3.9, peak_mib=668.5, bytes_per_task=12_050),
    peers.Result("local", "LocalExecutor", started_p50_ms=206, tasks_per_s=4.8),
    peers.Result("edge", "Edge provider", error="exit code 1; what it said is above"),
]


def test_the_peers_table_has_a_cell_for_each_column():
    lines = peers.table(PEERS).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| Celery, Redis | 41 ms | - | 3.9 |")
    assert lines[2].endswith("| 12,050 |")
    assert "what it said is above" in lines[4]


def test_what_is_of_one_system_alone_is_said_as_far_as_it_was_measured():
    one = peers.Result("mqtt", "airflow-mqtt", first_ms=5500, ended_p50_ms=200, imports_ms=4800, slow_round_trips=2.0)
    one.stages_ms = {"queued → dispatched": 4.1}
    said = peers.own(one)
    assert "| queued → dispatched | 4.1 ms |" in said
    assert "took 5,500 ms" in said and "1.10 times both" in said
    assert "longer by 2.0 round trips" in said
    assert [peers.own(other) for other in PEERS] == ["", "", ""]
    assert peers.Result(**json.loads(json.dumps(one.to_json()))) == one


def test_the_peers_plot_has_a_bar_for_each_figure_that_was_measured():
    picture = ET.fromstring(peers.plot(PEERS))
    assert len([bar for bar in picture.findall(f"{SVG}rect") if bar.get("fill") != "white"]) == 6


def test_a_family_is_a_session_and_all_that_it_started():
    program = "import subprocess, sys; p = subprocess.Popen(['sleep', '60'], start_new_session=True); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        child = int(parent.stdout.readline())
        assert family(parent.pid) == {parent.pid, child}
        assert family(child) == {child}
        assert 0 < proportional_mib({child}) < proportional_mib({parent.pid, child})
        assert processor_seconds(parent.pid) >= 0
        os.kill(child, signal.SIGKILL)
    finally:
        parent.kill()
        parent.wait()


def test_rows_have_names_of_their_own_and_name_each_other():
    for rows in (ROWS, QUICK):
        names = [row.name for row in rows]
        assert len(set(names)) == len(names)
        for number, row in enumerate(rows):
            assert not row.half_of or row.half_of in names[:number]
            assert row.held <= row.workers * row.slots


def test_a_jobs_row_fits_the_table_and_its_workload_an_order():
    values = job_values(3, 2, now=1.0)
    assert values.keys() <= {column.name for column in tables.job.c}
    assert values["queue"] == queue_name(3, 2) == "q1"
    workload = json.loads(values["workload"])
    assert workload["ti"]["id"] == values["subject"]
    Run(job=values["id"], attempt=1, kind=values["kind"], slots=1, workload=workload).encode()


def test_the_stub_finds_where_a_request_ends():
    request = b"PATCH /x/run HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    assert request_end(request + b"GET") == len(request)
    assert request_end(request[:-1]) is None
    assert request_end(b"GET / HTTP/1.1\r\n") is None
    assert request_end(b"GET / HTTP/1.1\r\n\r\n") == 18


def test_a_history_is_made_by_doubling(tmp_path):
    url = f"sqlite:///{tmp_path}/airflow.db"
    make_tables(url)
    make_history(url, 777)
    engine = engine_of(url)
    with engine.connect() as connection:
        count, ids, numbers, living = connection.execute(
            sa.select(
                sa.func.count(),
                sa.func.count(tables.job.c.id.distinct()),
                sa.func.count(tables.job.c.map_index.distinct()),
                sa.func.sum(tables.job.c.finished_at.is_(None)),
            )
        ).one()
    engine.dispose()
    assert (count, ids, numbers, living) == (777, 777, 777, 0)


def test_a_fleet_takes_what_is_of_its_own_workers_and_leaves_the_rest(monkeypatch):
    """On the broker of `make fleet` are real workers too: to hear of one of these must not end the fleet's thread."""
    fleet = object.__new__(Fleet)
    fleet.workers, fleet._lock = {"w0": "ours"}, threading.RLock()
    taken = []
    for name in ("_take_order", "_take_ack", "_take_answer"):
        monkeypatch.setattr(Fleet, name, lambda self, worker, said, name=name: taken.append((name, worker)))
    for topic in ("queue/q0/jobs/{}", "worker/{}/ack", "worker/{}/response"):
        for worker in ("edge-1", "w0"):
            message = SimpleNamespace(topic=f"airflow/v1/{topic.format(worker)}", payload=b"{}")
            fleet._on_message(None, None, message)
    assert taken == [("_take_order", "ours"), ("_take_ack", "ours"), ("_take_answer", "ours")]
