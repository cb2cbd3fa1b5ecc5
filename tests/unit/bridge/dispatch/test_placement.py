"""Which job goes to which worker: over the leader's memory, as a batch sees it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.bridge.dispatch import placement
from airflow_mqtt.bridge.dispatch.placement import Pause, after_rejection, after_silence, place
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.labels import fit
from airflow_mqtt.protocol import PROTOCOL_VERSION
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from airflow_mqtt.protocol.messages import JobKind
from airflow_mqtt.protocol.workers import PLACEABLE, WorkerState
from bridge_samples import NOW, info, job, living_of, status, worker

CAMERA = {"camera": "yes"}
ASKS = (("camera", "yes"),)


def offer(name="w", free=1, queues=("default",), kinds=("airflow",), labels=None):
    offered = info(queues=list(queues), kinds=list(kinds), labels=labels or {})
    return worker(name=name, status=status(slots=free), info=offered)


def placed(living, now=NOW, skip=frozenset(), commits=True):
    """Place as one batch does; return (job, worker) in the order of placement."""
    draft = Draft(living, now)
    draft.skip = skip
    place(draft, by="test")
    pairs = [(id_, given.worker) for id_, given in draft.given.items()]
    if commits:
        draft.apply({id_: (running(id_, given), "{}") for id_, given in draft.given.items()})
    return pairs


def running(id_, given):
    waiting = given.waiting
    return job(
        id=id_, queue=waiting.queue, slots=waiting.slots, state=JobState.DISPATCHED, worker=given.worker, publishes=1,
        published_at=NOW, labels=waiting.labels,
    )  # fmt: skip


def of(jobs, workers, **options):
    return placed(living_of(*jobs, *workers), **options)


def names(pairs):
    return [id_ for id_, _ in pairs]


def test_priority_then_age():
    jobs = [job(id="a", queued_at=1.0), job(id="b", priority=9, queued_at=2.0), job(id="c", queued_at=0.5)]
    assert names(of(jobs, [offer(free=9)])) == ["b", "c", "a"]


def test_priority_then_age_over_queues_and_sizes():
    """Who serves several of them would else be filled by one alone."""
    jobs = [
        job(id="old", queue="b", queued_at=1.0), job(id="new", queue="a", queued_at=2.0),
        job(id="first", queue="a", slots=2, priority=9), job(id="last", queue="b", slots=2, queued_at=3.0),
    ]  # fmt: skip
    assert names(of(jobs, [offer(free=5, queues="ab")])) == ["first", "old", "new"]


def test_load_spreads():
    jobs = [job(id=str(n)) for n in range(4)]
    assert sorted(w for _, w in of(jobs, [offer("x", 2), offer("y", 2)])) == ["x", "x", "y", "y"]


def test_the_freest_comes_first():
    jobs = [job(id=str(n), queued_at=NOW + n) for n in range(5)]
    assert [w for _, w in of(jobs, [offer("x", 1), offer("y", 4)])] == ["y", "y", "y", "x", "y"]


def test_light_work_does_not_always_go_to_the_same_worker():
    """One job at a time, each ended before the next comes."""
    living = living_of(offer("x"), offer("y"), offer("z"))
    chosen = []
    for n in range(60):
        living.put_job(job(id=str(n)))
        ((id_, name),) = placed(living)
        chosen.append(name)
        living.put_job(job(id=id_, state=JobState.SUCCEEDED, worker=name))
    assert {chosen.count(name) > 5 for name in "xyz"} == {True}


def test_a_job_that_fits_nowhere_blocks_nobody():
    jobs = [job(id="wide", slots=4, priority=9), job(id="narrow")]
    assert names(of(jobs, [offer(free=2)])) == ["narrow"]


def test_queue_and_kind_must_match():
    assert not of([job(queue="other")], [offer()])
    assert not of([job(kind="other")], [offer()])
    assert of([job(kind="other")], [offer(free=9), offer("knows", 1, kinds=("other",))]) == [("job-1", "knows")]


def test_labels_must_match_all_of_them():
    workers = [offer("plain", 9), offer("sees", 2, labels={"camera": "yes", "site": "north"})]
    for asked, name in (
        ((), "plain"),
        ((("camera", "yes"),), "sees"),
        ((("camera", "yes"), ("site", "north")), "sees"),
        ((("camera", "yes"), ("site", "south")), None),
        ((("camera", "no"),), None),
    ):
        assert of([job(labels=asked)], workers) == ([("job-1", name)] if name else [])


def test_of_those_that_have_the_labels_the_freest_comes_first():
    workers = [offer("plain", 99), *(offer(f"w{n}", n, labels=CAMERA) for n in (1, 4, 2))]
    jobs = [job(id=str(n), labels=ASKS, queued_at=NOW + n) for n in range(7)]
    assert [w for _, w in of(jobs, workers)] == ["w4", "w4", "w2", "w4", "w1", "w2", "w4"]


def test_a_job_whose_labels_nobody_has_blocks_nobody():
    jobs = [job(id="nowhere", labels=(("camera", "no"),), priority=9), job(id="sees", labels=ASKS), job(id="plain")]
    assert names(of(jobs, [offer(free=2, labels=CAMERA)])) == ["plain", "sees"]


def test_priority_then_age_over_labels_too():
    jobs = [
        job(id="new", queued_at=2.0), job(id="old", labels=ASKS, queued_at=1.0),
        job(id="first", labels=ASKS, priority=9, queued_at=3.0),
    ]  # fmt: skip
    assert names(of(jobs, [offer(free=2, labels=CAMERA)])) == ["first", "old"]


def test_who_comes_to_have_a_label_is_given_the_jobs_that_wait_for_it():
    living = living_of(job(labels=ASKS), offer())
    assert not placed(living) and not living.stirred
    living.put_worker(offer(labels=CAMERA))
    assert placed(living) == [("job-1", "w")]


def test_a_label_lets_nobody_serve_what_is_not_allowed():
    """A device says itself which labels it has."""
    living = living_of(job(labels=ASKS), offer("thief", 9, labels=CAMERA), offer("edge-1", 1, labels=CAMERA))
    living.set_access(Access((("edge-1", "default"),)))
    assert placed(living) == [("job-1", "edge-1")]


def test_what_fits_nowhere_costs_nothing_however_much_of_it_waits(monkeypatch):
    """Of 20,000 jobs, each for a device of its own that is away, none is looked at for one that can be placed."""
    away = [job(id=f"{n:05}", labels=(("device", str(n % 2000)),), queued_at=NOW + n) for n in range(20_000)]
    living = living_of(*away, *(offer(f"w{n}", 1, labels={"device": f"x{n}"}) for n in range(500)))
    while living.stirred:
        assert not placed(living)
    looked_at = []
    real = placement._heads
    monkeypatch.setattr(placement, "_heads", lambda living, group: looked_at.append(group) or real(living, group))
    living.put_job(job(id="one", labels=(("device", "x7"),)))
    assert placed(living) == [("one", "w7")]
    assert looked_at == [("default", (("device", "x7"),))]


def test_a_job_of_a_kind_that_few_run_costs_the_others_nothing(monkeypatch):
    """A connection is tested by what has the Task SDK of Airflow 3.3. The others come and go, and are not asked."""
    test = job(id="test", kind=JobKind.CONNECTION_TEST.value)
    living = living_of(test, *(offer(f"w{n}") for n in range(500)))
    while living.stirred:
        assert not placed(living)
    asked = []
    monkeypatch.setattr(living, "can_take", lambda *of, real=living.can_take: asked.append(of) or real(*of))
    living.put_job(job(id="task"))
    assert placed(living) == [("task", "w0")] and len(asked) == 1
    living.put_worker(offer("able", kinds=list(JobKind)))
    assert placed(living) == [("test", "able")]


def test_only_workers_that_are_ready_are_given_jobs():
    for state in WorkerState:
        assert bool(of([job()], [worker(state=state)])) == (state in PLACEABLE)


def test_a_worker_that_was_not_introduced_is_given_nothing():
    """Its status alone says that it lives, not that this bridge has taken it."""
    assert not of([job()], [worker(journal="")])
    newer = info(protocol=PROTOCOL_VERSION + 1)  # introduced to a newer bridge, which led before this one
    assert not of([job()], [worker(info=newer)])


def test_who_may_not_serve_a_queue_gets_nothing_of_it():
    """However many slots it says that it has, and whatever it says that it serves."""
    living = living_of(*(job(id=str(n)) for n in range(4)), offer("thief", 1000), offer("edge-1", 2))
    living.set_access(Access((("edge-1", "default"), ("thief", "other"))))
    assert {name for _, name in placed(living)} == {"edge-1"}
    assert living.unallowed == {"thief": {"default"}}
    living.set_access(Access((("*", "default"),)))
    assert {name for _, name in placed(living)} == {"thief"}
    assert not living.unallowed


def test_what_a_worker_may_not_have_any_more_is_due_until_it_starts():
    states = (JobState.DISPATCHED, JobState.ACCEPTED, JobState.RUNNING, JobState.CANCELLING)
    held = [
        job(id=s.value, state=s, worker="edge-1", published_at=NOW, accepted_at=NOW, started_at=NOW) for s in states
    ]
    living = living_of(*held, worker())
    living.connected_since = NOW - 1
    living.take_due(NOW)
    living.set_access(Access())
    jobs, _ = living.take_due(NOW)
    assert {one.state for one in jobs} == {JobState.DISPATCHED, JobState.ACCEPTED}
    assert all(living.is_unallowed(one) for one in jobs)


def test_slots_held_and_pauses_count():
    held = job(id="held", slots=2, state=JobState.RUNNING, worker="edge-1")
    assert not of([job(), held], [worker()])
    for rejected_at, count in ((NOW - 4.9, 0), (NOW - 5, 1), (NOW, 0), (NOW + 3600, 1)):
        living = living_of(job(), worker())
        living.pause("edge-1", after_rejection(rejected_at))
        assert len(placed(living)) == count


def test_who_does_not_answer_is_left_alone_for_longer_each_time():
    seconds, pause = [], None
    for _ in range(8):
        pause = after_silence(pause, NOW)
        seconds.append(pause.seconds)
    assert seconds == [10, 20, 40, 80, 160, 320, 600, 600]
    for later, count in ((9.9, 0), (10, 1)):
        living = living_of(job(), worker())
        living.pause("edge-1", Pause(NOW, 10))
        assert len(placed(living, NOW + later)) == count


def test_the_end_of_a_pause_is_noticed():
    """The queue was looked at while the worker was left alone: nothing else would stir it."""
    living = living_of(job(), worker())
    living.pause("edge-1", Pause(NOW, 10))
    assert not placed(living)
    assert not living.stirred and living.next_deadline == NOW + 10
    living.take_due(NOW + 10)
    assert living.stirred and placed(living, NOW + 10)


def test_what_has_not_changed_is_not_looked_at_again():
    living = living_of(job(), job(id="too wide", slots=3), job(id="other", queue="q2"), worker())
    assert names(placed(living)) == ["job-1"]
    assert living.stirred == {
        ("default", ())
    }  # the worker holds something now: that is looked at once more, and then no more
    assert not placed(living) and not living.stirred
    living.put_worker(offer("edge-2", 3))
    assert living.stirred == {("default", ())} and names(placed(living)) == ["too wide"]


def test_a_job_whose_row_somebody_holds_is_passed_over():
    jobs = [job(id=str(n), queued_at=NOW + n) for n in range(3)]
    assert names(of(jobs, [offer(free=9)], skip=frozenset("0"))) == ["1", "2"]


def test_what_is_more_than_a_batch_follows(monkeypatch):
    monkeypatch.setattr(placement, "BATCH", 4)
    living = living_of(*(job(id=str(n), queued_at=NOW + n) for n in range(10)), offer(free=7))
    assert [names(placed(living)) for _ in range(3)] == [["0", "1", "2", "3"], ["4", "5", "6"], []]
    assert not living.stirred


def test_what_is_given_is_written_as_one_transition():
    living = living_of(job(attempt=3), worker())
    draft = Draft(living, NOW)
    place(draft, by="bridge:b")
    (change,), (transition,) = draft.writes().changes, draft.transitions
    assert (change.seen.state, change.seen.attempt, change.seen.cancel_reason) == (JobState.QUEUED, 3, None)
    written = {name: change.fields[name] for name in ("state", "attempt", "worker", "publishes", "published_at")}
    assert written == {"state": "dispatched", "attempt": 3, "worker": "edge-1", "publishes": 1, "published_at": NOW}
    assert (transition.event, transition.by, transition.attempt) == (JobEvent.DISPATCH, "bridge:b", 3)


LABELS = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
JOBS = st.lists(
    st.tuples(
        st.integers(1, 4), st.integers(0, 5), st.sampled_from("ab"), st.sampled_from(["airflow", "shell"]), LABELS
    ),
    max_size=20,
)
KINDS = st.sampled_from([("airflow",), ("airflow", "shell")])
WORKERS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "ab"]), KINDS, LABELS), max_size=5)


@given(JOBS, WORKERS, st.integers(1, 30))
def test_no_worker_gets_more_than_it_offers_and_nothing_waits_that_fits(jobs, workers, batch):
    queued = [
        job(id=str(n), slots=s, priority=p, queue=q, kind=k, labels=tuple(sorted(asked.items())))
        for n, (s, p, q, k, asked) in enumerate(jobs)
    ]
    offered = [offer(f"w{n}", free, tuple(queues), kinds, had) for n, (free, queues, kinds, had) in enumerate(workers)]
    living = living_of(*queued, *offered)
    found = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(placement, "BATCH", batch)
        while living.stirred:
            assert len(found) <= len(queued)
            found += placed(living)
    by_id = {j.id: j for j in queued}
    assert len(set(names(found))) == len(found)
    had = {w.name: w.info.labels for w in offered}
    assert all(fit(by_id[id_].labels, had[name]) for id_, name in found)
    room = {w.name: w.slots - sum(by_id[id_].slots for id_, name in found if name == w.name) for w in offered}
    assert min(room.values(), default=0) >= 0
    assert {name: living.free(name) for name in room} == room
    left = [j for j in queued if j.id not in names(found)]
    assert not [
        (j.id, w.name) for j in left for w in offered
        if j.queue in w.queues and j.kind in w.info.kinds and j.slots <= room[w.name]
        and fit(j.labels, w.info.labels)
    ]  # fmt: skip


def test_two_thousand_workers_each_get_their_share():
    """In one queue, whatever the batches: work spreads, and nobody gets more than its slots."""
    living = living_of(
        *(job(id=f"{n:05}", queued_at=NOW + n) for n in range(6500)), *(offer(f"w{n}", 3) for n in range(2000))
    )
    assert Counter(name for _, name in placed(living)) == {f"w{n}": 1 for n in range(500)}
    sizes = [len(living.offers(("default", ())))]
    shares = Counter(range(0))
    while living.stirred:
        shares.update(name for _, name in placed(living))
        sizes.append(len(living.offers(("default", ()))))
        if living.stirred and len(living.waiting) == 4500:
            held = Counter(living.used.values())
            assert held == {1: 2000}  # before anybody gets a second one
    assert len(living.waiting) == 500
    assert set(living.used.values()) == {3} and len(living.used) == 2000
    assert max(sizes) <= 16 + 4 * 2000 + 500


def test_a_batch_that_does_not_commit_leaves_the_room_that_there_was():
    living = living_of(*(job(id=str(n)) for n in range(50)), offer("x", 5), offer("y", 3))
    for _ in range(20):
        assert len(placed(living, commits=False)) == 8
        assert (living.free("x"), living.free("y")) == (5, 3)
        assert living.stirred == {("default", ())}
    assert Counter(name for _, name in placed(living)) == {"x": 5, "y": 3}
    assert len(living.offers(("default", ()))) < 40
