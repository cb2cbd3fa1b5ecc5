"""From the scheduler into the table."""

import json
import threading
import time
import uuid
from select import select as select_fds

import jwt
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


# --- tokens -----------------------------------------------------------------------------------------------


def claims(token):
    return jwt.decode(token, options={"verify_signature": False})


def test_a_token_past_half_its_life_is_renewed(world):
    executor = world.executor()
    ti, job = world.queue(executor)
    executor.sync()
    assert world.job(job.id).token == job.token  # young
    world.set_job(job.id, token_at=0.0, news=False)
    executor._next_housekeeping = 0
    executor.sync()
    renewed = world.job(job.id)
    assert renewed.token != job.token
    assert renewed.token_at > 0
    assert renewed.news  # the leader has the old one in memory
    assert claims(renewed.token)["sub"] == str(ti.id)


def test_scope_of_a_renewed_token_follows_the_start_gate(world):
    from airflow_mqtt.executor import compat

    executor = world.executor()
    _, waiting = world.queue(executor)
    _, started = world.queue(executor)
    world.drive(started.id, *TO_RUNNING)
    for job in (waiting, started):
        world.set_job(job.id, token_at=0.0)
    executor.sync()
    scopes = [claims(world.job(job.id).token).get("scope") for job in (waiting, started)]
    assert scopes == (["workload", "execution"] if compat.SCOPED_TOKENS else [None, None])


def test_the_bridges_refresh_wins_over_ours(world):
    from airflow_mqtt.executor import store

    executor = world.executor()
    _, job = world.queue(executor)
    world.set_job(job.id, token_at=1.0)
    with world.session() as session:
        limits = {"waiting_before": 10.0, "started_before": 10.0}
        (row,) = store.aging_tokens(session, "1", "", living=["1"], **limits)
    world.set_job(job.id, token="refreshed", token_at=2.0)
    with world.session() as session:
        assert not store.renew_token(session, row, "ours", 3.0)
    assert world.job(job.id).token == "refreshed"


def test_tokens_of_ended_jobs_are_left_alone(world):
    executor = world.executor()
    _, job = world.queue(executor)
    world.drive(job.id, *TO_RUNNING, JobEvent.SUCCEED)
    world.set_job(job.id, token_at=0.0)
    executor.sync()
    assert world.job(job.id).token_at == 0.0


@pytest.mark.parametrize("state", ["success", "failed", None])  # as it stopped, as Airflow found it dead, long ago
@pytest.mark.parametrize(
    "events",
    [(), TO_RUNNING, (*TO_RUNNING, JobEvent.CANCEL)],
    ids=["queued", "running", "cancelling"],
)
def test_the_token_of_a_job_that_nobody_adopted_is_renewed(world, state, events):
    """A final state that is stored on the device would wait for ever: an operator's "failed" is not adopted."""
    dead = world.executor(world.scheduler(state) if state else 4711)
    ti, job = world.queue(dead)
    world.drive(job.id, *events)
    world.set_job(job.id, token="expired", token_at=0.0)
    world.executor(world.scheduler()).sync()
    renewed = world.job(job.id)
    assert claims(renewed.token)["sub"] == str(ti.id)
    assert claims(renewed.token)["exp"] > time.time()
    assert renewed.token_at > 0
    assert renewed.owner == dead._owner  # it is not adopted: nobody waits for its end


def test_the_token_of_a_callback_that_nobody_has_taken_over_is_renewed(world, monkeypatch):
    _, job = world.queue(world.executor(job_id=4711))
    world.set_job(job.id, workload_type="ExecuteCallback", token_at=0.0)
    heir = world.executor(world.scheduler())
    monkeypatch.setattr(heir, "_take_over", lambda: None)
    heir.sync()
    assert world.job(job.id).token_at > 0


def test_tokens_of_another_living_scheduler_are_its_own_to_renew(world):
    one, two = world.executor(world.scheduler()), world.executor(world.scheduler())
    _, job = world.queue(one)
    world.set_job(job.id, token_at=0.0)
    two.sync()
    assert world.job(job.id).token_at == 0.0
    one.sync()
    assert world.job(job.id).token_at > 0


def test_a_young_token_of_a_job_without_a_scheduler_is_left_alone(world):
    _, job = world.queue(world.executor(job_id=4711))
    world.executor(world.scheduler()).sync()
    assert world.job(job.id).token == job.token


def test_tokens_of_jobs_without_a_scheduler_are_renewed_by_their_own_team(world):
    _, ours = world.queue(world.executor(job_id=4711, team_name="north"))
    _, shared = world.queue(world.executor(job_id=4711))
    for job in (ours, shared):
        world.set_job(job.id, token_at=0.0)
    living = world.scheduler()
    world.executor(living, team_name="north").sync()
    assert (world.job(ours.id).token_at > 0, world.job(shared.id).token_at) == (True, 0.0)
    renewed = world.job(ours.id)
    world.executor(living).sync()
    assert world.job(shared.id).token_at > 0
    assert world.job(ours.id) == renewed


def test_of_two_schedulers_that_renew_one_token_the_first_wins(world, monkeypatch):
    from airflow_mqtt.executor import store

    _, job = world.queue(world.executor(job_id=4711))
    world.set_job(job.id, token_at=0.0)
    first, second = world.executor(world.scheduler()), world.executor(world.scheduler())
    real, won = store.renew_token, []

    def after_the_first(session, row, token, now):
        monkeypatch.setattr(store, "renew_token", real)
        first.sync()
        won.append(world.job(job.id))
        won.append(real(session, row, token, now))

    monkeypatch.setattr(store, "renew_token", after_the_first)
    second.sync()
    renewed, again = won
    assert renewed.token_at > 0
    assert again is False
    assert world.job(job.id) == renewed


# --- what a task asks for -----------------------------------------------------------------------------------


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


# --- revoke -----------------------------------------------------------------------------------------------


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


# --- several schedulers -----------------------------------------------------------------------------------


def test_adoption(world):
    from airflow.models.taskinstance import TaskInstance

    dead = world.executor(job_id=1)
    queued, job = world.queue(dead)
    running, at_work = world.queue(dead)
    ended, done = world.queue(dead)
    revoked, gone = world.queue(dead)
    unknown = world.queued_task(external_executor_id="never-seen")
    world.drive(at_work.id, *TO_RUNNING)
    world.drive(done.id, *TO_RUNNING, JobEvent.LOSE, reason="silent")
    world.drive(gone.id, JobEvent.CANCEL, reason="revoked by the scheduler")
    for one in (at_work, done, gone):
        world.set_job(one.id, report_pending=False)  # the dead one had heard of them

    heir = world.executor(job_id=2)
    with world.session() as session:
        tis = [session.get(TaskInstance, ti.id) for ti in (queued, running, ended, revoked, unknown)]
        left = heir.try_adopt_task_instances(tis)
        assert {ti.id for ti in left} == {revoked.id, unknown.id}
    assert {world.job(one.id).owner for one in (job, at_work, done)} == {"2"}
    assert heir.slots_occupied == 3
    heir.sync()
    assert heir.event_buffer == {running.key: ("running", at_work.id), ended.key: ("failed", "silent")}
    assert heir.slots_occupied == 2


def test_adoption_is_in_the_schedulers_transaction(world):
    from airflow.models.taskinstance import TaskInstance

    ti, job = world.queue(world.executor(job_id=1))
    heir = world.executor(job_id=2)
    with world.session() as session:
        # Airflow has written by then: on SQLite a second writer would wait for it for ever.
        found = session.get(TaskInstance, ti.id)
        found.queued_by_job_id = None
        session.flush()
        assert heir.try_adopt_task_instances([found]) == []
        session.rollback()
    assert world.job(job.id).owner == "1"


def test_adopting_nothing(world):
    assert world.executor().try_adopt_task_instances([]) == []


def test_schedulers_hear_only_of_their_own_jobs(world):
    one, two = world.executor(job_id=1), world.executor(job_id=2)
    first, job_1 = world.queue(one)
    second, job_2 = world.queue(two)
    world.drive(job_1.id, *TO_RUNNING, JobEvent.SUCCEED, final_state="success")
    world.drive(job_2.id, *TO_RUNNING)
    workers = [threading.Thread(target=executor.sync) for executor in (two, one)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert one.event_buffer == {first.key: ("success", None)}
    assert two.event_buffer == {second.key: ("running", job_2.id)}


def test_teams_of_one_scheduler_hear_only_of_their_own_jobs(world):
    """One scheduler process has one executor a team, and all of them have its job id."""
    shared, north = world.executor(job_id=1), world.executor(job_id=1, team_name="north")
    assert north.supports_multi_team
    ours, job = world.queue(north)
    assert job.team_name == "north"
    world.drive(job.id, *TO_RUNNING)
    shared.sync()
    north.sync()
    assert shared.event_buffer == {}
    assert north.event_buffer == {ours.key: ("running", job.id)}


def test_a_password_over_plain_mqtt_is_warned_of(world, monkeypatch, capsys):
    monkeypatch.setenv("AIRFLOW__MQTT__BROKER_URL", "mqtt://bridge:secret@broker.example")
    world.executor().start()
    assert "the password of mqtt://bridge@broker.example:1883 goes over the network" in capsys.readouterr().out
    monkeypatch.setenv("AIRFLOW__MQTT__BROKER_URL", "mqtt://bridge:secret@127.0.0.1")
    world.executor().start()
    assert "password" not in capsys.readouterr().out
