"""From the table to the scheduler."""

import time
import uuid
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError

from airflow_mqtt.database import operations
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
    """However many reports wait, whatever they say, and however many jobs were queued since the last one.

    The statements are the same to the letter, so that neither SQLAlchemy nor the database has more to read.
    """
    executor = world.executor()
    executor.sync()  # its housekeeping is due every half minute
    passes = []
    for size in (2, 40):
        ends = {
            JobEvent.SUCCEED: [world.queue(executor)[1].id for _ in range(size)],
            JobEvent.FAIL: [world.queue(executor)[1].id for _ in range(size)],
        }
        for end, ids in ends.items():
            for job_id in ids:
                world.drive(job_id, *TO_RUNNING, end)
        waiting = {world.queue(executor)[0].key for _ in range(size)}
        with world.statements() as seen:
            executor.sync()
        assert len(executor.get_event_buffer()) == 2 * size
        assert waiting <= executor.running
        passes.append(seen)
    assert passes[0] == passes[1]
    assert passes[0].count("BEGIN") == 1


def test_a_job_of_which_something_is_heard_is_not_looked_for(world):
    """It is known to be there. Of 1,000 that began and ended since the last pass, that was a tenth of it."""
    executor = world.executor()
    executor.sync()
    _, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING)
    with world.statements() as heard:
        executor.sync()
    world.queue(executor)
    world.drive(job.id, JobEvent.SUCCEED)
    with world.statements() as looked_for:
        executor.sync()
    assert len(looked_for) == len(heard) + 1


def test_a_pass_without_reports_writes_nothing(world):
    """On SQLite it would wait for whoever writes."""
    executor = world.executor()
    executor.sync()
    world.queue(executor)
    with world.statements() as seen:
        executor.sync()
    assert [statement for statement in seen if not statement.startswith(("SELECT", "BEGIN"))] == []


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
