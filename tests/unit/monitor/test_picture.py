"""The fold of status messages into a picture, with the protocol's own messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.monitor import picture as module
from airflow_mqtt.monitor.picture import Picture
from airflow_mqtt.protocol.messages import BridgeStatus, JobStatus, QueueStatus, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind, Topics
from airflow_mqtt.protocol.workers import WorkerState

TOPICS = Topics("site/a")
NOW = 1_767_261_720.0


def status(**values) -> WorkerStatus:
    given = {"state": "idle", "connection": 1, "instance": "i", "ts": NOW, "slots": 2, "free": 2, "running": 0}
    return WorkerStatus(**{**given, **values})


def job(state: str, **values) -> JobStatus:
    return JobStatus(**{"state": state, "attempt": 1, "worker": "edge-1", "queue": "edge", "ts": NOW, **values})


@pytest.fixture
def picture() -> Picture:
    made = Picture("site/a")
    made.connect(NOW)
    return made


def hear(picture: Picture, message: WorkerStatus, *, name: str = "edge-1", retained: bool = False, now: float = NOW):
    picture.apply(TOPICS.worker(name, TopicKind.STATUS), message.encode(), retained=retained, now=now)
    return picture.workers.get(name)


def tell(picture: Picture, id_: str, message: JobStatus, now: float = NOW) -> None:
    picture.apply(TOPICS.job_status(id_), message.encode(), retained=False, now=now)


@pytest.mark.parametrize(
    ("message", "state"),
    [
        (status(), WorkerState.IDLE),
        (status(state="running", running=1), WorkerState.RUNNING),
        (status(maintenance=True), WorkerState.MAINTENANCE_MODE),
        (status(state="running", running=1, maintenance=True), WorkerState.MAINTENANCE_PENDING),
        (status(maintenance=True, own_maintenance=True), WorkerState.MAINTENANCE_MODE),
        (status(state="terminating"), WorkerState.TERMINATING),
        (status(state="offline", reason="lost"), WorkerState.OFFLINE),
        (status(state="offline", maintenance=True), WorkerState.OFFLINE_MAINTENANCE),
    ],
)
def test_a_worker_is_shown_in_the_words_of_the_bridge(picture, message, state):
    assert picture.state_of(hear(picture, message), NOW) is state


def test_what_is_said_of_health_stands_until_it_is_said_again_or_another_process_speaks(picture):
    hear(picture, status(health={"cpu": 12.5}))
    assert hear(picture, status(running=1)).health == {"cpu": 12.5}
    assert hear(picture, status(health={"load": 1.0})).health == {"load": 1.0}
    assert hear(picture, status(instance="another")).health == {}


def test_a_worker_is_unknown_after_three_silent_intervals(picture):
    worker = hear(picture, status(interval=10))
    assert picture.state_of(worker, NOW + 30) is WorkerState.IDLE
    assert picture.state_of(worker, NOW + 30.1) is WorkerState.UNKNOWN
    worker = hear(picture, status(interval=10), now=NOW + 31)
    assert picture.state_of(worker, NOW + 31) is WorkerState.IDLE


def test_what_is_retained_is_as_old_as_it_says_and_a_clock_that_is_ahead_proves_nothing(picture):
    old = hear(picture, status(ts=NOW - 3600), retained=True)
    assert picture.state_of(old, NOW) is WorkerState.UNKNOWN
    ahead = hear(picture, status(ts=NOW + 3600), retained=True, name="edge-2")
    assert ahead.seen_at == NOW
    assert picture.state_of(ahead, NOW + 91) is WorkerState.UNKNOWN


def test_a_retained_message_of_a_new_connection_does_not_make_a_worker_older(picture):
    hear(picture, status(ts=0))
    assert hear(picture, status(ts=0), retained=True, now=NOW + 5).seen_at == NOW


def test_nobody_is_silent_while_nobody_can_be_heard(picture):
    worker = hear(picture, status())
    picture.lose(NOW + 1)
    picture.lose(NOW + 500)
    assert picture.state_of(worker, NOW + 500) is WorkerState.IDLE
    picture.connect(NOW + 501)
    assert picture.state_of(worker, NOW + 501) is WorkerState.UNKNOWN


def test_a_cleared_topic_takes_worker_queue_and_bridge_away(picture):
    hear(picture, status())
    bridge = BridgeStatus(state="leading", instance="b", epoch=1, ts=NOW)
    figures = QueueStatus(queued=1, running=2, oldest_age=3.0, workers_online=1, free_slots=0, ts=NOW)
    for topic, message in ((TOPICS.bridge_status, bridge), (TOPICS.queue_status("a/b"), figures)):
        picture.apply(topic, message.encode(), retained=True, now=NOW)
    assert picture.queues["a/b"].status == figures
    assert (picture.running, picture.bridge) == (2, bridge)
    for topic in (TOPICS.worker("edge-1", TopicKind.STATUS), TOPICS.bridge_status, TOPICS.queue_status("a/b")):
        picture.apply(topic, b"", retained=False, now=NOW)
    assert picture.is_empty


def test_a_job_is_there_from_its_first_transition_to_its_end(picture):
    tell(picture, "j1", job("queued", worker=None))
    tell(picture, "j1", job("running"), NOW + 5)
    tell(picture, "j1", job("running"), NOW + 7)
    assert picture.jobs["j1"].since == NOW + 5
    assert picture.held_jobs == 1
    tell(picture, "j1", job("succeeded"), NOW + 9)
    tell(picture, "j2", job("failed"), NOW + 9)
    assert not picture.jobs
    assert picture.ended == {"succeeded": 1, "failed": 1}


def test_after_a_gap_nothing_is_known_of_jobs(picture):
    tell(picture, "j1", job("running"))
    picture.lose(NOW + 1)
    assert picture.jobs
    picture.connect(NOW + 2)
    assert not picture.jobs
    assert picture.listens_since == NOW + 2


@given(
    st.binary(max_size=200),
    st.sampled_from(["worker/edge-1/status", "queue/q/status", "job/j/status", "x", "bridge/status"]),
)
def test_whatever_arrives_is_taken_or_counted(payload, topic):
    made = Picture("site/a")
    made.apply(f"site/a/v1/{topic}", payload, retained=False, now=NOW)
    assert made.is_empty
    assert made.dropped["malformed"] == (0 if not payload and topic != "x" else 1)


def test_what_is_too_large_is_counted(picture):
    hear(picture, status(reason="x" * 4096))
    assert picture.workers
    picture.apply(TOPICS.bridge_status, b'{"state": "' + b"x" * 20_000 + b'"}', retained=True, now=NOW)
    assert picture.dropped == {"malformed": 1}


def test_there_is_room_for_so_many_and_no_more(picture, monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES", 2)
    for number in range(4):
        hear(picture, status(), name=f"w{number}")
    hear(picture, status(state="offline"), name="w1")
    assert list(picture.workers) == ["w0", "w1"]
    assert picture.workers["w1"].status.state == "offline"
    assert picture.dropped == {"no room": 2}
