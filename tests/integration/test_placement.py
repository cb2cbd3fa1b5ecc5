"""Placement by label, deadlines to start and a least version: a real bridge, with real workers and with ones that we play."""

import json
import time
from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.messages import Cancel, QueueStatus
from fakes import FakeWorker
from mqtt_peer import Peer
from servers import wait_for
from worker_bench import WorkerProcess, workload

CAMERA = '{"camera":"yes"}'
QUEUES = "airflow/v1/queue/+/status"


def note_of(peer, queue="default"):
    said = [text for topic, text, _ in list(peer.received) if topic.endswith(f"/{queue}/status")]
    return QueueStatus.decode(said[-1]).note if said else ""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_job_goes_to_the_real_worker_that_has_its_label(site, broker, tmp_path):
    """The other one has more free slots."""
    with ExitStack() as stack:
        for name, settings in (("edge-1", {"slots": 9}), ("edge-2", {"labels": "camera=yes,site=north", "slots": 3})):
            process = WorkerProcess(tmp_path / name, broker.url(name), name, **settings)
            process.start()
            stack.callback(process.stop)
        site.start_bridge()
        wait_for(lambda: _labels(site).keys() == {"edge-1", "edge-2"}, what="both workers", timeout=60)
        assert _labels(site)["edge-2"] == {"camera": "yes", "site": "north"}
        text = json.dumps(workload("quick"))
        sees = [site.queue(labels=CAMERA, workload=text) for _ in range(2)]
        plain = site.queue(workload=text)
        nowhere = site.queue(labels='{"camera":"no"}', workload=text)
        for job in (*sees, plain):
            wait_for(lambda job=job: site.job(job).accepted_at, what=f"{job} accepted", timeout=60)
        assert {site.job(job).worker for job in sees} == {"edge-2"}
        assert site.job(plain).worker == "edge-1"
        assert site.job(nowhere).state == "queued"


def _labels(site):
    with site.engine.connect() as connection:
        rows = connection.execute(sa.select(tables.worker.c.name, tables.worker.c.info, tables.worker.c.state))
        return {row.name: json.loads(row.info).get("labels") for row in rows if row.state == "idle"}


def test_what_fits_nowhere_says_so_and_a_deadline_ends_it(site, worker, broker):
    site.start_bridge()
    with Peer(broker.url("monitor")) as peer:
        peer.subscribe(QUEUES)
        wait_for(lambda: worker.acks.qsize(), what="the worker's birth", timeout=60)
        job = site.queue(labels=CAMERA)
        late = site.queue(labels=CAMERA, not_after=time.time() + 4)
        other = site.queue()  # behind both, and not held up
        assert worker.order(timeout=60).job == other
        note = "jobs wait: no worker of queue 'default' has camera=yes"
        wait_for(lambda: note_of(peer) == note, what="the note", timeout=60)
        site.wait_state(late, "failed", timeout=60)
        assert site.job(late).reason.endswith("(start_within): no worker of queue 'default' has camera=yes")
        assert site.job(late).report_pending
        with FakeWorker(broker.url("edge-2"), "edge-2", labels={"camera": "yes"}) as sees:
            assert sees.order(timeout=60).job == job
    assert site.job(late).attempt == 1


def test_a_job_that_its_worker_does_not_begin_in_time_fails(site, worker):
    worker.behind = 3600.0
    site.start_bridge()
    wait_for(lambda: worker.acks.qsize(), what="the worker's birth", timeout=60)
    by = time.time() + 15
    job = site.queue(not_after=by)
    run = worker.order(timeout=60)
    assert run.not_after is None or abs(run.not_after - (by - 3600)) < 60  # by its own clock, once that is known
    worker.event("accepted", run)
    order = worker.order(Cancel, timeout=60)
    assert (order.job, "start_within" in order.reason) == (job, True)
    assert site.job(job).state == "failed" and time.time() >= by
    path = f"task-instances/{site.job(job).subject}/run"
    assert worker.call(run, "PATCH", path, {"hostname": "pi", "unixname": "u", "pid": 7}).status in (403, 409)
    assert not site.api.calls("PATCH", "run")


def test_a_worker_below_the_least_version_is_given_no_more_jobs(site, broker):
    site.start_bridge("--least-worker-version", "0.2.0")
    with (
        FakeWorker(broker.url("edge-1"), "edge-1", release="0.1.9", slots=9) as old,
        FakeWorker(broker.url("edge-2"), "edge-2", release="0.2.0") as new,
        Peer(broker.url("monitor")) as peer,
    ):
        peer.subscribe(QUEUES)
        job = site.queue()
        run = new.order(timeout=60)
        assert run.job == job and old.orders.empty()
        note = "its version 0.1.9 is below 0.2.0: it is given no jobs until airflow-mqtt is updated there"
        wait_for(lambda: _notes(site) == {"edge-1": note, "edge-2": ""}, what="its note", timeout=60)
        new.status("offline", reason="stopped")
        site.queue()
        wait_for(lambda: "takes jobs now (1 are there; edge-1: its version" in note_of(peer), what="a note", timeout=60)
        old.release = "0.2.1"
        old.instance, old.connection = "updated", 2
        old.introduce()
        assert old.order(timeout=60)
        wait_for(lambda: _notes(site)["edge-1"] == "", what="no note", timeout=60)


def _notes(site):
    with site.engine.connect() as connection:
        return dict(connection.execute(sa.select(tables.worker.c.name, tables.worker.c.note)).tuples().all())


def test_a_least_version_that_is_none_is_refused_in_one_line(site):
    bridge = site.start_bridge("--least-worker-version", "new")
    assert bridge.wait(60) == 2
    (line,) = site.log_text(0).strip().splitlines()
    assert "least_worker_version from the flag --least-worker-version: 'new' does not fit" in line
