"""The leader's memory: it says what the database said last, and nothing of what has not committed."""

import random
from dataclasses import replace

import pytest

from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.database.ledger import Snapshot, Waiting
from airflow_mqtt.protocol.jobs import HELD, TERMINAL, JobEvent, JobState
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, RULES, info, job, living_of, status, worker


def held(id_="held", name="edge-1", **values):
    return job(**({"id": id_, "state": JobState.RUNNING, "worker": name} | values))


def image(living):
    """All that a leader decides by, as values."""
    return {
        "jobs": dict(living.jobs), "waiting": dict(living.waiting), "ended": dict(living.ended),
        "held": {name: set(ids) for name, ids in living.held.items()}, "used": dict(living.used),
        "workers": dict(living.workers), "wishes": set(living.wishes), "removals": set(living.removals),
        "queues": {name: {size: list(o) for size, o in queue.by_size.items()} for name, queue in living.queues.items()},
        "members": {group: set(names) for group, names in living.groups._members.items() if group in living.queues or not group[1]}, "pauses": dict(living.pauses),
        "roster": {queue: living.roster.of(queue) for queue in living.groups.queues()},
        "unsaved": dict(living.unsaved), "unsaid": set(living.unsaid), "stirred": set(living.stirred),
    }  # fmt: skip


def consistent(living):
    """What follows from jobs and workers is as it would be if it were made anew from them."""
    jobs = [job(**{name: getattr(one, name) for name in Waiting.__slots__}) for one in living.waiting.values()]
    anew = living_of(*jobs, *living.jobs.values(), *living.workers.values())
    for name in ("jobs", "waiting", "held", "used", "queues", "members", "wishes", "roster"):
        assert image(living)[name] == image(anew)[name], name
    for orders in (o for queue in living.queues.values() for o in queue.by_size.values()):
        assert orders == sorted(orders) and orders


# --- what follows from jobs and workers ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_what_follows_is_kept_up_to_date_whatever_comes(seed):
    rng, living = random.Random(seed), living_of()
    states, names = list(JobState), [f"edge-{n}" for n in range(4)]
    for _ in range(400):
        id_, name = f"j{rng.randrange(15)}", rng.choice(names)
        step = rng.randrange(10)
        if step < 6:
            state = rng.choice(states)
            wish = rng.choice([None, None, "why"])
            owner = name if state in HELD or state in TERMINAL else None
            new = job(
                id=id_, state=state, worker=owner, slots=rng.randrange(1, 4), queue=rng.choice("ab"), cancel_reason=wish,
                priority=rng.randrange(3), queued_at=NOW + rng.randrange(5), attempt=rng.randrange(1, 3),
                labels=rng.choice([(), (("x", "1"),), (("x", "1"), ("y", "2"))]),
            )  # fmt: skip
            living.put_job(new)
        elif step == 6:
            living.take_out(id_)
        elif step == 7 and not living.held.get(name):
            living.forget_worker(name)
        else:
            had = dict(rng.sample([("x", "1"), ("y", "2")], rng.randrange(3)))
            offered = info(queues=rng.sample("ab", rng.randrange(3)), labels=had)
            living.put_worker(worker(name=name, info=offered, status=status(slots=rng.randrange(4))))
        consistent(living)


def test_a_snapshot_and_single_rows_come_to_the_same():
    rows = [
        job(),
        job(id="wished", cancel_reason="x"),
        held(),
        held("two", "edge-2", slots=3),
        worker(),
        worker(name="w"),
    ]
    at_once, one_by_one = living_of(*rows), Living(lambda _: RULES)
    for row in rows:
        (one_by_one.put_worker if hasattr(row, "seen_at") else one_by_one.put_job)(row)
    before, after = image(at_once), image(one_by_one)
    assert before == after


def test_removals_of_a_snapshot_are_known():
    snapshot = Snapshot([], [], [worker()], frozenset({"edge-1", "gone"}))
    assert set(Living.of(snapshot, lambda _: RULES).removals) == {"edge-1", "gone"}


def test_ended_jobs_are_remembered_without_tokens_and_up_to_a_bound():
    living = living_of()
    for number in range(5000):
        living.put_job(held(f"j{number}", state=JobState.SUCCEEDED))
    assert len(living.ended) == 4096 and living.job("j0") is None and living.job("j4999").token == ""
    assert living.used == living.held == {}


def test_a_cancelling_job_is_no_wish_to_carry_out():
    living = living_of(held(cancel_reason="x", state=JobState.CANCELLING), held("b", cancel_reason="x"))
    assert set(living.wishes) == {"b"}


def test_a_job_that_moves_on_in_its_slots_makes_no_room_to_be_looked_at():
    living = living_of(worker(), held(state=JobState.DISPATCHED, published_at=NOW))
    offers = list(living.offers(("default", ())))
    living.stirred.clear()
    for state in (JobState.ACCEPTED, JobState.RUNNING, JobState.CANCELLING):
        living.put_job(held(state=state, accepted_at=NOW, published_at=NOW))
        consistent(living)
    assert not living.stirred and living.offers(("default", ())) == offers
    living.put_job(held(state=JobState.SUCCEEDED))
    assert living.stirred == {("default", ())} and living.free("edge-1") == 2


# --- heaps --------------------------------------------------------------------------------------------------


def test_offers_do_not_grow_without_bound():
    living = living_of(*(worker(name=f"w{n}", status=status(slots=2 + n % 3)) for n in range(10)))
    for number in range(10_000):
        living.offer(f"w{number % 7}")
        assert len(living.offers(("default", ()))) <= 16 + 4 * 10
    assert {name for _, _, name in living.offers(("default", ()))} == {
        f"w{n}" for n in range(10)
    }  # and none is forgotten


def test_offers_of_a_worker_that_comes_and_goes_do_not_either():
    living = living_of(worker())
    for number in range(10_000):
        id_ = f"j{number}"
        living.put_job(held(id_))
        living.put_job(held(id_, state=JobState.SUCCEEDED))
        living.put_worker(worker(state=WorkerState.IDLE if number % 2 else WorkerState.RUNNING))
    assert len(living.offers(("default", ()))) <= 20
    living.forget_worker("edge-1")
    assert dict(living._offers) == {} and living.groups.queues() == []


def test_deadlines_to_start_do_not_grow_with_jobs_that_have_begun_long_before():
    """With a day to start, and a million jobs a day."""
    living = living_of(worker(), job(id="patient", not_after=NOW + 86_400))
    for number in range(10_000):
        living.put_job(job(id=f"j{number}", not_after=NOW + 86_400 + number))
        living.take_out(f"j{number}")
    assert len(living._late) <= 16 + 2
    assert living.take_late(NOW + 10**6, 10) == ["patient"]


def test_deadlines_do_not_grow_with_heartbeats():
    """A worker is heard every few seconds, for months."""
    living = living_of(worker(), held(state=JobState.DISPATCHED, published_at=NOW))
    for number in range(10_000):
        now = NOW + number
        living.put_worker(replace(living.workers["edge-1"], seen_at=now, status=status(ts=now)))
        jobs, workers = living.take_due(now)
        living.watch(jobs, workers, now)
    assert len(living._silent) <= 4 and len(living._due) <= 4


def test_deadlines_do_not_grow_with_what_a_device_says_of_itself():
    """It may offer other slots with each status, an hour apart as it says, and hold hundreds of jobs meanwhile."""
    orders = [held(f"j{n}", state=JobState.ACCEPTED, accepted_at=NOW) for n in range(50)]
    living = living_of(worker(), *orders)
    for number in range(1000):
        changed = status(slots=60 + number % 2, interval=3600 - number % 3)
        living.put_worker(worker(status=changed, seen_at=NOW + number / 100))
    assert len(living._silent) <= 16 + 2 and len(living._due) <= 16 + 2 * 50


def test_what_a_job_was_to_be_looked_at_for_goes_with_it():
    """Nothing is looked at for jobs that have begun or ended long before."""
    living = living_of(worker())
    for number in range(1000):
        id_ = f"j{number}"
        living.put_job(held(id_, state=JobState.DISPATCHED, published_at=NOW))
        living.put_job(held(id_, state=JobState.ACCEPTED, accepted_at=NOW))
        living.put_job(held(id_))
        living.put_job(held(id_, state=JobState.SUCCEEDED))
    assert len(living._due) <= 16 and living.next_deadline == living.workers["edge-1"].seen_at + 90


def test_a_deadline_is_never_lost():
    """Whoever is taken out comes back with `watch`, whatever became of it."""
    living = living_of(worker(), held(state=JobState.DISPATCHED, published_at=NOW, publishes=1))
    for now in (NOW + 10, NOW + 10.05, NOW + 11):
        jobs, _ = living.take_due(now)
        assert [one.id for one in jobs] == ["held"]
        living.watch(jobs, [], now)
        assert living.take_due(now) == ([], [])  # and not at once, or a round would follow the other for nothing
    assert living.take_due(NOW + 89)[1] == []
    assert [one.name for one in living.take_due(NOW + 90)[1]] == ["edge-1"]


def test_a_worker_that_is_heard_less_often_from_now_on_is_judged_later_and_one_that_is_more_often_sooner():
    living = living_of(worker(status=status(interval=600)))
    living.put_worker(worker(status=status(interval=1)))
    assert [one.name for one in living.take_due(NOW + 3)[1]] == ["edge-1"]


def test_a_clock_that_was_set_back_makes_all_deadlines_anew():
    living = living_of(
        worker(seen_at=NOW + 3600), held(state=JobState.DISPATCHED, published_at=NOW + 3600, publishes=1)
    )
    assert living.take_due(NOW) == ([], [])
    living.look_at_all(NOW)
    jobs, workers = living.take_due(NOW)
    assert ([one.id for one in jobs], [one.name for one in workers]) == (["held"], ["edge-1"])


def test_with_a_new_connection_all_is_looked_at_to_which_time_may_do_something():
    """What the leader before us has published by a clock that is ahead too. Most of a fleet runs, and is heard."""
    waits = held(state=JobState.DISPATCHED, published_at=NOW + 3600, publishes=1)
    silent = held("silent", "edge-2", state=JobState.RUNNING)
    gone = worker(name="edge-2", state=WorkerState.UNKNOWN)
    living = living_of(worker(), gone, waits, silent, *(held(f"b{n}") for n in range(100)))
    living.connect(NOW)
    jobs, workers = living.take_due(NOW)
    assert ({one.id for one in jobs}, workers) == ({"held", "silent"}, [])


def test_a_new_leader_looks_once_for_the_room_of_each_worker():
    """However many jobs each holds: ten thousand of a fleet are read before anybody gets a job."""
    fleet = [worker(name=f"edge-{n}", status=status(slots=40)) for n in range(20)]
    jobs = [held(f"{one.name}-{n}", one.name) for one in fleet for n in range(30)]
    living = living_of(*fleet, *jobs)
    assert sorted(living.offers(("default", ()))) == [(-10, n + 1, one.name) for n, one in enumerate(fleet)]


# --- drafts -------------------------------------------------------------------------------------------------


def everything(draft):
    """Use a draft in every way."""
    draft.move(draft.job("held"), JobEvent.SUCCEED, by="test", exit_code=0)
    draft.move(draft.job("wished"), JobEvent.CANCEL, by="test", reason="x")
    draft.publish_again(draft.job("out"))
    draft.store_log(draft.job("log"), replace(draft.job("log"), log_bytes=4), 0, b"text")
    draft.renew_token(draft.job("log"), "new")
    draft.give(draft.living.waiting["job-1"], "edge-1", by="test")
    draft.excuse(5.0)
    draft.save_worker(replace(draft.worker("edge-1"), state=WorkerState.OFFLINE, seq=9))
    draft.save_worker(worker(name="new"))
    draft.forget_worker("old")
    draft.then(lambda: draft.living.removals.clear())
    draft.looked_at = {("default", ())}


def full():
    living = living_of(
        job(), job(id="wished", cancel_reason="x"), held(), held("log"),
        held("out", state=JobState.DISPATCHED, published_at=NOW), worker(), worker(name="old"),
    )  # fmt: skip
    living.removals["old"] = None
    return living


def test_a_draft_changes_nothing_before_it_is_committed():
    living = full()
    before, deadlines = image(living), (living._due.times(), living._silent.times())
    draft = Draft(living, NOW)
    everything(draft)
    draft.writes()
    assert image(living) == before
    assert (living._due.times(), living._silent.times()) == deadlines


def test_a_draft_shows_what_it_would_make():
    draft = Draft(full(), NOW)
    everything(draft)
    assert draft.job("held").state is JobState.SUCCEEDED and draft.job("log").log_bytes == 4
    assert draft.worker("edge-1").seq == 9 and draft.worker("nobody").state is WorkerState.UNKNOWN
    assert {one.id for one in draft.jobs_of("edge-1")} == {"log", "out"}
    assert draft.free("edge-1") == 2 - 3 - 1  # what it frees is free once it has committed


def test_what_a_draft_writes_is_seen_as_the_database_said_it_last():
    draft = Draft(full(), NOW)
    everything(draft)
    again = draft.move(draft.job("out"), JobEvent.ACCEPT, by="test")
    draft.move(again, JobEvent.START, by="test")
    changes = {change.id: change for change in draft.writes().changes}
    assert changes["out"].seen.state is JobState.DISPATCHED and changes["out"].fields["state"] is JobState.RUNNING
    assert changes["wished"].seen == (type(changes["wished"].seen))(JobState.QUEUED, 1, "x")
    assert [t.event for t in draft.transitions if t.job_id == "out"] == ["accept", "start"]
    assert (changes["log"].token, changes["held"].token) == ("new", None)


def test_what_committed_is_so_in_memory():
    living = full()
    draft = Draft(living, NOW)
    everything(draft)
    given = replace(job(), state=JobState.DISPATCHED, worker="edge-1", published_at=NOW, publishes=1)
    draft.apply({"job-1": (given, "{}")})
    assert (living.jobs["job-1"], living.waiting, living.removals) == (given, {}, {})
    assert set(living.ended) == {"held", "wished"} and living.used == {"edge-1": 3}
    assert set(living.workers) == {"edge-1", "new"} and living.workers["edge-1"].state is WorkerState.OFFLINE
    consistent(living)


def test_a_heartbeat_is_not_written_at_once():
    living = living_of(worker())
    for values, unsaved in (({}, False), ({"free": 1, "running": 1}, True)):
        draft = Draft(living, NOW + 30)
        beat = replace(living.workers["edge-1"], seen_at=NOW + 30 + len(values))
        draft.save_worker(replace(beat, status=status(**values)) if values else beat)
        assert not draft.writes()
        draft.apply({})
        assert living.unsaved == {"edge-1": unsaved}
    draft = Draft(living, NOW + 40)
    draft.save_worker(replace(living.workers["edge-1"], state=WorkerState.OFFLINE))
    assert [one.name for one in draft.writes().workers] == ["edge-1"]
    draft.apply({})
    assert living.unsaved == {}


def test_a_position_is_written_alone():
    living = living_of(worker(seq=4))
    draft = Draft(living, NOW)
    draft.save_worker(replace(living.workers["edge-1"], seq=5, seen_at=NOW + 1))
    assert draft.writes().positions == {"edge-1": (5, NOW + 1)} and draft.writes().workers == []
