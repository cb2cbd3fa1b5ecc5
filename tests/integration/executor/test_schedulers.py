"""Several schedulers: each hears of its own jobs, and one takes over those of another that is gone."""

import threading

from airflow_mqtt.protocol.jobs import JobEvent
from integration.executor.world import TO_RUNNING


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
