"""What is drawn of a picture, and what keys make of a view."""

import re
from dataclasses import replace

import pytest

from airflow_mqtt.monitor import tables
from airflow_mqtt.monitor.cells import fit, width
from airflow_mqtt.monitor.keys import KEYS, Order, View, press
from airflow_mqtt.monitor.picture import Picture
from airflow_mqtt.monitor.screen import Where, draw, once
from airflow_mqtt.monitor.tables import TABLES
from airflow_mqtt.protocol.messages import BridgeStatus, JobStatus, QueueStatus, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind, Topics

NOW = 1_767_261_720.0
TOPICS = Topics()
WHERE = Where("mqtt://monitor@broker:1883", "airflow")
MARKUP = "\x1b[2J\n<b>" + "x" * 10_000


def worker(picture: Picture, name: str, **values) -> None:
    given = {"state": "idle", "connection": 1, "instance": "i", "ts": NOW, "slots": 2, "free": 2, "running": 0}
    message = WorkerStatus(**{**given, **values})
    picture.apply(TOPICS.worker(name, TopicKind.STATUS), message.encode(), retained=False, now=NOW)


def queue(picture: Picture, name: str, **values) -> None:
    given = {"queued": 0, "running": 0, "oldest_age": 0.0, "workers_online": 1, "free_slots": 1, "ts": NOW}
    message = QueueStatus(**{**given, **values})
    picture.apply(TOPICS.queue_status(name), message.encode(), retained=True, now=NOW)


def job(picture: Picture, id_: str, now: float, **values) -> None:
    given = {
        "state": "running",
        "attempt": 1,
        "worker": "edge-1",
        "queue": "edge",
        "dag_id": "d",
        "task_id": id_,
        "ts": NOW,
    }
    picture.apply(TOPICS.job_status(id_), JobStatus(**{**given, **values}).encode(), retained=False, now=now)


@pytest.fixture
def picture() -> Picture:
    made = Picture("airflow")
    made.connect(NOW)
    bridge = BridgeStatus(state="leading", instance="site-1", epoch=7, ts=NOW, version="0.1.0")
    made.apply(TOPICS.bridge_status, bridge.encode(), retained=True, now=NOW)
    worker(made, "edge-2", state="running", running=1, free=1)
    worker(made, "edge-1")
    worker(made, "edge-3", state="offline", reason="lost")
    queue(made, "edge", queued=3, oldest_age=75, running=2, note="jobs wait: no worker serves queue 'edge'")
    queue(made, "a/b.c")
    job(made, "read", NOW - 60)
    job(made, "write", NOW - 10, state="cancelling", reason="airflow: heartbeat answered 409")
    return made


def text(picture: Picture, view: View, columns: int = 120, lines: int = 20, where: Where = WHERE) -> list[str]:
    drawn, _ = draw(picture, view, where, columns=columns, lines=lines, now=NOW)
    return ["".join(span for span, _ in line) for line in drawn]


def after(view: View, *keys: str) -> View:
    for key in keys:
        view = press(view, key)
    return view


def names(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines[6:] if line.strip()]


def test_a_picture_at_one_look(picture):
    lines = text(picture, View())
    assert "mqtt://monitor@broker:1883" in lines[0]
    assert "site-1 leads, epoch 7, version 0.1.0" in lines[1]
    assert "3 total, 1 running, 1 idle, 1 offline" in lines[2]
    assert "slots 6, used 1, free 5" in lines[2]
    assert "2 with workers, 3 wait (the oldest 1:15) in 2 queues" in lines[3]
    assert "workers 1-3 of 3" in lines[4]
    assert names(lines) == ["edge-3", "edge-2", "edge-1"], "trouble comes first"
    assert "lost" in lines[6]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("columns", "lines"), [(120, 30), (80, 24), (40, 10), (12, 7), (3, 2), (1, 1), (300, 8)])
def test_each_line_is_as_wide_as_the_screen_whatever_devices_say(picture, table, columns, lines):
    worker(picture, "e" * 64, state="offline", reason=MARKUP[:4000])
    queue(picture, "東京/\x1b]0;title\x07" * 5, note=MARKUP[:4000], queued=1)
    job(picture, "hostile", NOW, dag_id="\u202e" + MARKUP[:3000], state="東" * 300, reason="\x9b31m" * 100)
    for view in (
        View(table=table),
        View(table=table, typed=MARKUP),
        View(table=table, wanted="\x1b"),
        View(shows_help=True),
    ):
        drawn = text(picture, view, columns, lines, replace(WHERE, trouble=MARKUP if columns == 80 else ""))
        assert len(drawn) == lines
        for line in drawn:
            assert width(line) == columns
            assert line.isprintable()


def test_the_health_of_a_device(picture):
    figures = {"cpu": 99.6, "memory_used": 1, "memory_total": 3, "disk_free": 1, "disk_total": 0, "temperature": -4.5}
    worker(picture, "hot", health=figures, maintenance=True, own_maintenance=True, reason="disk full")
    (line,) = (line for line in text(picture, View(), 160) if line.startswith("hot"))
    assert line.split()[-8:] == ["s", "100%", "33%", "-", "-4", "C", "disk", "full"]
    by_disk = View(orders={"workers": Order("DISK", descending=False)})
    assert len(names(text(picture, by_disk))) == 4


def test_queues_and_jobs(picture):
    queues = text(picture, after(View(), "u"))
    assert names(queues) == ["edge", "a/b.c"]
    assert "no worker serves" in queues[6]
    jobs = text(picture, after(View(), "j"), 160)
    assert names(jobs) == ["d.read", "d.write"]
    assert "1:00" in jobs[6]
    assert "heartbeat answered 409" in jobs[7]


def test_it_says_which_jobs_it_cannot_know(picture):
    queue(picture, "edge", running=12)
    assert "known are 2 of 12" in text(picture, after(View(), "j"))[4]
    assert any("known are 2 of 12" in line for line in once(picture, WHERE, View(), ["jobs"], now=NOW))
    assert not any("known are" in line for line in once(picture, WHERE, View(), ["workers", "queues"], now=NOW))
    assert "from its first change" in "\n".join(text(picture, press(View(), "h"), 100, 40))


def test_trouble_is_said(picture):
    assert "trying again" in text(picture, View(), where=replace(WHERE, trouble="no connection; trying again"))[4]
    empty = Picture("airflow")
    assert "nothing has come" not in text(empty, View())[4]
    empty.connect(NOW)
    assert "nothing has come on airflow/v1/+/+/status" in text(empty, View())[4]


def test_sort_by_any_column_and_back(picture):
    view = View()
    seen = []
    for _ in TABLES["workers"].columns:
        seen.append(view.order.column)
        view = press(view, ">")
    assert sorted(seen) == sorted(column.name for column in TABLES["workers"].columns)
    assert press(press(view, ">"), "<").order == view.order
    by_name = View(orders={"workers": Order("WORKER", descending=False)})
    assert names(text(picture, by_name)) == ["edge-1", "edge-2", "edge-3"]
    assert names(text(picture, press(by_name, "r"))) == ["edge-3", "edge-2", "edge-1"]
    assert "WORKERv" in text(picture, press(by_name, "r"))[5]
    by_jobs = View(orders={"workers": Order("JOBS", descending=True)})
    assert names(text(picture, by_jobs)) == ["edge-2", "edge-1", "edge-3"], "equals by name, both ways"


def test_each_table_keeps_its_own_order():
    view = after(View(), "s", "u", "r", "j")
    assert view.order.column == "FOR"
    assert press(view, "w").order.column == "JOBS"
    assert press(view, "u").order == Order("WAIT", descending=False)


def test_a_filter_is_typed_kept_and_taken_back(picture):
    view = after(View(), "/", "E", "x", "backspace", "d", "g", "e", "-", "2")
    assert view.typed == view.wanted == "Edge-2"
    assert names(text(picture, view)) == ["edge-2"], "while it is typed, and q is a letter"
    assert after(view, "q").has_ended is False
    kept = press(view, "enter")
    assert (kept.typed, kept.wanted) == (None, "Edge-2")
    assert names(text(picture, press(kept, "esc"))) == ["edge-3", "edge-2", "edge-1"]
    assert press(view, "esc").wanted == ""
    assert names(text(picture, View(wanted="offline lost"))) == ["edge-3"]


def test_scrolling_ends_at_both_ends(picture):
    for number in range(100):
        worker(picture, f"w{number:03}", state="terminating")
    _, view = draw(picture, View(), WHERE, columns=80, lines=16, now=NOW)
    assert (view.page, view.rows) == (10, 103)
    assert after(view, "up").first == 0
    assert after(view, "down", "down").first == 2
    assert after(view, "page down").first == 10
    assert after(view, "end").first == after(view, "G", "down").first == 93
    assert after(view, "end", "page up").first == 83
    assert after(view, "end", "home").first == 0
    _, smaller = draw(picture, replace(after(view, "end"), wanted="w00"), WHERE, columns=80, lines=16, now=NOW)
    assert smaller.first == 0


def test_the_other_keys():
    view = View()
    assert press(view, "q").has_ended
    assert press(view, " ").is_due
    assert press(view, "+").interval == 4.0
    assert after(view, "-", "-", "-", "-").interval == 0.5
    assert after(view, *"+" * 20).interval == 60.0
    assert after(view, "tab").table == "queues"
    assert after(view, "tab", "tab", "tab").table == "workers"
    assert press(view, "x") == press(view, "") == press(view, "resize") == view
    assert press(view, "h").shows_help
    assert press(press(view, "?"), "j") == view, "any key goes back from the help"
    assert after(view, "h", "q").has_ended


def test_the_help_names_every_key_once(picture):
    lines = "\n".join(text(picture, press(View(), "h"), 100, 40))
    for key in KEYS:
        assert key.help in lines
    keys = [name for key in KEYS for name in key.keys]
    assert len(keys) == len(set(keys))


def test_a_frame_of_ten_thousand_workers_shows_a_page_and_judges_each_a_bounded_number_of_times(monkeypatch):
    picture = Picture("airflow")
    for number in range(10_000):
        worker(picture, f"w{number}")
    judged, cut = [], []
    monkeypatch.setattr(
        Picture, "state_of", lambda self, row, now, of=Picture.state_of: judged.append(row) or of(self, row, now)
    )
    monkeypatch.setattr(
        "airflow_mqtt.monitor.screen.fit", lambda *args, of=fit, **more: cut.append(args) or of(*args, **more)
    )
    lines = text(picture, View(), 120, 30)
    assert len(names(lines)) == 24
    assert len(judged) <= 2 * 10_000 + 24 * 5, "once to count, once to sort"
    assert len(cut) <= 25 * len(TABLES["workers"].columns)


def test_once_is_plain_text_with_all_rows_and_widths_of_their_own(picture):
    for number in range(200):
        worker(picture, f"w{number:03}")
    lines = once(picture, WHERE, View(), list(TABLES), now=NOW)
    assert sum(bool(re.match(r"w\d{3} ", line)) for line in lines) == 200
    assert any(line.startswith("d.read") for line in lines)
    assert all(line.isprintable() and line == line.rstrip() for line in lines)
    only = once(
        picture, WHERE, View(wanted="w1", orders={"workers": Order("WORKER", descending=True)}), ["workers"], now=NOW
    )
    rows = [line.split()[0] for line in only if line.startswith("w")]
    assert rows == sorted(rows, reverse=True)
    assert len(rows) == 100
    assert not any("d.read" in line for line in only)


def test_durations():
    assert [tables.duration(value) for value in (-1, 0, 59.9, 60, 3599, 3600, 86_399, 90_000)] == [
        "0 s", "0 s", "59 s", "1:00", "59:59", "1:00:00", "23:59:59", "1 d 01 h",
    ]  # fmt: skip
