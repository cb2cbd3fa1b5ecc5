"""Callbacks and connection tests, from the scheduler into the table and back: work that is no task."""

import base64
import json
import time
import uuid

import pytest

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.jobs import JobEvent
from integration.executor.world import TO_RUNNING


@pytest.fixture
def callback():
    from airflow_mqtt.executor import compat

    if not compat.RUNS_CALLBACKS:
        pytest.skip("this Airflow runs no callbacks on workers")
    from airflow.executors.workloads import BundleInfo, ExecuteCallback
    from airflow.executors.workloads.callback import CallbackDTO, CallbackFetchMethod

    return ExecuteCallback(
        callback=CallbackDTO(id=str(uuid.uuid4()), fetch_method=CallbackFetchMethod.IMPORT_PATH, data={"path": "a.b"}),
        dag_rel_path="dag.py",
        token="secret",
        log_path="executor_callbacks/d/r/c",
        bundle_info=BundleInfo(name="b"),
    )


def queue_callback(world, executor, callback):
    with world.session() as session:
        executor.queue_workload(callback, session=session)
    return world.jobs(subject=callback.callback.id)[-1]


def test_a_callback_from_queue_to_success(world, callback, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MQTT__CALLBACK_QUEUE", "gateways")
    executor = world.executor()
    job = queue_callback(world, executor, callback)
    assert (job.workload_type, job.queue, job.token) == ("ExecuteCallback", "gateways", "secret")
    assert executor.slots_occupied == 1
    world.drive(job.id, *TO_RUNNING)
    executor.sync()
    assert executor.get_event_buffer() == {callback.key: ("running", job.id)}
    world.drive(job.id, JobEvent.SUCCEED)
    executor.sync()
    assert executor.get_event_buffer() == {callback.key: ("success", None)}
    assert executor.slots_occupied == 0


def test_the_end_of_a_callback_is_marked_as_heard_once_the_scheduler_has_written_it_down(world, callback):
    executor = world.executor()
    job = queue_callback(world, executor, callback)
    world.drive(job.id, *TO_RUNNING, JobEvent.SUCCEED)
    executor.sync()
    assert executor.get_event_buffer() == {callback.key: ("success", None)}
    assert world.job(job.id).report_pending  # one that died here would leave it to the next scheduler
    executor.sync()
    assert executor.get_event_buffer() == {}
    assert not world.job(job.id).report_pending


@pytest.mark.parametrize("world", ["postgresql"], indirect=True)  # of SQLite there is one writer at a time
def test_the_end_of_a_callback_that_cannot_be_marked_yet_is_not_told_again(world, callback):
    executor = world.executor()
    job = queue_callback(world, executor, callback)
    world.drive(job.id, *TO_RUNNING, JobEvent.SUCCEED)
    executor.sync()
    assert executor.get_event_buffer() == {callback.key: ("success", None)}
    with world.session() as somebody:
        somebody.execute(tables.job.update().where(tables.job.c.id == job.id).values(log_bytes=1))
        executor.sync()
        executor.sync()
    assert world.job(job.id).report_pending
    executor.sync()
    assert not world.job(job.id).report_pending
    executor.sync()
    assert executor.get_event_buffer() == {}
    assert not executor._told


def test_a_callback_goes_to_the_default_queue_otherwise(world, callback):
    assert queue_callback(world, world.executor(), callback).queue == "default"


def test_a_callback_follows_the_tasks_of_its_dag(world, callback):
    """Before: it went to `[operators] default_queue`, which no worker served, and waited for ever."""
    executor = world.executor()
    world.worker("edge-1", "served")
    _, first = world.queue(executor, queue="of-its-run")
    world.queue(executor, queue="of-a-later-run")
    world.set_job(first.id, run_id="older")
    callback.log_path = f"executor_callbacks/{world.dag_id}/older/{callback.callback.id}"
    assert queue_callback(world, executor, callback).queue == "of-its-run"


@pytest.mark.parametrize(
    ("run", "workers", "queue"),
    [
        ("another", {"edge-1": ["served"]}, "of-its-dag"),
        ("", {"edge-1": ["few"], "edge-2": ["many", "few too"], "edge-3": ["many"]}, "many"),
        ("", {"edge-1": ["many"], "edge-2": ["default"], "edge-3": ["many"]}, "default"),
        ("", {"edge-1": []}, "default"),
    ],
)
def test_where_a_callback_goes_whose_run_has_sent_no_task(world, callback, run, workers, queue):
    for name, queues in workers.items():
        world.worker(name, *queues)
    world.worker("away", "a", "b", "c", state="offline")
    world.worker("also-away", "a", state="unknown")
    world.queue(world.executor(), queue="of-its-dag")
    dag = world.dag_id if run else "a-dag-without-jobs"
    callback.log_path = f"executor_callbacks/{dag}/{run or 'r'}/{callback.callback.id}"
    assert queue_callback(world, world.executor(), callback).queue == queue


def test_a_callback_that_nobody_starts_ends_after_a_time(world, callback, monkeypatch):
    """Before: its deadline stayed "queued" for ever, and nobody was told."""
    executor = world.executor()
    job = queue_callback(world, executor, callback)
    executor._keep_house()
    assert world.job(job.id).state == "queued"
    monkeypatch.setenv("AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT", "3000")
    world.set_job(job.id, queued_at=time.time() - 2900)
    executor._next_housekeeping = 0.0
    executor.sync()
    assert world.job(job.id).state == "queued"
    monkeypatch.setenv("AIRFLOW__MQTT__CALLBACK_QUEUED_TIMEOUT", "2800")
    executor._next_housekeeping = 0.0
    executor.sync()
    row = world.job(job.id)
    assert row.state == "cancelled" and "no worker has started it in 2800 s (queue 'default'" in row.reason
    executor.sync()
    assert executor.get_event_buffer() == {callback.key: ("failed", row.reason)}


def test_callbacks_of_a_scheduler_that_died_are_taken_over(world, callback):
    job = queue_callback(world, world.executor(job_id=1), callback)
    world.drive(job.id, *TO_RUNNING, JobEvent.FAIL, reason="exit code 1")
    heir = world.executor(job_id=2)
    heir.sync()  # takes it over
    heir.sync()
    assert heir.get_event_buffer() == {callback.key: ("failed", "exit code 1")}
    assert world.job(job.id).owner == "2"
    assert heir.slots_occupied == 0


def test_callbacks_of_a_living_scheduler_are_its_own(world, callback):
    living = world.scheduler()
    job = queue_callback(world, world.executor(living), callback)
    world.executor(world.scheduler()).sync()
    assert world.job(job.id).owner == str(living)


# --- connection tests


@pytest.fixture
def connection_test():
    from airflow_mqtt.executor import compat

    if not compat.TESTS_CONNECTIONS:
        pytest.skip("this Airflow tests no connections on workers")
    from airflow.executors.workloads import TestConnection

    return TestConnection(
        connection_test_id=uuid.uuid4(), connection_id="plc", timeout=60, queue="edge", token="secret"
    )


def queue_test(world, executor, test):
    with world.session() as session:
        executor.queue_workload(test, session=session)
    return world.jobs(subject=str(test.connection_test_id))[-1]


def test_a_connection_test_from_queue_to_its_end(world, connection_test):
    executor = world.executor()
    assert executor.supports_connection_test
    job = queue_test(world, executor, connection_test)
    assert (job.workload_type, job.kind, job.queue) == ("TestConnection", "airflow-connection-test", "edge")
    assert (job.token, json.loads(job.workload).get("token")) == ("secret", None)
    assert executor.slots_occupied == 1
    world.drive(job.id, *TO_RUNNING, JobEvent.SUCCEED)
    executor.sync()
    assert executor.get_event_buffer() == {connection_test.key: ("success", None)}
    assert executor.slots_occupied == 0


def test_a_connection_test_that_airflow_gives_up_is_ended(world, connection_test):
    executor = world.executor()
    job = queue_test(world, executor, connection_test)
    executor.fail_connection_test(connection_test.key)
    assert (world.job(job.id).state, executor.slots_occupied) == ("cancelled", 0)


def test_the_token_of_a_connection_test_keeps_its_scope(world, connection_test):
    """Its routes take no other, also once it runs."""
    executor = world.executor()
    job = queue_test(world, executor, connection_test)
    world.drive(job.id, *TO_RUNNING)
    world.set_job(job.id, token_at=0.0)
    executor.sync()
    claims = json.loads(base64.urlsafe_b64decode(world.job(job.id).token.split(".")[1] + "=="))
    assert (claims["sub"], claims["scope"]) == (str(connection_test.connection_test_id), "workload")
