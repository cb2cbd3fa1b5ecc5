"""`airflow mqtt …`, through Airflow's own parser."""

import json
import os
import subprocess
import sys
import time

import pytest
from sqlalchemy import insert, select, text

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.jobs import JobEvent
from demo.processes import free_port
from integration.executor.world import TO_RUNNING

WISHES = [
    ["request-maintenance", "edge-1", "-c", "x"], ["exit-maintenance", "edge-1"], ["shutdown-worker", "edge-1"],
    ["remove-worker", "edge-1"], ["set-comment", "edge-1", "x"], ["set-slots", "edge-1", "3"],
    ["add-queues", "edge-1", "c"], ["remove-queues", "edge-1", "a"], ["reset-queues", "edge-1"],
]  # fmt: skip


@pytest.fixture
def worker(world):
    with world.session() as session:
        row = {
            "name": "edge-1", "state": "idle", "seen_at": time.time(), "status": '{"slots": 4, "free": 3}',
            "info": '{"queues": ["a", "b"], "version": "0.1.0"}',
        }  # fmt: skip
        session.execute(insert(tables.worker).values(**row))

    def read():
        with world.session() as session:
            return session.execute(select(tables.worker)).one()

    return read


def test_list_workers(run, worker):
    (line,) = json.loads(run("list-workers", "-o", "json"))
    assert (line["name"], line["state"], line["slots"], line["free"]) == ("edge-1", "idle", "4", "4")
    assert line["queues"] == ["a", "b"]
    assert json.loads(run("list-workers", "-o", "json", "--team-name", "north")) == []


def test_what_workers_may_serve(run, worker):
    (line,) = json.loads(run("list-workers", "-o", "json"))
    assert line["not_allowed"] == []  # nobody has said anything yet
    assert "Nobody is listed yet" in run("allow", "--list")
    assert json.loads(run("allow", "--list", "-o", "json")) == []
    assert "Done" in run("allow", "edge-*", "a", "c")
    assert "nothing was changed" in run("allow", "edge-*", "c")
    assert json.loads(run("allow", "--list", "-o", "json")) == [
        {"worker": "edge-*", "queue": "a"}, {"worker": "edge-*", "queue": "c"},
    ]  # fmt: skip
    assert json.loads(run("list-workers", "-o", "json"))[0]["not_allowed"] == ["b"]
    assert "Still allowed: edge-* a, edge-* c" in run("disallow", "edge-1")  # whose device may be stolen
    assert "Still allowed: edge-* c" in run("disallow", "edge-*", "a")
    assert json.loads(run("list-workers", "-o", "json"))[0]["not_allowed"] == ["a", "b"]
    run("disallow", "edge-*")
    assert json.loads(run("allow", "--list", "-o", "json")) == []
    with pytest.raises(SystemExit, match="'no name' is no worker's name"):
        run("allow", "no name", "a")
    for incomplete in (
        ["allow"],
        ["allow", "edge-1"],
        ["disallow"],
        ["allow-calls"],
        ["allow-calls", "a", "dag-runs", "--all"],
    ):
        with pytest.raises(SystemExit, match="Say w"):
            run(*incomplete)


def test_a_site_that_believes_all_is_told_of_nobody(run, worker, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MQTT__ALLOW", "all")
    assert json.loads(run("list-workers", "-o", "json"))[0]["not_allowed"] == []


def test_what_jobs_of_a_queue_may_call(run, world):
    run("allow-calls", "edge", "xcoms-of-run", "variables")
    run("allow-calls", "*")
    assert json.loads(run("allow-calls", "--list", "-o", "json")) == [
        {"queue": "*", "rights": []}, {"queue": "edge", "rights": ["variables", "xcoms-of-run"]},
    ]  # fmt: skip
    run("allow-calls", "*", "--all")
    assert [row["queue"] for row in json.loads(run("allow-calls", "--list", "-o", "json"))] == ["edge"]
    with pytest.raises(SystemExit, match="There is no right anything: variables, "):
        run("allow-calls", "edge", "dag-runs", "anything")


def test_wishes(run, worker):
    run("request-maintenance", "edge-1", "-c", "new battery")
    assert worker().revision == 1
    assert json.loads(worker().desired)["maintenance"] is True
    assert json.loads(run("list-workers", "-o", "json"))[0]["comment"] == "new battery"
    run("shutdown-worker", "edge-1")
    assert json.loads(worker().desired)["shutdown"] is True
    run("exit-maintenance", "edge-1")
    wished = json.loads(worker().desired)
    assert (wished["maintenance"], wished["shutdown"], worker().revision) == (False, False, 3)


def test_what_a_worker_serves(run, worker):
    run("add-queues", "edge-1", "c", "d")
    run("remove-queues", "edge-1", "a")
    assert json.loads(worker().desired)["queues"] == ["b", "c", "d"]
    run("reset-queues", "edge-1")
    run("set-slots", "edge-1", "7")
    run("set-comment", "edge-1", "on the roof")
    wished = json.loads(worker().desired)
    assert (wished["queues"], wished["slots"], wished["comment"]) == (None, 7, "on the roof")
    run("set-slots", "edge-1")
    assert json.loads(worker().desired)["slots"] is None
    assert worker().news


def test_what_is_wished_already(run, worker):
    assert "Shutdown is on its way to worker edge-1" in run("shutdown-worker", "edge-1")
    assert "wished of worker edge-1 already" in run("shutdown-worker", "edge-1")
    assert worker().revision == 1


def test_what_no_worker_could_read(run, worker):
    with pytest.raises(SystemExit, match="That cannot be done: .*slots"):
        run("set-slots", "edge-1", "-1")
    assert worker().revision == 0


def test_a_worker_is_removed_by_the_bridge(run, worker):
    assert "Remove is on its way" in run("remove-worker", "edge-1")
    assert (worker().removal, worker().news) == (True, True)
    assert json.loads(run("list-workers", "-o", "json"))[0]["comment"] == "(to be forgotten)"


@pytest.mark.parametrize("command", WISHES, ids=lambda command: command[0])
def test_a_worker_that_is_not_there(run, world, command):
    name, _, *values = command
    with pytest.raises(SystemExit, match="There is no worker edge-9"):
        run(name, "edge-9", *values)


def test_a_row_that_makes_no_sense_hides_no_other(run, world, worker):
    with world.session() as session:
        row = {"name": "broken", "state": "idle", "seen_at": time.time(), "desired": '{"maintenance": 3}'}
        session.execute(insert(tables.worker).values(**row))
    assert [line["name"] for line in json.loads(run("list-workers", "-o", "json"))] == ["broken", "edge-1"]


@pytest.mark.parametrize("output", ["table", "plain", "json", "yaml"])
def test_what_a_device_said_moves_no_cursor_and_is_no_markup(run, world, output):
    _, job = world.queue(world.executor())
    world.drive(job.id, JobEvent.FAIL, reason="[/red]\x1b[2Jfine\nnext\u202e[bold]x")
    for command in (["list-jobs"], ["show-job", job.id]):
        text = run(*command, "-o", output)
        assert not {"\x1b", "\u202e"} & set(text)
        assert "fine" in text and "fine\nnext" not in text
    if output in ("table", "plain"):
        unfolded = "".join(line.rpartition("|")[2].strip() for line in run("list-jobs", "-o", output).splitlines())
        assert r"[/red]\x1b[2Jfine\nnext\u202e[bold]x" in unfolded


def test_jobs(run, world):
    ti, job = world.queue(world.executor(), queue="edge")
    world.queue(world.executor())
    world.drive(job.id, *TO_RUNNING)
    assert len(json.loads(run("list-jobs", "-o", "json"))) == 2
    (line,) = json.loads(run("list-jobs", "--queue", "edge", "--state", "running", "-o", "json"))
    assert line["job"] == job.id
    assert ti.task_id in line["what"]
    text = run("show-job", job.id, "-o", "plain")
    assert [word for word in ("queue", "dispatch", "accept", "start") if word in text] == [
        "queue", "dispatch", "accept", "start",
    ]  # fmt: skip


def test_cancel_fails_the_task_with_what_the_operator_said(run, world):
    executor = world.executor()
    ti, job = world.queue(executor)
    assert "is cancelled" in run("cancel-job", job.id, "-r", "wrong firmware")
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: ("failed", "operator: wrong firmware")}


def test_cancel_of_a_running_job_waits_for_the_bridge(run, world):
    executor = world.executor()
    ti, job = world.queue(executor)
    world.drive(job.id, JobEvent.DISPATCH, worker="edge-1")
    world.drive(job.id, *TO_RUNNING[1:])
    assert "is to be ended on worker edge-1" in run("cancel-job", job.id, "-r", "too hot")
    assert world.job(job.id).state == "running"
    (line,) = json.loads(run("list-jobs", "-o", "json"))
    assert line["reason"] == "to be ended: operator: too hot"
    assert "is being ended on worker edge-1 already" in run("cancel-job", job.id)
    world.carry_out(job.id)
    assert "is being ended on worker edge-1 already" in run("cancel-job", job.id)
    world.drive(job.id, JobEvent.CONFIRM, reason="operator: too hot")
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: ("failed", "operator: too hot")}


def test_tokens_and_workloads_are_not_read(run, world):
    _, job = world.queue(world.executor())
    with world.statements() as seen:
        run("list-jobs", "-o", "json")
        run("show-job", job.id, "-o", "json")
        run("cancel-job", job.id)
    asked = [statement for statement in seen if "FROM mqtt_job" in statement]
    assert len(asked) == 5
    assert not any("token" in one or "mqtt_job.workload " in one or "mqtt_job.workload," in one for one in asked)


def test_cancel_of_what_has_ended_or_never_was(run, world):
    _, job = world.queue(world.executor())
    world.drive(job.id, JobEvent.FAIL)
    with pytest.raises(SystemExit, match="has already ended: it is failed"):
        run("cancel-job", job.id)
    with pytest.raises(SystemExit, match="There is no job"):
        run("cancel-job", "nothing")


ALL = [
    ["list-workers"], ["show-worker", "edge-1"], ["list-jobs"], ["show-job", "one"], ["list-queues"], ["list-acts"],
    ["cancel-job", "one"], ["drain", "edge-1", "-c", "x"], ["shutdown-all-workers", "-y"],
    ["purge", "--older-than", "1", "-y"], ["allow", "edge-1", "a"], *WISHES,
]  # fmt: skip


@pytest.fixture
def without_tables(world):
    with world.session() as session:
        tables.metadata.drop_all(session.connection())
    yield
    with world.session() as session:
        tables.metadata.create_all(session.connection())


@pytest.mark.parametrize("command", ALL, ids=lambda command: command[0])
def test_tables_that_are_not_there_are_said_in_one_line(run, without_tables, command):
    with pytest.raises(SystemExit) as caught:
        run(*command)
    assert caught.value.code == "the database has not the tables of airflow-mqtt: run `airflow db migrate`"


WRITES = [
    ["set-comment", "edge-1", "hot"], ["cancel-job", "{job}"], ["allow", "edge-1", "a"],
    ["drain", "edge-1", "-c", "x"], ["shutdown-all-workers", "-y"], ["remove-worker", "edge-1"],
]  # fmt: skip


@pytest.fixture
def read_only(world):
    """The address of the database for somebody who may look and no more."""
    from airflow import settings

    with world.session() as session:
        if not session.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = 'looker'")):
            session.execute(text("CREATE ROLE looker LOGIN PASSWORD 'looks'"))
        session.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker"))
    return settings.engine.url.set(username="looker", password="looks").render_as_string(hide_password=False)


@pytest.mark.parametrize("world", ["postgresql"], indirect=True)  # which knows users
def test_a_user_who_may_only_look_looks_and_is_told_what_an_act_takes(world, read_only):
    """As a process: Airflow itself must go on with such a user, too."""
    world.worker("edge-1", "a")
    _, job = world.queue(world.executor())
    environment = {**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": read_only}
    program = (
        "import json, sys; from airflow.cli import cli_parser; parser = cli_parser.get_parser()\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        args = parser.parse_args(['mqtt', *command])\n"
        "        args.func(args)\n"
        "    except SystemExit as ended: print(json.dumps(ended.code))\n"
        "    else: print('done')\n"
    )
    commands = [["list-workers", "-o", "plain"], *([word.format(job=job.id) for word in words] for words in WRITES)]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    _, shown, looked, *told = done.stdout.splitlines()
    assert (shown.split()[0], looked) == ("edge-1", "done"), done.stdout
    assert len(told) == len(WRITES)
    for line in map(json.loads, told):
        assert line.startswith("the database does not allow that: ")
        assert line.endswith(
            "; it takes a user in [database] sql_alchemy_conn who may write Airflow's tables and those of airflow-mqtt"
        )
    assert world.jobs()[0].state == "queued"


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)  # whose database is not the one that is meant
@pytest.mark.parametrize("kind", ["nobody answers", "no directory", "no database"])
def test_a_database_that_does_not_answer_is_said_in_one_line(world, tmp_path, kind):
    """As a process: Airflow itself must not have met it before."""
    (tmp_path / "text").write_text("no database, but a text that somebody wrote\n" * 100)
    url = {
        "nobody answers": f"postgresql+psycopg2://u:p@127.0.0.1:{free_port()}/d",
        "no directory": f"sqlite:///{tmp_path}/missing/airflow.db",
        "no database": f"sqlite:///{tmp_path}/text",
    }[kind]
    environment = {**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url, "AIRFLOW_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "airflow", "mqtt", "list-workers"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    said = done.stderr.splitlines()
    assert done.returncode == 1, done.stdout + done.stderr
    assert said[-1].startswith("the database does not answer: "), done.stderr
    assert said[-1].endswith("; check [database] sql_alchemy_conn")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("offset", "clock", "told"), [(None, "", ""), (1.4, "-1 s", ""), (-7200.0, "+7200 s", "ahead")]
)
def test_list_workers_shows_how_far_a_clock_is_off(run, worker, world, offset, clock, told):
    with world.session() as session:
        session.execute(tables.worker.update().values(clock_offset=offset))
    (line,) = json.loads(run("list-workers", "-o", "json"))
    assert line["clock"] == clock
    assert line["comment"] == (f"(its clock is 2:00:00 {told})" if told else "")
