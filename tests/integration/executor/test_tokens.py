"""Tokens of jobs: who renews which, and when."""

import time

import jwt
import pytest

from airflow_mqtt.protocol.jobs import JobEvent
from integration.executor.world import TO_RUNNING


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
