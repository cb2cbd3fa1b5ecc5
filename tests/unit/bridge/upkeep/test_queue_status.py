from dataclasses import replace

from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.upkeep.queue_status import queue_statuses
from airflow_mqtt.protocol.clocks import Clock
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, info, job, living_of, worker


def test_a_queue_with_jobs_and_no_worker_says_so():
    jobs = [job(id=str(n), queue="x", queued_at=NOW - at) for n, at in enumerate((1, 7.04, 3))]
    statuses = queue_statuses(living_of(*jobs), NOW)
    assert statuses["x"].queued == 3
    assert statuses["x"].oldest_age == 7.0
    assert "no worker serves queue 'x'" in statuses["x"].note


def test_a_job_too_wide_says_so():
    statuses = queue_statuses(living_of(job(slots=5), job(id="narrow"), worker()), NOW)
    assert "5 slots" in statuses["default"].note
    assert queue_statuses(living_of(job(slots=2), worker()), NOW)["default"].note == ""


CAMERA = (("camera", "yes"),)


def test_labels_that_nobody_has_are_named():
    living = living_of(job(labels=CAMERA), job(id="plain"), worker())
    assert queue_statuses(living, NOW)["default"].note == "jobs wait: no worker of queue 'default' has camera=yes"
    assert queue_statuses(living, NOW)["default"].queued == 2
    test = living_of(job(kind="airflow-connection-test"), worker())
    assert "no worker of queue 'default' has kind airflow-connection-test" in queue_statuses(test, NOW)["default"].note
    wide = living_of(job(labels=CAMERA, slots=3), worker(info=info(labels=dict(CAMERA))), worker(name="w"))
    assert "needs 3 slots; the largest worker of queue 'default' with camera=yes has 2" in (
        queue_statuses(wide, NOW)["default"].note
    )


def test_workers_of_too_low_a_version_are_why_jobs_wait():
    living = living_of(job(), worker(info=info(version="0.1.0")), least="0.2.0")
    status = queue_statuses(living, NOW)["default"]
    assert "no worker of queue 'default' takes jobs now (1 are there; edge-1: its version" in status.note
    assert (status.free_slots, status.workers_online) == (0, 1)


def test_free_slots_and_workers_online():
    living = living_of(
        worker(name="a"),
        worker(name="b", info=info(queues=["default", "q2"])),
        worker(name="c", state=WorkerState.OFFLINE),
        worker(name="d", state=WorkerState.MAINTENANCE_MODE),
        job(state=JobState.RUNNING, worker="a"),
    )
    statuses = queue_statuses(living, NOW)
    assert (statuses["default"].workers_online, statuses["default"].free_slots) == (3, 3)
    assert (statuses["q2"].workers_online, statuses["q2"].free_slots) == (1, 2)
    assert (statuses["default"].running, statuses["default"].queued, statuses["q2"].running) == (1, 0, 0)
    assert statuses["default"].note == ""


def test_a_queue_of_which_nothing_is_left_is_none():
    living = living_of(job(), worker())
    living.take_out("job-1")
    living.forget_worker("edge-1")
    assert queue_statuses(living, NOW) == {}


def test_whose_clock_is_off_is_said_while_it_is_heard():
    off = worker(name="a", clock=Clock(offset=3600.0, heard=True))
    living = living_of(off, worker(name="b"), worker(name="c", clock=off.clock))
    assert queue_statuses(living, NOW)["default"].note == "worker a: its clock is 1:00:00 behind, and 1 more"
    living.put_worker(replace(off, clock=Clock(heard=True)))
    assert queue_statuses(living, NOW)["default"].note == "worker c: its clock is 1:00:00 behind"
    living.put_worker(worker(name="c", clock=off.clock, state=WorkerState.OFFLINE))
    assert queue_statuses(living, NOW)["default"].note == ""


def test_the_fleet_is_not_counted_anew(monkeypatch):
    """Ten thousand workers take a tenth of a second, in which nothing else is done."""
    living = living_of(*(worker(name=f"w{number}") for number in range(50)))
    looked = []
    monkeypatch.setattr(Living, "room", lambda self, name: looked.append(name) or 0)
    assert queue_statuses(living, NOW)["default"].free_slots == 100
    living.offer("w1")
    queue_statuses(living, NOW)
    assert len(looked) <= 2
