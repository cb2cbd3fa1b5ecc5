from airflow_mqtt.bridge.store import QueueFigures
from airflow_mqtt.bridge.upkeep.queue_status import queue_statuses
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, info, worker


def test_a_queue_with_jobs_and_no_worker_says_so():
    statuses = queue_statuses({"x": QueueFigures(3, 0, NOW - 7.04, 1)}, {}, {}, NOW)
    assert statuses["x"].queued == 3
    assert statuses["x"].oldest_age == 7.0
    assert "no worker serves queue 'x'" in statuses["x"].note


def test_a_job_too_wide_says_so():
    statuses = queue_statuses({"default": QueueFigures(1, 0, NOW, 5)}, {"edge-1": worker()}, {}, NOW)
    assert "5 slots" in statuses["default"].note


def test_free_slots_and_workers_online():
    workers = {
        "a": worker(name="a"),
        "b": worker(name="b", info=info(queues=["default", "q2"])),
        "c": worker(name="c", state=WorkerState.OFFLINE),
        "d": worker(name="d", state=WorkerState.MAINTENANCE_MODE),
    }
    statuses = queue_statuses({"default": QueueFigures(0, 1, None, 0)}, workers, {"a": 1}, NOW)
    assert (statuses["default"].workers_online, statuses["default"].free_slots) == (3, 3)
    assert (statuses["q2"].workers_online, statuses["q2"].free_slots) == (1, 2)
    assert statuses["default"].note == ""
