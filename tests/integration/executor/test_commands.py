"""`airflow mqtt …`, through Airflow's own parser."""

import json
import time

import pytest
from sqlalchemy import insert, select

from airflow_mqtt.bridge import tables
from airflow_mqtt.protocol.jobs import JobEvent
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
