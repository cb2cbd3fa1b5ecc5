from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.bridge.dispatch.placement import Offer, Pause, after_rejection, after_silence, offers, place, room
from airflow_mqtt.protocol import PROTOCOL_VERSION
from airflow_mqtt.protocol.workers import PLACEABLE, WorkerState
from bridge_samples import NOW, info, job, worker


def offer(name="w", free=1, queues=("default",), kinds=("airflow",)):
    return Offer(name, frozenset(queues), frozenset(kinds), free)


def test_priority_then_age():
    jobs = [job(id="a", queued_at=1.0), job(id="b", priority=9, queued_at=2.0), job(id="c", queued_at=0.5)]
    assert [j.id for j, _ in place(jobs, [offer(free=9)])] == ["b", "c", "a"]


def test_load_spreads():
    jobs = [job(id=str(n)) for n in range(4)]
    assert sorted(w for _, w in place(jobs, [offer("x", 2), offer("y", 2)])) == ["x", "x", "y", "y"]


def test_light_work_does_not_always_go_to_the_same_worker():
    chosen = [place([job(id=str(n))], [offer("x"), offer("y"), offer("z")])[0][1] for n in range(60)]
    assert {chosen.count(name) > 5 for name in "xyz"} == {True}


def test_a_job_that_fits_nowhere_blocks_nobody():
    jobs = [job(id="wide", slots=4, priority=9), job(id="narrow")]
    assert [j.id for j, _ in place(jobs, [offer(free=2)])] == ["narrow"]


def test_queue_and_kind_must_match():
    assert not place([job(queue="other")], [offer()])
    assert not place([job(kind="other")], [offer()])


def test_only_workers_that_are_ready_offer():
    for state in WorkerState:
        assert bool(offers([worker(state=state)], {}, {}, NOW)) == (state in PLACEABLE)


def test_a_worker_that_was_not_introduced_is_offered_nothing():
    """Its status alone says that it lives, not that this bridge has taken it."""
    assert not offers([worker(journal="")], {}, {}, NOW)
    newer = info(protocol=PROTOCOL_VERSION + 1)  # introduced to a newer bridge, which led before this one
    assert not offers([worker(info=newer)], {}, {}, NOW)


def test_slots_held_and_pauses_count():
    assert offers([worker()], {"edge-1": 2}, {}, NOW)[0].free == 0
    for rejected_at, offered in ((NOW - 4.9, 0), (NOW - 5, 1), (NOW, 0), (NOW + 3600, 1)):
        assert len(offers([worker()], {}, {"edge-1": after_rejection(rejected_at)}, NOW)) == offered


def test_who_does_not_answer_is_left_alone_for_longer_each_time():
    seconds, pause = [], None
    for _ in range(8):
        pause = after_silence(pause, NOW)
        seconds.append(pause.seconds)
    assert seconds == [10, 20, 40, 80, 160, 320, 600, 600]
    assert not offers([worker()], {}, {"edge-1": Pause(NOW, 10)}, NOW + 9.9)
    assert offers([worker()], {}, {"edge-1": Pause(NOW, 10)}, NOW + 10)


def test_there_is_room_as_the_freest_worker_of_kind_and_queue_has_it():
    offered = [offer("x", 2, "ab"), offer("y", 3, "b"), offer("z", 0, "c"), offer("w", 9, "b", kinds=())]
    assert {key: set(queues) for key, queues in room(offered).items()} == {("airflow", 2): {"a"}, ("airflow", 3): {"b"}}


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5), st.sampled_from("ab")), max_size=20),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "ab"])), max_size=5),
)
def test_no_worker_gets_more_than_it_offers(jobs, workers):
    queued = [job(id=str(n), slots=s, priority=p, queue=q) for n, (s, p, q) in enumerate(jobs)]
    offered = [offer(f"w{n}", free, tuple(queues)) for n, (free, queues) in enumerate(workers)]
    slots = {o.worker: o.free for o in offered}
    placed = place(queued, offered)
    assert len({j.id for j, _ in placed}) == len(placed)
    for name, free in slots.items():
        assert sum(j.slots for j, w in placed if w == name) <= free
    left = [j for j in queued if j not in [p for p, _ in placed]]
    assert not [j for j in left for o in offered if j.queue in o.queues and o.takes(j)]
