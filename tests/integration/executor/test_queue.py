"""From the scheduler into the table: new dispatches, what a task asks for, and revocation."""

import json
import uuid
from select import select as select_fds

import pytest
from sqlalchemy import create_engine, inspect, select, text

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.errors import SettingError
from airflow_mqtt.protocol.jobs import JobEvent
from integration.executor.world import TO_RUNNING


def test_db_migrate_made_the_tables(world):
    from airflow import settings

    names = set(inspect(settings.engine).get_table_names())
    assert {*tables.metadata.tables, "alembic_version_mqtt"} <= names


def test_a_job_is_in_the_schedulers_transaction(world):
    executor = world.executor()
    ti = world.queued_task()
    with world.session() as session:
        executor.queue_workload(world.workload(executor, ti), session=session)
        assert session.scalar(select(tables.job.c.state)) == "queued"
        assert world.jobs() == []  # nobody else sees it before the scheduler commits
    assert [job.state for job in world.jobs()] == ["queued"]
    assert world.events(world.jobs()[0].id) == ["queue"]


def test_it_never_commits_for_the_scheduler(world):
    """Airflow forbids it where workloads are queued: the lock on the pools would go with the commit."""
    from airflow.utils.sqlalchemy import prohibit_commit

    executor = world.executor()
    ti = world.queued_task()
    with world.session() as session, prohibit_commit(session) as guard:
        executor.queue_workload(world.workload(executor, ti), session=session)
        guard.commit()
    assert len(world.jobs()) == 1


def test_a_rollback_leaves_nothing_and_frees_the_slot(world):
    executor = world.executor(parallelism=3)
    ti = world.queued_task()
    with world.session() as session:
        executor.queue_workload(world.workload(executor, ti), session=session)
        session.rollback()
    assert world.jobs() == []
    assert executor.slots_available == 2
    executor.sync()
    assert executor.slots_available == 3
    assert not executor.running


def test_the_job_is_called_as_airflow_calls_the_dispatch(world):
    ti, job = world.queue(world.executor())
    assert ti.external_executor_id == job.id
    assert job.subject == str(ti.id)


def test_columns(world):
    executor = world.executor(job_id=42)
    ti, job = world.queue(executor, queue="edge/a b", priority_weight=7, pool_slots=3, map_index=5, try_number=2)
    assert (job.owner, job.queue, job.priority, job.slots) == ("42", "edge/a b", 7, 3)
    assert (job.dag_id, job.run_id, job.task_id) == (ti.dag_id, ti.run_id, ti.task_id)
    assert (job.map_index, job.try_number, job.attempt, job.kind) == (5, 2, 1, "airflow")
    assert job.log_path.endswith("attempt=2.log")
    assert not job.report_pending


def test_the_token_is_not_in_what_the_device_gets(world):
    _, job = world.queue(world.executor())
    document = json.loads(job.workload)
    assert "token" not in document
    assert job.token
    assert job.token not in job.workload
    assert document["ti"]["id"] == job.subject
    assert document["type"] == "ExecuteTask"


def test_the_document_is_airflows_own(world):
    from airflow.executors.workloads import ExecuteTask

    ti, job = world.queue(world.executor())
    again = ExecuteTask.model_validate({**json.loads(job.workload), "token": ""})
    assert again.ti.key == ti.key
    assert str(again.dag_rel_path) == "dag.py"


def test_parallelism_counts_at_once(world):
    executor = world.executor(parallelism=2)
    ti, _ = world.queue(executor)
    world.queue(executor)
    assert executor.slots_available == 0
    assert executor.slots_occupied == 2
    assert executor.has_task(ti)
    executor.heartbeat()
    assert executor.slots_available == 0


def test_a_new_dispatch_takes_the_place_of_one_that_has_not_started(world):
    """Two jobs of one task instance would race for the start gate, and the loser's failure would fail the winner."""
    executor = world.executor()
    ti, first = world.queue(executor)
    world.drive(first.id, JobEvent.DISPATCH)
    world.set_task(ti, external_executor_id=None)
    _, second = world.queue(executor, world.task(ti.id))
    assert second.id != first.id
    assert world.task(ti.id).external_executor_id == second.id
    wished = world.job(first.id)
    assert (wished.state, wished.cancel_reason, wished.cancel_by) == (
        "dispatched", "superseded by a newer dispatch", "scheduler:1",
    )  # fmt: skip
    world.carry_out(first.id, JobEvent.CONFIRM)
    executor.sync()
    assert executor.event_buffer == {}
    assert executor.has_task(ti)


@pytest.mark.parametrize("again", [True, False], ids=["the same id", "a new id"])
def test_one_that_still_waits_ends_with_the_new_dispatch(world, again):
    """No bridge has a hand in it. The id may be left over, too: a scheduler with other executors leaves it there."""
    executor = world.executor()
    ti, first = world.queue(executor)
    if not again:
        world.set_task(ti, external_executor_id=str(uuid.uuid4()))
    _, second = world.queue(executor, world.task(ti.id))
    assert second.id != first.id
    assert [world.job(job.id).state for job in (first, second)] == ["cancelled", "queued"]


def test_a_new_dispatch_is_committed_together_with_the_end_of_the_old_one(world):
    executor = world.executor()
    ti, first = world.queue(executor)
    world.drive(first.id, JobEvent.DISPATCH)
    world.set_task(ti, external_executor_id=None)
    with world.session() as session:
        executor.queue_workload(world.workload(executor, world.task(ti.id)), session=session)
        session.rollback()
    assert [(job.id, job.cancel_reason) for job in world.jobs()] == [(first.id, None)]


@pytest.mark.parametrize("events", [TO_RUNNING, (*TO_RUNNING, JobEvent.CANCEL)])
def test_a_new_dispatch_never_touches_a_job_that_has_started(world, events):
    executor = world.executor()
    ti, first = world.queue(executor)
    before = world.drive(first.id, *events)
    world.set_task(ti, external_executor_id=None)
    world.queue(executor, world.task(ti.id))
    assert world.job(first.id) == before


def test_a_new_dispatch_never_touches_a_job_that_starts_meanwhile(world, monkeypatch):
    """The gate has opened since the scheduler saw it."""
    from airflow_mqtt.executor import store

    executor = world.executor()
    ti, first = world.queue(executor)
    world.drive(first.id, JobEvent.DISPATCH, JobEvent.ACCEPT)
    world.set_task(ti, external_executor_id=None)
    real, started = store.jobs_of_subject, []

    def before_it_started(*arguments):
        seen = real(*arguments)
        started.append(world.drive(first.id, JobEvent.START))
        return seen

    monkeypatch.setattr(store, "jobs_of_subject", before_it_started)
    world.queue(executor, world.task(ti.id))
    assert [world.job(first.id)] == started


def test_jobs_that_have_ended_are_not_read_again(world):
    """A sensor that is rescheduled leaves one with each look."""
    from airflow_mqtt.executor import store

    executor = world.executor()
    ti, first = world.queue(executor)
    world.drive(first.id, *TO_RUNNING, JobEvent.SUCCEED, final_state="up_for_reschedule")
    world.set_task(ti, external_executor_id=None)
    _, second = world.queue(executor, world.task(ti.id))
    with world.session() as session, world.statements() as seen:
        living = store.jobs_of_subject(session, None, str(ti.id))
        named = store.jobs_of_subject(session, first.id, str(ti.id))
    assert [job.id for job in living] == [second.id]
    assert {job.id for job in named} == {first.id, second.id}
    assert not any("token" in statement or "workload" in statement for statement in seen)


def test_an_id_left_over_from_an_earlier_dispatch_is_not_used_twice(world):
    executor = world.executor()
    ti, first = world.queue(executor)
    world.drive(first.id, *TO_RUNNING)
    again, second = world.queue(executor, world.task(ti.id))
    assert second.id != first.id
    assert again.external_executor_id == second.id
    assert world.job(first.id).state == "running"


def test_what_it_cannot_run_is_refused(world):
    with world.session() as session, pytest.raises(ValueError, match="Un-handled workload"):
        world.executor().queue_workload(object(), session=session)


@pytest.mark.parametrize("world", ["postgresql"], indirect=True)  # LISTEN is PostgreSQL's
def test_postgresql_wakes_the_bridge_on_commit(world):
    from airflow import settings

    executor = world.executor(team_name="north")
    with create_engine(settings.SQL_ALCHEMY_CONN).connect() as listener:
        raw = listener.connection.dbapi_connection
        raw.autocommit = True
        raw.cursor().execute(f"LISTEN {tables.NOTIFY_CHANNEL}")
        ti = world.queued_task()
        with world.session() as session:
            executor.queue_workload(world.workload(executor, ti), session=session)
            session.execute(text("select 1"))
            raw.poll()
            assert raw.notifies == []
        assert select_fds([raw], [], [], 30)[0]  # it comes when it comes
        raw.poll()
        assert [note.payload for note in raw.notifies] == ["north"]


# --- what a task asks for


def test_labels_and_a_deadline_stand_beside_the_workload(world):
    """The workload itself, which the device gets, does not hold them."""
    config = {"mqtt": {"labels": {"site": "north", "camera": "yes"}, "start_within": 60}, "other": {"x": 1}}
    _, job = world.queue(world.executor(), executor_config=config)
    assert (job.state, job.labels) == ("queued", '{"camera":"yes","site":"north"}')
    assert job.not_after == job.queued_at + 60
    assert "executor_config" not in job.workload and "camera" not in job.workload


def test_who_asks_for_nothing_waits_for_anybody_without_end(world):
    _, job = world.queue(world.executor())
    assert (job.labels, job.not_after) == ("{}", None)


def test_the_option_of_a_queue_is_the_deadline_of_its_jobs(world, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MQTT__START_WITHIN", "gateways=600,*=30")
    executor = world.executor()
    _, job = world.queue(executor, queue="gateways")
    assert job.not_after == job.queued_at + 600
    _, job = world.queue(executor)
    assert job.not_after == job.queued_at + 30
    _, job = world.queue(executor, executor_config={"mqtt": {"start_within": 0}})
    assert job.not_after is None


def test_an_option_that_cannot_be_understood_is_said_at_the_start(world, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MQTT__START_WITHIN", "600")
    with pytest.raises(SettingError, match="start_within: '600' is not key=value; allowed: queue=seconds"):
        world.executor().start()


def test_a_task_that_asks_for_what_cannot_be_fails_with_what_to_write(world):
    """It must not stop the scheduler, nor be placed as if it had asked for nothing."""
    executor = world.executor()
    ti, job = world.queue(executor, executor_config={"mqtt": {"label": {"camera": "yes"}}})
    assert job.state == "failed"
    assert "executor_config cannot be understood: there is no 'label'; it is written like" in job.reason
    assert world.events(job.id) == ["queue", "fail"]
    executor.sync()
    assert executor.event_buffer[ti.key][0] == "failed"
    assert "there is no 'label'" in str(executor.event_buffer[ti.key][1])
    assert not executor.has_task(ti)


# --- revoke


def test_revoke_ends_a_job_that_waits_without_a_word(world):
    executor = world.executor()
    ti, job = world.queue(executor)
    executor.revoke_task(ti=ti)
    assert world.job(job.id).state == "cancelled"
    executor.sync()
    assert executor.event_buffer == {}
    assert not executor.has_task(ti)


@pytest.mark.parametrize(
    ("state", "wished", "told"),
    [
        ("idle", {"queues": ["default"]}, "no worker of queue 'default' has taken it (1 are there)"),
        ("offline", {}, "nothing is heard of the workers of queue 'default'"),
        ("idle", {"queues": ["other"]}, "no worker serves queue 'default'"),
    ],
)
def test_what_is_revoked_says_for_what_it_waited(world, state, wished, told):
    executor = world.executor()
    ti, job = world.queue(executor)
    world.worker("edge-1", "default", state=state, desired=json.dumps(wished))
    executor.revoke_task(ti=ti)
    assert world.job(job.id).reason.endswith(told)


def test_what_waits_for_a_label_that_nobody_has_says_so(world):
    executor = world.executor()
    ti, job = world.queue(executor, executor_config={"mqtt": {"labels": {"camera": "yes"}}})
    world.worker("edge-1", "default")
    executor.revoke_task(ti=ti)
    assert world.job(job.id).reason.endswith("no worker of queue 'default' has camera=yes")


def test_revoke_wishes_for_the_end_of_a_job_that_runs(world):
    executor = world.executor()
    ti, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING)
    world.set_job(job.id, news=False)
    executor.revoke_task(ti=ti)
    wished = world.job(job.id)
    assert (wished.state, wished.cancel_reason, wished.news) == ("running", "revoked by the scheduler", True)
    assert not executor.has_task(ti)
    world.carry_out(job.id, JobEvent.CONFIRM)
    executor.sync()
    assert executor.event_buffer == {}


def test_revoke_never_raises(world, monkeypatch):
    from airflow_mqtt.executor import compat

    executor = world.executor()
    ti, _ = world.queue(executor)
    executor.revoke_task(ti=world.queued_task())  # one that it does not know
    monkeypatch.setattr(compat, "own_session", lambda: 1 / 0)
    executor.revoke_task(ti=ti)
    assert not executor.has_task(ti)


# --- settings


def test_a_password_over_plain_mqtt_is_warned_of(world, monkeypatch, capsys):
    monkeypatch.setenv("AIRFLOW__MQTT__BROKER_URL", "mqtt://bridge:secret@broker.example")
    world.executor().start()
    assert "the password of mqtt://bridge@broker.example:1883 goes over the network" in capsys.readouterr().out
    monkeypatch.setenv("AIRFLOW__MQTT__BROKER_URL", "mqtt://bridge:secret@127.0.0.1")
    world.executor().start()
    assert "password" not in capsys.readouterr().out
