"""From the table to the scheduler."""

import base64
import json
import time
import uuid
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError

from airflow_mqtt.database import operations, tables
from airflow_mqtt.database.transitions import move
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from integration.executor.world import TO_RUNNING


def test_running_then_success(world):
    executor = world.executor()
    ti, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING)
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: ("running", job.id)}
    assert executor.has_task(ti)
    executor.sync()
    assert executor.get_event_buffer() == {}
    world.drive(job.id, JobEvent.SUCCEED, final_state="success")
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: ("success", None)}
    assert not executor.has_task(ti)
    executor.sync()
    assert executor.get_event_buffer() == {}


@pytest.mark.parametrize(
    ("events", "reason", "expected"),
    [
        ((JobEvent.FAIL,), "no worker can run it", "failed"),
        ((*TO_RUNNING, JobEvent.FAIL), "exit code 1", "failed"),
        ((*TO_RUNNING, JobEvent.LOSE), "worker silent", "failed"),
        ((*TO_RUNNING, JobEvent.CANCEL, JobEvent.CONFIRM), "airflow: not_running", "success"),
        ((*TO_RUNNING, JobEvent.CANCEL, JobEvent.CONFIRM), "operator: by hand", "failed"),
    ],
)
def test_ends(world, events, reason, expected):
    executor = world.executor()
    ti, job = world.queue(executor)
    world.drive(job.id, *events, reason=reason)
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: (expected, reason)}
    assert not executor.has_task(ti)


@pytest.mark.parametrize(("by", "expected"), [("operator: by hand", "failed"), ("airflow: gone", "success")])
def test_the_reason_of_a_wish_is_what_the_scheduler_hears(world, by, expected):
    from airflow_mqtt.database import operations

    executor = world.executor()
    ti, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING)
    with world.session() as session:
        operations.cancel(session, "", job.id, now=1.0, by="cli:x", reason=by)
    world.carry_out(job.id, JobEvent.CONFIRM)
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: (expected, by)}


@pytest.mark.parametrize("final_state", ["deferred", "up_for_reschedule", "awaiting_input"])
def test_a_task_that_defers_ends_without_a_word(world, final_state):
    executor = world.executor()
    ti, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING, JobEvent.SUCCEED, final_state=final_state)
    executor.sync()
    assert executor.get_event_buffer() == {}
    assert not executor.has_task(ti)


def test_the_late_end_of_a_dispatch_leaves_the_next_one_alone(world):
    """A deferred task that is queued again before the end of its first job was heard."""
    executor = world.executor()
    ti, first = world.queue(executor)
    world.drive(first.id, *TO_RUNNING)
    executor.sync()
    executor.get_event_buffer()
    world.set_task(ti, external_executor_id=None)
    _, second = world.queue(executor, world.task(ti.id))
    world.drive(first.id, JobEvent.SUCCEED, final_state=None)
    executor.sync()
    assert executor.get_event_buffer() == {}
    assert executor.has_task(ti)
    world.drive(second.id, *TO_RUNNING, JobEvent.SUCCEED, final_state="success")
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: ("success", None)}


def test_the_end_of_an_earlier_try_is_silent(world):
    """A retry gives the task instance a new id."""
    from airflow_mqtt.executor import compat

    executor = world.executor()
    ti, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING, JobEvent.FAIL, reason="exit code 1")
    world.set_task(ti, id=compat._key(str(uuid.uuid4())), try_number=2, state="up_for_retry")
    executor.sync()
    assert executor.get_event_buffer() == {}
    assert executor.slots_occupied == 0


@pytest.mark.parametrize("events", [(JobEvent.CANCEL, JobEvent.CONFIRM), (JobEvent.SUCCEED,)])
def test_a_task_that_was_cleared_while_it_ran_hears_of_the_end(world, events):
    """Clearing gives it a new id at once; it stays "restarting" until its dispatch is reported as ended."""
    from airflow_mqtt.executor import compat

    executor = world.executor()
    ti, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING)
    executor.sync()
    executor.get_event_buffer()
    world.set_task(ti, id=compat._key(str(uuid.uuid4())), state="restarting", external_executor_id=job.id)
    world.drive(job.id, *events, reason="airflow: heartbeat answered 410")
    executor.sync()
    assert executor.get_event_buffer()[ti.key][0] == "success"
    assert not executor.has_task(ti)


@pytest.mark.parametrize("world", ["postgresql"], indirect=True)  # of SQLite there is one writer at a time
def test_what_the_bridge_writes_at_this_moment_is_heard_with_the_next_pass(world):
    """Neither waits for the other, in whatever order they come to their rows."""
    executor = world.executor()
    ti, job = world.queue(executor)
    other, free = world.queue(executor)
    for one in (job, free):
        world.drive(one.id, *TO_RUNNING)
    with world.session() as bridge:
        step = move(job.id, JobState.RUNNING, 1, JobEvent.SUCCEED, now=1.0, by="b", final_state="success")
        bridge.execute(step.statement)
        executor.sync()
        assert executor.get_event_buffer() == {other.key: ("running", free.id)}
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: ("success", None)}


def test_a_row_that_makes_no_sense_is_set_aside(world):
    executor = world.executor()
    _, broken = world.queue(executor)
    _, garbled = world.queue(executor)
    good, fine = world.queue(executor)
    for job in (broken, garbled, fine):
        world.drive(job.id, *TO_RUNNING)
    world.set_job(broken.id, state="a state of the future")
    world.set_job(garbled.id, subject="no uuid")
    executor.sync()
    assert executor.get_event_buffer() == {good.key: ("running", fine.id)}
    assert executor.set_aside == 2
    assert executor.running == {good.key}
    executor.sync()
    assert executor.set_aside == 2  # not met again


def test_a_commit_that_is_not_answered_hides_no_report(world, monkeypatch):
    """The database commits, and dies before it says so: the rows are marked as heard and nobody has heard them."""
    from airflow_mqtt.executor import compat

    real = compat.own_session

    @contextmanager
    def without_an_answer():
        with real() as session:
            yield session
        raise OperationalError("commit", {}, Exception("server closed the connection unexpectedly"))

    executor = world.executor()
    ti, job = world.queue(executor)
    executor.sync()
    world.drive(job.id, *TO_RUNNING, JobEvent.SUCCEED, final_state="success")
    with monkeypatch.context() as patch:
        patch.setattr(compat, "own_session", without_an_answer)
        executor.sync()
    assert not world.job(job.id).report_pending
    assert executor.get_event_buffer() == {}
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: ("success", None)}
    executor.sync()
    assert executor.get_event_buffer() == {}


def test_what_was_adopted_after_such_a_commit_is_the_adopters_to_hear(world, monkeypatch):
    executor = world.executor()
    _, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING)
    executor._unsure = {job.id}
    world.set_job(job.id, owner="another")
    executor.sync()
    assert executor.get_event_buffer() == {}


@pytest.mark.parametrize(
    ("module", "function"), [("compat", "own_session"), ("store", "take_reports"), ("compat", "dispatches_of")]
)
def test_a_database_that_is_away_does_not_end_the_scheduler(world, monkeypatch, module, function):
    """And nothing is told before it is committed as heard."""

    def refuse(*_, **__):
        raise OperationalError("select", {}, Exception("no connection"))

    executor = world.executor()
    ti, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING)
    with monkeypatch.context() as patch:
        patch.setattr(f"airflow_mqtt.executor.{module}.{function}", refuse)
        executor.heartbeat()
    assert executor.get_event_buffer() == {}
    executor.heartbeat()
    assert executor.get_event_buffer() == {ti.key: ("running", job.id)}


def test_airflows_scheduler_does_not_fail_a_task_that_was_queued_again(world):
    """Airflow's own judgement of what we report: `process_executor_events` finds nothing to fail."""
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    executor = world.executor(job_id=None)
    ti, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING, JobEvent.SUCCEED, final_state="deferred")
    world.set_task(ti, state="scheduled")  # its trigger has fired
    executor.sync()
    with world.session() as session:
        SchedulerJobRunner.process_executor_events(
            executor=executor, job_id=None, scheduler_dag_bag=None, session=session
        )
    assert world.task(ti.id).state == "scheduled"


def test_airflows_scheduler_keeps_the_id_of_the_dispatch(world):
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    executor = world.executor(job_id=None)
    ti, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING)
    executor.sync()
    with world.session() as session:
        SchedulerJobRunner.process_executor_events(
            executor=executor, job_id=None, scheduler_dag_bag=None, session=session
        )
    assert world.task(ti.id).external_executor_id == job.id


def test_a_pass_is_one_transaction_with_a_constant_number_of_statements(world):
    """However many reports wait, whatever they say, and however many jobs were queued since the last one."""
    executor = world.executor()
    executor.sync()  # its housekeeping is due every half minute
    counts = []
    for size in (2, 40):
        ends = {
            JobEvent.SUCCEED: [world.queue(executor)[1].id for _ in range(size)],
            JobEvent.FAIL: [world.queue(executor)[1].id for _ in range(size)],
        }
        for end, ids in ends.items():
            for job_id in ids:
                world.drive(job_id, *TO_RUNNING, end)
        with world.statements() as seen:
            executor.sync()
        assert len(executor.get_event_buffer()) == 2 * size
        counts.append((seen.count("BEGIN"), len(seen)))
    assert counts[0] == counts[1]
    assert counts[0][0] == 1


def test_a_pass_without_reports_writes_nothing(world):
    """On SQLite it would wait for whoever writes."""
    executor = world.executor()
    executor.sync()
    world.queue(executor)
    with world.statements() as seen:
        executor.sync()
    assert [statement for statement in seen if not statement.startswith(("SELECT", "BEGIN"))] == []


# --- callbacks --------------------------------------------------------------------------------------------


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


def test_a_queue_that_nobody_serves_is_said_once_in_the_schedulers_log(world):
    executor = world.executor()
    said = []
    executor.log = SimpleNamespace(warning=lambda text, *values: said.append(text % values))
    world.worker("edge-1", "served")
    for queue in ("served", "unserved", "unserved"):
        _, job = world.queue(executor, queue=queue)
        world.set_job(job.id, queued_at=time.time() - 100)
    world.queue(executor, queue="just queued")

    def look():
        executor._next_housekeeping = 0.0
        executor._keep_house()
        found, said[:] = list(said), []
        return found

    (line,) = look()
    assert "No worker serves queue 'unserved' now, and 2 jobs wait in it" in line
    assert look() == []
    with world.session() as session:
        operations.disallow(session, "", "edge-1", [])
    assert ["'served'" in line for line in look()] == [True]
    world.worker("edge-2", "served", "unserved")
    assert look() == []
    with world.session() as session:
        operations.disallow(session, "", "edge-2", ["unserved"])
    assert len(look()) == 1  # anew


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


# --- connection tests -------------------------------------------------------------------------------------


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
