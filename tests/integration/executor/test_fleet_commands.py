"""`airflow mqtt …` for many workers and jobs: patterns, filters, what is asked first, what is recorded, and the wait."""

import json
import os
import random
import string
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import yaml
from sqlalchemy import func, insert, select, update

from airflow_mqtt.database import tables
from airflow_mqtt.database.queries import jobs, workers
from airflow_mqtt.protocol.jobs import JobEvent
from integration.executor.world import TO_RUNNING

HOSTILE = "[/red]\x1b[2Jfine\nnext\u202e[bold]" + "x" * 10_000


@pytest.fixture
def terminal(monkeypatch):
    """Answer what a person is asked."""

    def answer(text):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or text)

    asked = []
    answer.asked = asked
    return answer


@pytest.fixture
def fleet(world):
    world.worker("edge-1", "a", "b")
    world.worker("edge-2", "a", state="offline")
    world.worker("north-1", "c", state="maintenance mode")


def names(text):
    return [row["name"] for row in json.loads(text)]


def desired(world):
    with world.session() as session:
        rows = session.execute(select(tables.worker.c.name, tables.worker.c.desired)).all()
    return {row.name: json.loads(row.desired) for row in rows}


def shut(world):
    return sorted(name for name, wished in desired(world).items() if wished.get("shutdown"))


def test_workers_by_name_state_queue_and_label(run, world, fleet):
    with world.session() as session:
        labelled = json.dumps({"queues": ["a"], "labels": {"site": "north"}})
        session.execute(update(tables.worker).where(tables.worker.c.name == "north-1").values(info=labelled))
    assert names(run("list-workers", "-o", "json")) == ["edge-1", "edge-2", "north-1"]
    assert names(run("list-workers", "edge-*", "-o", "json")) == ["edge-1", "edge-2"]
    assert names(run("list-workers", "-s", "offline", "--state", "maintenance mode", "-o", "json")) == [
        "edge-2",
        "north-1",
    ]
    assert names(run("list-workers", "-q", "b", "-o", "json")) == ["edge-1"]
    assert names(run("list-workers", "-l", "site=north", "-o", "json")) == ["north-1"]
    assert names(run("list-workers", "--sort", "name", "--descending", "-n", "1", "-o", "json")) == ["north-1"]


def test_what_may_be_sorted_by_is_what_the_queries_know(run, fleet):
    for sort in workers.SORTS:
        run("list-workers", "--sort", sort)
    for sort in jobs.SORTS:
        run("list-jobs", "--sort", sort, "--ascending")


def test_more_workers_than_a_page_are_all_listed(run, world, monkeypatch):
    from airflow_mqtt.executor.cli import looks

    monkeypatch.setattr(looks, "MAX_LIMIT", 2)
    for number in range(5):
        world.worker(f"edge-{number}", "a")
    assert len(names(run("list-workers", "-o", "json"))) == 5
    assert len(names(run("list-workers", "-n", "3", "-o", "json"))) == 3


@pytest.mark.parametrize("output", ["plain", "json", "table"])
def test_who_reads_no_more_ends_the_command_without_a_word(run, fleet, monkeypatch, capsys, output):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as caught:
            run("list-workers", "-o", output)
        monkeypatch.undo()
    assert (caught.value.code, capsys.readouterr().err) == (141, "")


def test_one_worker(run, world, fleet):
    _, job = world.queue(world.executor(), queue="a")
    world.drive(job.id, JobEvent.DISPATCH, worker="edge-1")
    run("set-comment", "edge-1", "on the roof")
    shown = json.loads(run("show-worker", "edge-1", "-o", "json"))
    assert (shown["worker"]["comment"], shown["worker"]["running"]) == ("on the roof", 1)
    assert [one["id"] for one in shown["jobs"]] == [job.id]
    assert [one["act"] for one in shown["acts"]] == ["set-comment"]
    assert yaml.safe_load(run("show-worker", "edge-1", "-o", "yaml"))["worker"]["queues"] == ["a", "b"]
    for output in ("table", "plain"):
        text = run("show-worker", "edge-1", "-o", output)
        assert "on the roof" in text and "dispatched" in text
    with pytest.raises(SystemExit, match="There is no worker edge-9"):
        run("show-worker", "edge-9")


def test_one_job_is_one_document_for_programs(run, world):
    _, job = world.queue(world.executor())
    world.drive(job.id, *TO_RUNNING)
    shown = json.loads(run("show-job", job.id, "-o", "json"))
    assert [event["event"] for event in shown["events"]] == ["queue", "dispatch", "accept", "start"]
    assert (shown["job"]["state"], shown["job"]["note"]) == ("running", "")


def test_why_one_job_waits(run, world, fleet):
    _, job = world.queue(world.executor(), queue="nobody's")
    assert json.loads(run("show-job", job.id, "-o", "json"))["job"]["note"] == 'no worker serves queue "nobody\'s"'
    assert "no worker serves" in run("show-job", job.id, "-o", "plain")


def test_jobs_by_pattern(run, world):
    ti, job = world.queue(world.executor(), queue="edge")
    world.queue(world.executor(), queue="other")
    assert len(json.loads(run("list-jobs", "--dag-id", f"{ti.dag_id[:6]}*", "-o", "json"))) == 2
    assert [one["job"] for one in json.loads(run("list-jobs", "-q", "ed*", "-o", "json"))] == [job.id]
    assert [one["job"] for one in json.loads(run("list-jobs", "--task-id", ti.task_id, "-o", "json"))] == [job.id]


def test_queues(run, world, fleet):
    world.queue(world.executor(), queue="nobody's")
    rows = {row["queue"]: row for row in json.loads(run("list-queues", "-o", "json"))}
    assert (rows["a"]["workers"], rows["nobody's"]["waiting"]) == ("1", "1")
    assert "no worker serves queue" in rows["nobody's"]["note"]


@pytest.mark.parametrize("output", ["table", "plain", "json", "yaml"])
def test_what_a_device_said_moves_no_cursor(run, world, output):
    world.worker("edge-1", "a")
    with world.session() as session:
        info = {"queues": ["a", HOSTILE], "labels": {HOSTILE: HOSTILE}, "version": HOSTILE}
        status = {"slots": 2, "reason": HOSTILE, "temperature": HOSTILE}
        session.execute(update(tables.worker).values(info=json.dumps(info), status=json.dumps(status)))
    for command in (["list-workers"], ["show-worker", "edge-1"], ["list-queues"]):
        text = run(*command, "-o", output)
        assert not {"\x1b", "\u202e"} & set(text)
        assert "fine" in text and "fine\nnext" not in text


# --- acts -------------------------------------------------------------------------------------------------------


def test_an_act_on_many(run, world, fleet):
    run("request-maintenance", "edge-*", "north-1", "-c", "new firmware")
    assert all(wished["maintenance"] for wished in desired(world).values())
    run("exit-maintenance", "edge-1", "edge-2")
    assert [wished["maintenance"] for wished in desired(world).values()].count(True) == 1
    run("add-queues", "edge-*", "d")
    assert {name: wished["queues"] for name, wished in desired(world).items()} == {
        "edge-1": ["a", "b", "d"], "edge-2": ["a", "d"], "north-1": None,
    }  # fmt: skip


def test_maintenance_without_a_word_is_not_taken(run, fleet, capsys):
    with pytest.raises(SystemExit) as caught:
        run("request-maintenance", "edge-1")
    assert caught.value.code == 2
    with pytest.raises(SystemExit, match="request-maintenance needs comment"):
        run("request-maintenance", "edge-1", "-c", " ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set-slots", "edge-1", "-5"), "a worker has 0 to 1000 slots"),
        (("set-slots", "edge-1", "9" * 30), "a worker has 0 to 1000 slots"),
        (("set-comment", "edge-1", "x" * 10_000), "a comment has at most 4096 characters"),
        (("add-queues", "edge-1", *map(str, range(300))), "a worker has at most 256 queues"),
        (("add-queues", "edge-1", "c", ""), "'' is no queue's name"),
        (("add-queues", "edge-1", "\x1b[2J"), "is no queue's name"),
    ],
)
def test_what_no_worker_takes_is_said_in_its_limits(run, world, fleet, arguments, said):
    with pytest.raises(SystemExit, match=f"That cannot be done: .*{said}"):
        run(*arguments)
    assert not any(desired(world).values())


@pytest.mark.parametrize(
    "arguments",
    [
        ("list-workers", "-n", "0"), ("list-jobs", "-n", "-1"), ("list-acts", "-n", "9" * 30), ("list-jobs", "-n", "x"),
        ("drain", "edge-1", "-c", "x", "--timeout", "nan"), ("drain", "edge-1", "-c", "x", "--timeout", "-1"),
        ("drain", "edge-1", "-c", "x", "--timeout", "soon"),
    ],
)  # fmt: skip
def test_a_number_that_makes_no_sense_is_not_understood(run, world, fleet, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "is no number of" in capsys.readouterr().err
    assert not any(desired(world).values())


#: No name is so long; and no two parts of it are alike, so that no database makes it short.
LONG = "".join(random.Random(1).choices(string.ascii_letters, k=10_000))


@pytest.mark.parametrize(
    "arguments",
    [
        ("show-worker", LONG), ("show-job", LONG), ("cancel-job", LONG), ("set-comment", LONG, "x"), ("allow", LONG, "a"),
        ("remove-worker", LONG), ("shutdown-worker", f"{LONG}*"), ("allow-calls", "a", LONG), ("allow", "edge-1", LONG),
        ("add-queues", "edge-1", LONG), ("list-workers", "-s", LONG), ("list-workers", "--sort", LONG), ("list-jobs", "-s", LONG),
        ("list-jobs", "--sort", LONG), ("list-jobs", "-n", LONG), ("set-slots", "edge-1", f"x{LONG}"), ("drain", LONG, "-c", "x"),
        ("check", "--device", LONG), ("show-worker", "\udcff"), ("cancel-job", "\udcff"), ("set-comment", "edge-1", "\udcff"),
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_in_a_line_that_can_be_read(run, world, fleet, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    told = caught.value.code if caught.value.code != 2 else capsys.readouterr().err.splitlines()[-1]
    assert 10 < len(told) < 500, told
    assert "database" not in told


def test_who_is_not_there_is_said_of_each_and_the_rest_is_done(run, world, fleet, capsys):
    with pytest.raises(SystemExit, match="There is no worker edge-9; `airflow mqtt list-workers` shows them"):
        run("shutdown-worker", "edge-1", "edge-8", "edge-9")
    captured = capsys.readouterr()
    assert "There is no worker edge-8" in captured.err
    assert "Shutdown is on its way to worker edge-1" in captured.out
    assert shut(world) == ["edge-1"]
    with pytest.raises(SystemExit, match=r"There is no worker south-\*"):
        run("set-slots", "south-*", "3")


def test_what_a_pattern_stands_for_is_asked_before_workers_stop(run, world, fleet, terminal):
    with pytest.raises(SystemExit, match="say --yes"):
        run("shutdown-worker", "edge-*")
    terminal("n")
    with pytest.raises(SystemExit, match="Nothing was done"):
        run("shutdown-worker", "edge-*")
    with pytest.raises(SystemExit, match="Nothing was done"):
        run("remove-worker", "*")
    assert shut(world) == []
    assert "2 workers (edge-1, edge-2)" in terminal.asked[0]
    terminal("y")
    run("shutdown-worker", "edge-*")
    assert shut(world) == ["edge-1", "edge-2"]
    run("remove-worker", "edge-*", "--yes")
    assert len(terminal.asked) == 3


def test_all_workers_stop_that_are_there(run, world, fleet, terminal):
    with pytest.raises(SystemExit, match="say --yes"):
        run("shutdown-all-workers")
    terminal("")
    with pytest.raises(SystemExit, match="Nothing was done"):
        run("shutdown-all-workers")
    assert shut(world) == []
    run("shutdown-all-workers", "-q", "c", "-y", "-c", "the site moves")
    assert shut(world) == ["north-1"]
    run("shutdown-all-workers", "-y")
    assert shut(world) == ["edge-1", "north-1"]
    with pytest.raises(SystemExit, match="Nothing is heard of any such worker"):
        run("shutdown-all-workers", "-q", "nobody", "-y")


def test_many_jobs_are_cancelled(run, world):
    ids = [world.queue(world.executor())[1].id for _ in range(3)]
    text = run("cancel-job", *ids, "-r", "wrong firmware")
    assert text.count("is cancelled") == 3
    with pytest.raises(SystemExit, match="There is no job nothing; `airflow mqtt list-jobs` shows them"):
        run("cancel-job", "nothing")
    assert {world.job(job_id).reason for job_id in ids} == {"operator: wrong firmware"}


def test_a_job_that_others_keep_moving_is_a_line(run, world, monkeypatch):
    _, job = world.queue(world.executor())
    monkeypatch.setattr("airflow_mqtt.database.operations._end", lambda *_, **__: None)
    with pytest.raises(SystemExit, match=f"Others keep moving job {job.id}; try again"):
        run("cancel-job", job.id)


def test_each_act_is_recorded_and_in_the_audit_log_of_airflow(run, world, fleet):
    from airflow.models.log import Log

    _, job = world.queue(world.executor())
    run("request-maintenance", "edge-1", "-c", "new battery")
    run("cancel-job", job.id)
    run("allow", "edge-*", "a")
    run("allow-calls", "a", "variables")
    acts = json.loads(run("list-acts", "-o", "json"))
    assert [(act["act"], act["subject"], act["detail"], act["outcome"]) for act in acts] == [
        ("allow-calls", "a", "variables", "wished"), ("allow", "edge-*", "a", "wished"),
        ("cancel", job.id, "operator: cancelled by hand", "cancelled"),
        ("request-maintenance", "edge-1", "new battery", "wished"),
    ]  # fmt: skip
    assert {act["by"].partition(":")[0] for act in acts} == {"cli"}
    assert [act["act"] for act in json.loads(run("list-acts", "edge-1", "-o", "json"))] == ["request-maintenance"]
    with world.session() as session:
        events = session.execute(select(Log.event, Log.dag_id).where(Log.event.like("mqtt %"))).all()
    assert set(events) >= {("mqtt request-maintenance", None), ("mqtt cancel", job.dag_id), ("mqtt allow", None)}


# --- drain ------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    from airflow_mqtt.executor.cli import drain

    monkeypatch.setattr(drain, "_INTERVAL", 0.05)


def in_maintenance(world, name):
    with world.session() as session:
        this = update(tables.worker).where(tables.worker.c.name == name)
        session.execute(this.values(state="maintenance mode"))


def test_drain_waits_until_nothing_runs(run, world, fleet, quick):
    _, job = world.queue(world.executor(), queue="a")
    world.drive(job.id, JobEvent.DISPATCH, worker="edge-1")
    world.drive(job.id, *TO_RUNNING[1:])

    def bridge():
        bound = time.monotonic() + 60
        while not desired(world)["edge-1"].get("maintenance") and time.monotonic() < bound:
            time.sleep(0.02)
        in_maintenance(world, "edge-1")
        world.drive(job.id, JobEvent.SUCCEED)

    other = threading.Thread(target=bridge)
    other.start()
    text = run("drain", "edge-*", "-c", "new firmware", "--timeout", "60")
    other.join()
    assert "1 of 2 drained; 1 jobs on edge-1" in text
    assert text.splitlines()[-1] == "2 of 2 drained"


def test_drain_waits_for_the_others_when_one_cannot_be_told(run, world, fleet, quick, capsys):
    with world.session() as session:
        this = update(tables.worker).where(tables.worker.c.name == "edge-1")
        session.execute(this.values(desired="{"))
    in_maintenance(world, "north-1")
    with pytest.raises(SystemExit, match="Worker edge-1 cannot be told: not a document of wishes"):
        run("drain", "*", "-c", "new firmware", "--timeout", "60")
    assert "2 of 2 drained" in capsys.readouterr().out


def test_drain_gives_up_with_a_code_of_its_own(run, world, fleet, quick, capsys):
    with pytest.raises(SystemExit) as caught:
        run("drain", "edge-1", "-c", "x", "--timeout", "0.1")
    assert caught.value.code == 124
    assert "stay in maintenance" in capsys.readouterr().err
    assert desired(world)["edge-1"]["maintenance"]


def test_drain_ends_at_ctrl_c(run, world, fleet, monkeypatch):
    from airflow_mqtt.executor.cli import drain

    def interrupted(_):  # as Python has it of SIGINT, which a process in the background may not get
        raise KeyboardInterrupt

    monkeypatch.setattr(drain, "time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupted))
    with pytest.raises(SystemExit) as caught:
        run("drain", "edge-1", "-c", "x")
    assert caught.value.code == 130


def test_drain_of_all_is_asked_first(run, world, fleet, terminal):
    terminal("n")
    with pytest.raises(SystemExit, match="Nothing was done"):
        run("drain", "-c", "x")
    assert not desired(world)["edge-1"].get("maintenance")
    with pytest.raises(SystemExit, match="No worker is like that"):
        run("drain", "south-*", "-c", "x")


# --- purge ------------------------------------------------------------------------------------------------------


def test_purge_deletes_what_ended_long_ago(run, world, terminal):
    old, young = (world.queue(world.executor())[1].id for _ in range(2))
    _, living = world.queue(world.executor())
    for job_id in (old, young):
        world.drive(job_id, JobEvent.FAIL)
    world.set_job(old, finished_at=time.time() - 9 * 86400, report_pending=False)
    world.log(old, 0, b"text")
    with world.session() as session:
        act = {"team_name": "", "by": "x", "act": "shutdown", "subject": "edge-1", "outcome": "wished"}
        session.execute(insert(tables.act), [act | {"at": time.time() - 9 * 86400}, act | {"at": time.time()}])
    terminal("n")
    with pytest.raises(SystemExit, match="Nothing was done"):
        run("purge", "--older-than", "7")
    assert "1 jobs that ended before" in terminal.asked[0] and "1 acts" in terminal.asked[0]
    assert "Deleted 1 jobs and 1 acts" in run("purge", "--older-than", "7", "-y")
    assert {job.id for job in world.jobs()} == {young, living.id}
    with world.session() as session:
        assert session.scalar(select(func.count()).select_from(tables.job_log)) == 0
        assert session.scalar(select(func.count()).where(tables.job_event.c.job_id == old)) == 0
    assert [act["act"] for act in json.loads(run("list-acts", "-o", "json"))] == ["purge", "shutdown"]
    assert "There is nothing" in run("purge", "--older-than", "7")


def test_purge_leaves_what_no_scheduler_has_heard(run, world):
    _, job = world.queue(world.executor())
    world.drive(job.id, JobEvent.FAIL)
    world.set_job(job.id, finished_at=time.time() - 9 * 86400)
    assert "There is nothing" in run("purge", "--older-than", "7", "-y")
    for days in ("-1", "nan", "inf", "1e300"):
        with pytest.raises(SystemExit, match="takes a number of days"):
            run("purge", "--older-than", days, "-y")
