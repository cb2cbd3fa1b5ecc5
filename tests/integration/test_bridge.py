"""A real bridge process between a real broker and a real database, with a worker and an Execution API that we play."""

import json
import re
import signal
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.messages import Cancel
from bridge_bench import SUBJECT
from fakes import FakeWorker
from mqtt_peer import Peer
from servers import wait_for as await_condition


def wait_for(condition, what):
    return await_condition(condition, what=what)


def start(worker, run):
    """Accept a job and pass the gate."""
    worker.event("accepted", run)
    return worker.call(run, "PATCH", f"task-instances/{SUBJECT}0/run", {"hostname": "pi", "unixname": "u", "pid": 7})


def test_a_job_goes_all_the_way(site, worker):
    site.start_bridge()
    job = site.queue()
    run = worker.order()
    assert (run.job, run.attempt, run.workload) == (job, 1, {"ti": {}})
    site.api.answer("PATCH", "run", 200, {"max_tries": 0}, Refreshed_API_Token="execution-token")
    answer = start(worker, run)
    assert answer.status == 200 and json.loads(answer.body) == {"max_tries": 0}
    assert "token" not in json.dumps(answer.headers).lower()
    gate = site.api.calls("PATCH", "run")[0]
    assert gate.token == "workload-token" and gate.body["hostname"] == worker.name
    assert site.job(job).state == "running" and site.job(job).report_pending
    wait_for(lambda: site.api.calls("PUT", "heartbeat"), "a heartbeat")
    beat = site.api.calls("PUT", "heartbeat")[-1]
    assert beat.token == "execution-token" and beat.body == {"hostname": worker.name, "pid": 7}
    worker.log(run, 0, b"one\n")
    worker.log(run, 4, b"two\n")
    worker.log(run, 0, b"one\ntwo\nthree\n")
    wait_for(lambda: site.log_of(job) == b"one\ntwo\nthree\n", "the log")
    assert worker.call(run, "PATCH", f"task-instances/{SUBJECT}0/state", {"state": "success"}).status == 204
    assert site.job(job).final_state == "success"
    worker.event("finished", run, outcome="succeeded", exit_code=0, log_size=14)
    site.wait_state(job, "succeeded")
    wait_for(lambda: worker.acked == worker.seq, "the acknowledgement")
    with site.engine.connect() as connection:
        events = [row.event for row in connection.execute(sa.select(tables.job_event).order_by(tables.job_event.c.id))]
    assert events == ["queue", "dispatch", "accept", "start", "succeed"]


def test_only_its_own_jobs_and_only_once(site, worker, broker):
    site.start_bridge()
    job = site.queue()
    run = worker.order()
    path = f"task-instances/{SUBJECT}0"
    body = {"hostname": "pi", "unixname": "u", "pid": 7}
    assert worker.call(run, "PUT", f"{path}/rtif", {}).status == 409  # before the gate
    assert worker.call(run, "PATCH", f"{path}/run", body, attempt=2).status == 409
    worker.event("accepted", run)
    first = worker.request(run, "PATCH", f"{path}/run", body)
    again = worker.request(run, "PATCH", f"{path}/run", body, id_=first)
    assert first == again
    assert worker.responses.get(timeout=60).status == 200
    assert worker.call(run, "PATCH", f"{path}/run", body).status == 409  # another request for the gate
    for bad in (
        f"task-instances/{SUBJECT}9/state", "connection-tests/x/connection", "../api/v2/dags", "health",
        f"{path}/../x/state", f"{path}/%2e%2e/state", "xcoms/dag/run/other-task/key",
    ):  # fmt: skip
        method = "POST" if bad.startswith("xcoms") else "PATCH"
        assert worker.call(run, method, bad, {}).status in (403, 404), bad
    assert worker.call(run, "GET", "variables/site/threshold").status == 204
    with FakeWorker(broker.url("edge-2"), "edge-2", queues=["other"]) as thief:
        wait_for(lambda: thief.acks.qsize(), "the other worker's birth")
        assert thief.call(run, "PATCH", f"{path}/state", {"state": "success"}).status == 403
    assert len(site.api.calls("PATCH", "run")) == 1
    assert site.job(job).final_state is None


def test_an_execution_api_that_stumbles(site, worker):
    site.start_bridge()
    job = site.queue()
    run = worker.order()
    site.api.answer("PATCH", "run", 503)
    site.api.answer("PATCH", "run", 403, {"detail": "Invalid auth token"})
    site.api.answer("PATCH", "run", 500)
    site.api.answer("PATCH", "run", 200, {"max_tries": 0})
    assert start(worker, run).status == 200
    assert len(site.api.calls("PATCH", "run")) == 4
    site.api.answer("PUT", "rtif", 500)
    assert worker.call(run, "PUT", f"task-instances/{SUBJECT}0/rtif", {}).status == 500  # the call's own fault
    assert len(site.api.calls("PUT", "rtif")) == 6
    assert site.job(job).running_since


def test_a_call_is_not_made_for_a_job_that_has_ended(site, worker):
    site.start_bridge()
    job = site.queue()
    run = worker.order()
    start(worker, run)
    site.api.answer("GET", "late", 503)
    id_ = worker.request(run, "GET", "variables/late")
    wait_for(lambda: len(site.api.calls("GET", "late")) > 1, "a second try")
    worker.event("finished", run, outcome="failed")
    site.wait_state(job, "failed")
    answer = worker.responses.get(timeout=60)
    assert (answer.id, answer.status) == (id_, 409)


def test_calls_of_one_job_that_never_end_leave_the_gateway_to_others(site, worker, broker):
    """What HTTP has no form for, and what gets 503 for ever, many times, from one device with one job."""
    site.start_bridge()
    job = site.queue()
    run = worker.order()
    assert start(worker, run).status == 200
    site.wait_state(job, "running")
    version = {"airflow_api_version": "2026-01-01\nX-Evil: 1"}
    assert worker.call(run, "GET", "variables/x", **version).status == 400
    body = {"hostname": "pi", "unixname": "a\x00b", "pid": 7}
    site.api.answer("GET", "down", 503)
    for _ in range(200):
        worker.request(run, "GET", "variables/down")
    with FakeWorker(broker.url("edge-2"), "edge-2", queues=["other"]) as second:
        site.queue(queue="other")
        theirs = second.order()
        second.event("accepted", theirs)
        path = f"task-instances/{SUBJECT}1"
        assert second.call(theirs, "PATCH", f"{path}/run", body).status == 200
        assert second.call(theirs, "PATCH", f"{path}/state", {"state": "success"}).status == 204
    assert site.job(theirs.job).unixname == "a\N{REPLACEMENT CHARACTER}b"
    assert "Traceback" not in site.log_text(0)


def test_a_job_that_is_accepted_and_never_started_moves_on(site, worker, broker):
    """Before: it stayed accepted for as long as its worker lived."""
    site.start_bridge("--start-timeout", "3")
    job = site.queue()
    run = worker.order()
    worker.event("accepted", run)
    dropped = worker.order(Cancel)
    assert (dropped.job, dropped.attempt) == (job, 1) and "has not started it" in dropped.reason
    with FakeWorker(broker.url("edge-2"), "edge-2") as other:  # the first is left alone for a while
        again = other.order()
        assert (again.job, again.attempt) == (job, 2)
        assert start(other, again).status == 200


def test_a_job_that_is_not_accepted_moves_on(site, worker, broker):
    site.start_bridge("--accept-tries", "2", "--accept-timeout", "3")
    job = site.queue()
    first = worker.order()
    second = worker.order()
    assert first == second  # published again
    third = worker.order()
    assert third.attempt == 2
    worker.event("accepted", third)
    site.wait_state(job, "accepted")
    worker.status("offline")
    site.wait_state(job, "queued")
    assert site.job(job).attempt == 3


def test_rejected_jobs_wait_for_another_worker(site, worker, broker):
    site.start_bridge()
    job = site.queue()
    with FakeWorker(broker.url("edge-2"), "edge-2", queues=["other"]) as second:
        wait_for(lambda: second.acks.qsize(), "the other worker's birth")
        worker.event("rejected", worker.order(), reason="full")
        site.wait_state(job, "queued")
        second.queues = ["default"]
        second.introduce()
        assert second.order().attempt == 2


def test_airflow_stops_a_task(site, worker):
    site.start_bridge()
    job = site.queue()
    run = worker.order()
    start(worker, run)
    site.api.answer("PUT", "heartbeat", 409, {"detail": {"reason": "not_running"}})
    cancel = worker.order(Cancel)
    assert cancel.job == job and "409" in cancel.reason
    worker.event("cancelled", run)
    site.wait_state(job, "cancelled")
    assert site.job(job).reason.startswith("airflow:")
    assert site.job(job).report_pending


def test_the_executor_revokes(site, worker):
    site.start_bridge()
    job = site.queue()
    run = worker.order()
    worker.event("accepted", run)
    site.wait_state(job, "accepted")
    site.cancel(job)
    assert worker.order(Cancel).attempt == 1
    worker.event("cancelled", run)
    site.wait_state(job, "cancelled")


def test_a_silent_workers_task_is_lost_after_its_time(site, worker):
    site.start_bridge("--lost-after", "12")
    job = site.queue()
    run = worker.order()
    began = time.time()
    start(worker, run)
    worker.quiet = True
    worker.status("offline", reason="lost")
    site.wait_state(job, "lost")
    assert site.job(job).finished_at >= began + 12
    beats = [call.at - began for call in site.api.calls("PUT", "heartbeat")]
    assert [beat for beat in beats if beat > 6], beats  # they went on for it


def test_a_late_will_does_not_bury_a_living_worker(site, worker):
    site.start_bridge()
    worker.connection = 5
    worker.status()
    job = site.queue()
    worker.order()
    worker.connection = 4
    worker.status("offline", reason="lost")
    worker.connection = 5
    time.sleep(0.5)
    site.wait_state(job, "dispatched")


def test_a_worker_without_its_journal(site, worker):
    site.start_bridge()
    accepted, running = site.queue(), site.queue()
    runs = {run.job: run for run in (worker.order(), worker.order())}
    worker.event("accepted", runs[accepted])
    worker.event("accepted", runs[running])
    body = {"hostname": "pi", "unixname": "u", "pid": 7}
    assert worker.call(runs[running], "PATCH", f"task-instances/{SUBJECT}1/run", body).status == 200
    site.wait_state(accepted, "accepted")
    worker.journal, worker.seq, worker.acked, worker.events, worker.held = uuid.uuid4().hex, 0, 0, [], {}
    worker.connection += 1
    worker.introduce()
    site.wait_state(running, "lost")
    wait_for(lambda: site.job(accepted).attempt == 2, "the accepted job in its next attempt")


def test_a_gap_is_not_acknowledged(site, worker):
    site.start_bridge()
    job = site.queue()
    run = worker.order()
    worker.seq += 1  # number 1 is never sent
    worker.event("accepted", run)
    assert all(ack.seq == 0 for ack in [worker.acks.get(timeout=60), worker.acks.get(timeout=60)])
    assert site.job(job).state == "dispatched"


def test_a_standby_takes_over(site, worker):
    leader = site.start_bridge("--instance", "one")
    job = site.queue()
    run = worker.order()
    worker.event("accepted", run)
    site.wait_state(job, "accepted")
    standby = site.start_bridge("--instance", "two")
    wait_for(lambda: "standing by: bridge one leads" in site.log_text(1), "the standby")
    epoch = worker.epoch
    leader.kill()
    wait_for(lambda: worker.epoch > epoch, "the next leader")
    second = site.queue()
    assert worker.order().job == second
    standby.send_signal(signal.SIGTERM)
    assert standby.wait(60) == 0


def stop_between_transactions(site, process):
    """Stop a bridge. On SQLite, one that is stopped while it reads or writes keeps everybody else from committing."""

    def stopped():
        process.send_signal(signal.SIGSTOP)
        try:
            with site.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA busy_timeout = 100" if site.url.startswith("sqlite") else "SELECT 1")
                connection.execute(sa.update(tables.bridge).values(beat=tables.bridge.c.beat))
                connection.commit()
            return True
        except sa.exc.OperationalError:
            process.send_signal(signal.SIGCONT)
            return False

    wait_for(stopped, "a moment without a transaction")
    site.engine.dispose()  # on SQLite its connection waits for 0.1 s only


def test_a_sleeping_leader_writes_nothing_when_it_wakes(site, worker):
    leader = site.start_bridge("--instance", "one")
    site.wait_state(site.queue(), "dispatched")
    stop_between_transactions(site, leader)
    site.start_bridge("--instance", "two")
    epoch = worker.epoch
    wait_for(lambda: worker.epoch > epoch, "the next leader")
    leader.send_signal(signal.SIGCONT)
    log = site.directory / "bridge-0.log"
    wait_for(lambda: "no longer leading" in log.read_text(), "the old leader to notice")
    with site.engine.connect() as connection:
        assert connection.execute(sa.select(tables.bridge.c.holder)).scalar_one() == "two"


def test_the_only_bridge_does_not_take_its_sleep_for_the_fleets_silence(site, worker):
    """Nobody takes over; what the worker says meanwhile goes to nobody."""
    leader = site.start_bridge("--lost-after", "4")
    job = site.queue()
    run = worker.order()
    start(worker, run)
    worker.status(interval=1.0)

    def said():
        with site.engine.connect() as connection:
            return connection.execute(sa.select(tables.worker.c.status)).scalar_one()

    wait_for(lambda: '"interval":1.0' in said(), "the status")
    stop_between_transactions(site, leader)
    time.sleep(8)
    leader.send_signal(signal.SIGCONT)

    def says(interval):
        worker.status(interval=interval)  # again, since one may get lost while the bridge leads anew
        time.sleep(0.5)
        return f'"interval":{interval}' in said()

    for interval in (2.0, 3.0):
        wait_for(lambda interval=interval: says(interval), "the status")
    assert site.job(job).state == "running"
    assert "has been silent" not in site.log_text(0)


def test_what_fits_nowhere_holds_nobody_up(site, worker):
    """More such jobs than are looked at at a time."""
    site.start_bridge()
    for _ in range(501):
        site.queue(slots=3, priority=9)
    small = site.queue()
    assert worker.order().job == small


def test_a_worker_that_does_not_answer_does_not_get_every_job(site, worker, broker):
    """It lives and has the most room; what it is sent does not reach it."""
    site.start_bridge("--accept-timeout", "0.5", "--accept-tries", "2")
    with FakeWorker(broker.url("edge-2"), "edge-2", slots=9) as deaf:
        wait_for(lambda: deaf.acks.qsize(), "the bridge")
        deaf.status()
        job = site.queue()
        assert deaf.order().job == job
        assert worker.order().job == job


def test_a_device_that_claims_what_it_does_not_hold_is_told_of_a_part(site, worker, broker):
    """Births without end, each with all that fits: settled once a batch, and no more is said than can be published."""
    site.start_bridge()
    with FakeWorker(broker.url("edge-2"), "edge-2", queues=["other"]) as liar:
        wait_for(lambda: liar.acks.qsize(), "the bridge")
        liar.held = {(f"invented-{number}", 1): "running" for number in range(2000)}
        for _ in range(8):
            liar.introduce()
        job = site.queue(slots=1)
        start(worker, worker.order())
        site.wait_state(job, "running")
        wait_for(lambda: liar.acks.qsize() > 1, "an acknowledgement of its last birth")
        assert liar.orders.qsize() <= 8 * 256


def test_the_figures_of_a_queue_that_is_gone_are_cleared(site, worker, broker):
    """Else a device could fill the broker's store, with a name at a time."""
    site.start_bridge()
    topic = "airflow/v1/queue/+/status"
    with Peer(broker.url("monitor")) as peer:
        peer.subscribe(topic)
        wait_for(lambda: any("queue/default/" in name for name, _, _ in peer.received), "the figures")
        worker.queues = ["another"]
        worker.introduce()
        cleared = ("airflow/v1/queue/default/status", b"", False)
        wait_for(lambda: cleared in peer.received, "the end of the figures")
        wait_for(lambda: any("queue/another/" in name for name, _, _ in list(peer.received)), "the new queue's")


def test_a_late_will_of_its_own_does_not_stand(site, broker):
    """One of an earlier connection of the same bridge: a broker may send it after the bridge is back."""
    topic = "airflow/v1/bridge/status"
    with Peer(broker.url("bridge")) as peer:
        peer.subscribe(topic)
        bridge = site.start_bridge("--instance", "one")
        peer.wait(topic)
        leading = json.loads(peer.received[-1][1])
        assert leading["state"] == "leading"

        def states():
            return [json.loads(payload)["state"] for _, payload, _ in peer.received]

        peer.publish(topic, json.dumps({**leading, "state": "offline"}).encode(), retain=True)
        wait_for(lambda: states()[-2:] == ["offline", "leading"], "an answer to the will")
        bridge.send_signal(signal.SIGTERM)
        assert bridge.wait(60) == 0
        wait_for(lambda: states()[-1] == "offline", "its goodbye")


def test_garbage_stops_nothing(site, worker, broker):
    site.start_bridge()
    wait_for(lambda: worker.acks.qsize(), "the bridge")
    for payload in (b"", b"{", b"[]", b"\x78\x9c\x00", b'{"type":"born"}', b"\xff" * 50, b'{"seq":1e999}'):
        for kind in ("status", "info", "events", "request", "logs/x"):
            worker.publish(f"airflow/v1/worker/{worker.name}/{kind}", payload)
    site.queue()
    assert worker.order()
    log = (site.directory / "bridge-0.log").read_text()
    assert "Traceback" not in log
    assert log.count("dropped a message") <= 5


def test_a_job_too_large_for_the_broker_fails_with_the_settings_name(site, worker):
    import random

    site.start_bridge("--max-message-bytes", "4096")
    noise = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000))
    job = site.queue(workload=json.dumps({"noise": noise}))
    site.wait_state(job, "failed")
    assert "max_message_bytes" in site.job(job).reason
    site.queue()
    assert worker.order()


def test_nobody_serves_the_queue(site, broker):
    from paho.mqtt import subscribe

    site.start_bridge()
    job = site.queue(queue="north/ödland")
    user = {"username": "monitor", "password": broker.passwords["monitor"]}
    message = subscribe.simple(
        "airflow/v1/queue/+/status", hostname="127.0.0.1", port=broker.port, auth=user, keepalive=10
    )
    assert message.topic == "airflow/v1/queue/north%2F%C3%B6dland/status"
    status = json.loads(message.payload)
    assert status["queued"] == 1 and "no worker serves" in status["note"]
    assert site.job(job).state == "queued"


def test_without_tables_it_says_what_to_do(broker, api, tmp_path):
    result = subprocess.run(
        [
            sys.executable, "-m", "airflow_mqtt.cli", "bridge", "run", "--broker-url", broker.url("bridge"),
            "--database-url", f"sqlite:///{tmp_path}/empty.db", "--execution-api-url", api.url,
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.strip().count("\n") == 0 and "airflow db migrate" in result.stderr


@pytest.mark.parametrize("behind", [7200.0, -7200.0])
def test_a_device_whose_clock_is_wrong_reschedules_at_the_right_time(site, worker, behind):
    """Two hours ahead, five seconds would be two hours; two hours behind, nothing at all."""
    worker.behind = behind
    site.start_bridge()
    site.queue()
    run = worker.order()
    now = time.time()

    def said(seconds):
        return datetime.fromtimestamp(now - behind + seconds, UTC).isoformat()

    def heard(call, name):
        return datetime.fromisoformat(call.body[name]).timestamp() - now

    worker.event("accepted", run)
    start = {"hostname": "pi", "unixname": "u", "pid": 7, "start_date": said(0)}
    assert worker.call(run, "PATCH", f"task-instances/{SUBJECT}0/run", start).status < 300
    end = {"state": "up_for_reschedule", "end_date": said(1), "reschedule_date": said(6)}
    assert worker.call(run, "PATCH", f"task-instances/{SUBJECT}0/state", end).status == 204
    (gate,), (final,) = site.api.calls("PATCH", "run"), site.api.calls("PATCH", "state")
    assert heard(gate, "start_date") == pytest.approx(0, abs=60)
    assert heard(final, "end_date") == pytest.approx(1, abs=60)
    assert heard(final, "reschedule_date") == pytest.approx(6, abs=60)
    with site.engine.connect() as connection:
        shown = connection.execute(sa.select(tables.worker.c.clock_offset)).scalar_one()
    assert shown == pytest.approx(behind, abs=60)
    # What it says is under way for a moment, by which a clock that is ahead seems to be less so.
    note = re.compile(f"its clock is (2:00|1:59):[0-9]+ {'behind' if behind > 0 else 'ahead'}")
    wait_for(lambda: note.search(site.log_text(0)), "a note in the bridge's log")
