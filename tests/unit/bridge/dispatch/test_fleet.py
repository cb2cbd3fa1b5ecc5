from dataclasses import fields, replace

import pytest

from airflow_mqtt.bridge.dispatch import fleet
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.protocol import OLDEST_PROTOCOL, PROTOCOL_VERSION
from airflow_mqtt.protocol.messages import Born, Desired, WorkerStatus
from airflow_mqtt.protocol.versions import Version
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, info, job, living_of, status, worker


def judge(w, now=NOW):
    return fleet.judge(w, now=now).state


def born(**values):
    base = {
        "journal": "j",
        "first": 1,
        "last": 0,
        "instance": "i",
        "connection": 1,
        "number": 2,
        "queues": ["q"],
        "kinds": ["airflow"],
    }
    return Born(**(base | values))


def test_a_status_is_heard():
    after = fleet.after_status(worker(seen_at=0.0), status(connection=2, running=1), live=True, now=NOW)
    assert (after.connection, after.seen_at, after.status.running) == (2, NOW, 1)


def test_the_will_of_an_older_connection_is_ignored():
    before = worker(connection=5)
    assert fleet.after_status(before, status(state="offline", connection=4), live=True, now=NOW) is before


def test_what_was_retained_tells_nothing_about_now():
    after = fleet.after_status(worker(seen_at=3.0), status(), live=False, now=NOW)
    assert after.seen_at == 3.0


def test_an_unheard_worker_is_unknown_however_its_retained_status_looks():
    assert judge(worker(status=None)) is WorkerState.UNKNOWN
    assert judge(worker(seen_at=0.0)) is WorkerState.UNKNOWN


def test_three_intervals_of_silence():
    assert judge(worker(), now=NOW + 89) is WorkerState.IDLE
    assert judge(worker(), now=NOW + 91) is WorkerState.UNKNOWN


def test_silence_is_seen_no_sooner_than_it_begins():
    """`silent_at` is when a leader looks: up to then nothing is to be seen, and right after it is."""
    for interval in (0.0, 0.1, 1.0, 30.0, 600.0):
        w = worker(status=status(interval=interval))
        at = fleet.silent_at(w)
        assert judge(w, now=at) is WorkerState.IDLE
        assert judge(w, now=at + 0.001) is WorkerState.UNKNOWN


def test_what_we_could_not_hear_is_not_the_fleets_silence():
    """Time that is excused moves `seen_at`; of a worker that was never heard there is none."""
    living = living_of(worker(name="heard"), worker(name="never", seen_at=0.0))
    draft = Draft(living, NOW + 1000)
    draft.excuse(950)
    assert judge(draft.worker("heard"), now=NOW + 1000) is WorkerState.IDLE
    assert fleet.silent_for(draft.worker("heard"), now=NOW + 1000) == 50
    assert draft.worker("never").seen_at == 0.0
    draft.excuse(5000)  # no worker was heard in the future
    assert draft.worker("heard").seen_at == NOW + 1000


def test_a_worker_whose_state_stays_is_the_same_value():
    """The leader tells by identity whether anything is to be written."""
    w = worker()
    assert fleet.judge(w, now=NOW + 1) is w


def test_what_is_written_at_once_and_what_may_wait():
    before = worker()
    heartbeat = fleet.after_status(before, status(ts=NOW + 30, free=1), live=True, now=NOW + 30)
    assert fleet.is_saved_alike(before, heartbeat) and fleet.is_placed_alike(before, heartbeat)
    for values in ({"slots": 3}, {"maintenance": True}, {"revision": 7}, {"state": "running"}, {"connection": 2}):
        assert not fleet.is_saved_alike(before, fleet.after_status(before, status(**values), live=True, now=NOW))


def test_a_heartbeat_that_tells_nothing_new_leaves_the_status_as_it_is():
    before = worker(status=status(health={"cpu": 0.5}))
    after = fleet.after_status(before, status(ts=NOW + 30), live=True, now=NOW + 31)
    assert after.status is before.status and (after.seen_at, after.clock.offset) == (NOW + 31, 1)
    with_health = fleet.after_status(before, status(health={"cpu": 0.6}), live=True, now=NOW)
    assert with_health.status.health == {"cpu": 0.6}


@pytest.mark.parametrize("name", [one.name for one in fields(WorkerStatus) if one.name not in ("ts", "health")])
def test_whatever_else_a_status_says_is_news(name):
    before = worker()
    other = {"state": "running", "reason": "x", "instance": "j", "interval": 60.0}
    new = other.get(name, not getattr(before.status, name) if "maintenance" in name else 7)
    after = fleet.after_status(replace(before, journal=""), status(**{name: new}), live=True, now=NOW)
    assert getattr(after.status, name) == new


def test_wishes_show_in_the_state():
    wished = worker(desired=Desired(revision=1, maintenance=True))
    assert judge(wished) is WorkerState.MAINTENANCE_REQUEST


def test_a_birth_settles_the_position():
    assert fleet.after_birth(worker(seq=7), born(first=8, last=9), NOW).seq == 7
    assert fleet.after_birth(worker(seq=3), born(first=8, last=9), NOW).seq == 7  # we forgot 4 to 7
    assert fleet.after_birth(worker(seq=7), born(journal="new", first=1, last=2), NOW).seq == 0


def test_late_births():
    assert fleet.is_late(worker(connection=2, birth=3), born(connection=2, number=3))
    assert fleet.is_late(worker(connection=2, birth=3), born(connection=1, number=9))
    assert not fleet.is_late(worker(connection=2, birth=3), born(connection=2, number=4))
    assert not fleet.is_late(worker(connection=2, birth=3), born(connection=3, number=1))


def test_a_worker_of_another_protocol_is_told_who_must_be_updated():
    assert "update the bridge" in fleet.refusal(PROTOCOL_VERSION + 1)
    assert "update airflow-mqtt on the device" in fleet.refusal(OLDEST_PROTOCOL - 1)


def test_what_places_jobs_is_said_by_the_introduction_alone():
    introduced = fleet.after_birth(worker(), born(queues=["q"], kinds=["airflow"]), NOW)
    after = fleet.after_info(introduced, info(version="2", queues=["other"], kinds=[]))
    assert (after.info.version, after.info.queues, after.info.kinds) == ("2", ["q"], ["airflow"])
    assert fleet.after_info(introduced, info(instance="before")) is introduced


def test_labels_and_version_come_with_the_introduction():
    introduced = fleet.after_birth(worker(), born(instance="new", version="0.2.0", labels={"camera": "yes"}), NOW)
    assert (introduced.info.version, introduced.info.labels) == ("0.2.0", {"camera": "yes"})


def test_a_worker_of_before_says_labels_and_version_in_the_rest_alone():
    introduced = fleet.after_birth(worker(), born(), NOW)
    after = fleet.after_info(introduced, info(version="0.1.0", labels={"camera": "yes"}))
    again = fleet.after_birth(after, born(number=2), NOW)
    assert (again.info.version, again.info.labels) == ("0.1.0", {"camera": "yes"})


@pytest.mark.parametrize(
    ("version", "note"),
    [
        ("0.2.0", ""),
        ("0.1.9", "its version 0.1.9 is below 0.2.0"),
        ("", "it has not said its version"),
        ("\x1b[31m" * 9, "cannot be compared with 0.2.0"),
    ],
)
def test_a_worker_below_the_least_version_says_why_it_is_given_no_jobs(version, note):
    noted = fleet.noted(worker(info=info(version=version)), Version.of("0.2.0"))
    assert note in noted.note and noted.note.isprintable() and len(noted.note) < 200
    assert bool(note) == bool(noted.note)
    assert noted.may_be_given_jobs is not bool(note)
    assert fleet.noted(noted, None).note == ""
    assert not note or not fleet.is_saved_alike(worker(info=noted.info), noted)


def test_a_replaced_journal_is_past():
    after = fleet.after_birth(worker(), born(journal="new"), NOW)
    assert after.past_journals == ("j",)
    assert fleet.is_late(after, born(journal="j", connection=99))
    assert not fleet.is_late(after, born(journal="newer"))


def test_what_a_worker_should_hold():
    accepted = job(accept_journal="j", accept_seq=5)
    assert fleet.should_hold(accepted, born(last=5))
    assert not fleet.should_hold(accepted, born(last=4))  # said before it was accepted
    assert fleet.should_hold(accepted, born(journal="new", last=0))
    assert fleet.should_hold(job(), born())


def test_queues_wished_replace_those_offered():
    assert worker(info=info(queues=["a"])).queues == {"a"}
    assert worker(info=info(queues=["a"]), desired=Desired(revision=1, queues=["b"])).queues == {"b"}


@pytest.mark.parametrize(
    ("state", "revision", "over"),
    [("idle", 6, False), ("terminating", 7, True), ("offline", 7, True), ("idle", 7, True), ("terminating", 6, False)],
)
def test_a_shutdown_is_over_once_the_worker_has_read_it(state, revision, over):
    """One that reads a wish for shutdown drains at once, or had done so before it was started anew."""
    said = status(state=state, revision=revision)
    assert fleet.has_shut_down(worker(desired=Desired(revision=7, shutdown=True), status=said)) is over
    assert not fleet.has_shut_down(worker(desired=Desired(revision=7, maintenance=True), status=said))


def test_a_status_without_health_says_nothing_of_it():
    told = fleet.after_status(worker(), status(health={"cpu": 9.0}), live=True, now=NOW)
    assert fleet.after_status(told, status(running=1), live=True, now=NOW).status.health == {"cpu": 9.0}
    assert fleet.after_status(told, status(health={"cpu": 1.0}), live=True, now=NOW).status.health == {"cpu": 1.0}


def test_the_health_of_another_start_is_not_kept():
    told = replace(worker(), status=status(health={"cpu": 9.0}, instance="before"), journal="")
    assert fleet.after_status(told, status(instance="after"), live=True, now=NOW).status.health == {}


def test_health_alone_is_not_written_at_once():
    before = fleet.after_status(worker(), status(health={"cpu": 9.0}), live=True, now=NOW)
    after = fleet.after_status(before, status(health={"cpu": 10.0}), live=True, now=NOW)
    assert fleet.is_saved_alike(before, after)


def test_a_device_that_takes_itself_out_of_service_is_in_maintenance_mode():
    """Nobody has wished so, and nobody is to wait for its exit."""
    own = status(maintenance=True, own_maintenance=True, reason="temperature > 80 (81)")
    assert judge(worker(status=own)) is WorkerState.MAINTENANCE_MODE
    assert judge(worker(status=replace(own, running=1))) is WorkerState.MAINTENANCE_PENDING
    assert judge(worker(status=replace(own, state="offline"))) is WorkerState.OFFLINE_MAINTENANCE
    assert judge(worker(status=own, desired=Desired(revision=1, shutdown=True))) is WorkerState.SHUTDOWN_REQUEST
    assert judge(worker(status=status(maintenance=True))) is WorkerState.MAINTENANCE_EXIT


def test_why_a_device_is_in_maintenance_is_written_at_once():
    before = worker(status=status(maintenance=True, own_maintenance=True, reason="temperature > 80 (81)"))
    after = replace(before, status=replace(before.status, reason="set on the device"))
    assert not fleet.is_saved_alike(before, after)
