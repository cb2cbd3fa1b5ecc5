"""Old and new side by side: bridges and devices are not updated at the same moment."""

import signal
import time
from pathlib import Path

from airflow_mqtt.protocol import PROTOCOL_VERSION
from airflow_mqtt.protocol.topics import TopicKind
from bridge_bench import SUBJECT
from fakes import FakeWorker
from servers import wait_for

#: A bridge as the next release may be.
NEXT = (str(Path(__file__).resolve().parents[1] / "next_protocol.py"),)


def run_to_the_end(site, worker, number):
    """Let `worker` run the job that it is given next, which is the site's job `number`."""
    run = worker.order()
    worker.event("accepted", run)
    path = f"task-instances/{SUBJECT}{number}"
    assert worker.call(run, "PATCH", f"{path}/run", {"hostname": "pi", "unixname": "u", "pid": 7}).status == 200
    assert worker.call(run, "PATCH", f"{path}/state", {"state": "success"}).status == 204
    worker.event("finished", run, outcome="succeeded", exit_code=0, log_size=0)
    site.wait_state(run.job, "succeeded")


def test_a_rolling_upgrade(site, worker, broker):
    """First the bridges, one by one, then the devices; one device that was too early waits."""
    old = site.start_bridge("--instance", "old")
    site.queue()
    run_to_the_end(site, worker, 0)

    with FakeWorker(broker.url("edge-2"), "edge-2", queues=["early"], protocol=PROTOCOL_VERSION + 1) as early:
        refusal = early.acks.get(timeout=60)
        assert f"speaks protocol {PROTOCOL_VERSION + 1}" in refusal.refused and "update the bridge" in refusal.refused
        waiting = site.queue(queue="early")
        site.start_bridge("--instance", "new", program=NEXT)
        wait_for(lambda: "standing by: bridge old leads" in site.log_text(1), what="the new bridge to stand by")
        for _ in range(3):
            early.introduce()  # asks again, as it would after `resend_after`
            assert early.acks.get(timeout=60).refused
        assert site.job(waiting).state == "queued"
        assert site.log_text(0).count("edge-2 is refused") == 1

        # A job of the old device runs across the change of the leader.
        site.queue()
        run = worker.order()
        worker.event("accepted", run)
        path = f"task-instances/{SUBJECT}2"
        assert worker.call(run, "PATCH", f"{path}/run", {"hostname": "pi", "unixname": "u", "pid": 7}).status == 200
        epoch = worker.epoch
        old.send_signal(signal.SIGTERM)
        assert old.wait(60) == 0
        wait_for(lambda: worker.epoch > epoch, what="the new bridge to lead")  # a real worker would repeat its request
        assert worker.call(run, "PATCH", f"{path}/state", {"state": "success"}).status == 204
        worker.event("finished", run, outcome="succeeded", exit_code=0, log_size=0)
        site.wait_state(run.job, "succeeded")

        run_to_the_end(site, early, 1)
    site.queue()
    run_to_the_end(site, worker, 3)
    assert "Traceback" not in site.log_text(0) + site.log_text(1)


def test_a_device_of_the_next_release_keeps_its_running_task_beside_an_older_bridge(site, worker):
    """It was updated too early, in the middle of a task: what the bridge knows of the task goes on to count."""
    site.start_bridge("--lost-after", "8")
    job = site.queue()
    run = worker.order()
    worker.event("accepted", run)
    path = f"task-instances/{SUBJECT}0"
    assert worker.call(run, "PATCH", f"{path}/run", {"hostname": "pi", "unixname": "u", "pid": 7}).status == 200
    worker.status("offline", reason="stopped")
    worker.protocol += 1
    worker.connection += 1
    worker.instance = "next"
    while not worker.acks.empty():
        worker.acks.get()
    worker.introduce()
    while not worker.acks.get(timeout=60).refused:
        pass
    asked = time.monotonic()
    while time.monotonic() < asked + 11:  # longer than `lost_after`: it is heard, though not understood
        worker.introduce()
        while not worker.acks.get(timeout=60).refused:  # that of what it said before may come late
            pass
        assert site.job(job).state == "running"
        time.sleep(0.5)
    assert worker.call(run, "PATCH", f"{path}/state", {"state": "success"}).status == 204
    worker.event("finished", run, outcome="succeeded", exit_code=0, log_size=0)
    site.wait_state(job, "succeeded")
    second = site.queue()
    worker.say(TopicKind.EVENTS, worker.events[-1])  # anything that shows that the bridge has had a turn
    assert site.job(second).state == "queued"
