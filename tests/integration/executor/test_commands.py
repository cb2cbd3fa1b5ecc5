"""`airflow mqtt …`, through Airflow's own parser."""

import json
import os
import subprocess
import sys
import time

import pytest
from sqlalchemy import insert, select

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.jobs import JobEvent
from demo.processes import free_port
from integration.executor.world import TO_RUNNING


@pytest.fixture
def run(capsys):
    """Run a command in this process and return what it printed."""
    from airflow.cli import cli_parser

    parser = cli_parser.get_parser()

    def run_command(*arguments):
        args = parser.parse_args(["mqtt", *arguments])
        capsys.readouterr()
        args.func(args)
        return capsys.readouterr().out

    return run_command


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
    assert (line["name"], line["state"], line["slots"], line["free"]) == ("edge-1", "idle", "4", "3")
    assert line["queues"] == ["a", "b"]
    assert json.loads(run("list-workers", "-o", "json", "--team-name", "north")) == []


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


def test_a_worker_that_is_not_there(run, world):
    with pytest.raises(SystemExit, match="There is no worker edge-9"):
        run("shutdown-worker", "edge-9")


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


def test_cancel_of_a_running_job_waits_for_its_worker(run, world):
    _, job = world.queue(world.executor())
    world.drive(job.id, *TO_RUNNING, worker="edge-1")
    assert "is being cancelled on worker edge-1" in run("cancel-job", job.id)
    assert world.job(job.id).state == "cancelling"


def test_cancel_of_what_has_ended_or_never_was(run, world):
    _, job = world.queue(world.executor())
    world.drive(job.id, JobEvent.FAIL)
    with pytest.raises(SystemExit, match="has already ended: it is failed"):
        run("cancel-job", job.id)
    with pytest.raises(SystemExit, match="There is no job"):
        run("cancel-job", "nothing")


ALL = [
    ["list-workers"], ["list-jobs"], ["show-job", "one"], ["cancel-job", "one"], ["request-maintenance", "edge-1"],
    ["exit-maintenance", "edge-1"], ["shutdown-worker", "edge-1"],
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
