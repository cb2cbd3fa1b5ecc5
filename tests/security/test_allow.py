"""One device must not be able to swallow a site's jobs: what a site allows, against a real bridge, broker and database."""

import json
from itertools import count

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import servers
from airflow_mqtt.database import operations, tables
from airflow_mqtt.protocol.messages import Cancel, Run
from bridge_bench import Site
from fakes import FakeExecutionApi, FakeWorker
from mqtt_peer import Peer
from servers import wait_for

_NUMBERS = count(1)

#: One for each that a test plays: what is still on its way to one of that name would confuse the next.
_DEVICES = [f"edge-{number}" for number in range(1, 13)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with servers.mosquitto(tmp_path_factory.mktemp("broker"), accounts=["thief", *_DEVICES]) as server:
        yield server


@pytest.fixture(scope="module")
def site(broker, shared_postgres, tmp_path_factory):
    """A bridge as it comes: it goes by the list, and nothing is on it."""
    with FakeExecutionApi() as api:
        made = Site(shared_postgres.new_database(), broker, api, tmp_path_factory.mktemp("site"))
        made.start_bridge("--allow", "listed")
        yield made
        made.close()


@pytest.fixture
def name():
    """A queue of its own for each test."""
    return f"queue-{next(_NUMBERS)}"


@pytest.fixture(scope="module")
def names():
    return iter(_DEVICES)


@pytest.fixture
def device(broker, name, names):
    with play(broker, next(names), name) as played:
        wait_for(lambda: heard(played), what="the device's birth")
        yield played


def play(broker, worker, *queues, **values):
    return FakeWorker(broker.url(worker), worker, queues=list(queues), **values)


def operate(site, operation, *values):
    with Session(site.engine) as session:
        wish = operation(session, "", *values)
        session.commit()
    return wish


def allow(site, *values):
    return operate(site, operations.allow, *values)


def start(site, device, run):
    """Accept a job and pass the gate; return the answer."""
    device.event("accepted", run)
    subject = site.job(run.job).subject
    return device.call(run, "PATCH", f"task-instances/{subject}/run", {"hostname": "pi", "unixname": "u", "pid": 7})


def finish(site, device, run):
    subject = site.job(run.job).subject
    assert device.call(run, "PATCH", f"task-instances/{subject}/state", {"state": "success"}).status == 204
    device.event("finished", run, outcome="succeeded", exit_code=0, log_size=0)


def nothing_for(worker):
    """Whether no order has reached it, although what was sent to it before the answer to a birth has."""
    worker.introduce()
    wait_for(lambda: heard(worker, worker.births), what="the answer to a birth")
    return worker.orders.empty()


def heard(worker, birth=1):
    """Whether the bridge has answered to this birth of it, not to one of its namesake before it."""
    return any(ack.journal == worker.journal and ack.birth >= birth for ack in list(worker.acks.queue))


def status_of(site, broker, name, wanted):
    """Wait for a status of the queue of which `wanted` holds, as somebody sees it who watches."""
    with Peer(broker.url("monitor")) as monitor:
        monitor.subscribe(f"airflow/v1/queue/{name}/status")

        def found():
            said = [json.loads(payload) for _, payload, _ in monitor.received if payload]
            return next((status for status in said[::-1] if wanted(status)), None)

        return wait_for(found, what="the queue's status", timeout=60)


def test_a_stolen_device_gets_no_job_of_a_queue_that_is_not_its_own(site, broker, device, name):
    """Before: all of them went to whoever said the most slots, and with each what its task may read."""
    allow(site, device.name, [name])
    with play(broker, "thief", name, "its own", slots=1000) as thief:
        wait_for(lambda: heard(thief), what="the thief's birth")
        jobs = [site.queue(queue=name) for _ in range(8)]
        for _ in jobs:
            run = device.order()
            assert start(site, device, run).status == 200
            finish(site, device, run)
        for job in jobs:
            site.wait_state(job, "succeeded")
            assert (site.job(job).worker, site.job(job).attempt) == (device.name, 1)
        assert nothing_for(thief)
        status = status_of(site, broker, name, lambda status: status["queued"] == 0 and status["free_slots"] >= 2)
        assert (status["workers_online"], status["free_slots"]) == (1, 2)
        # … and nothing of it can be called in the name of a job that it never had.
        stolen = Run(job=jobs[0], attempt=1, kind="airflow", slots=1, workload={})
        assert thief.call(stolen, "GET", "variables/x").status == 403
        assert not site.api.calls("GET", "x")
        wait_for(lambda: "worker thief says that it serves" in site.log_text(0), what="a word in the log")


def test_nobody_is_allowed_until_somebody_says_so(site, broker, device, name):
    job = site.queue(queue=name)
    status = status_of(site, broker, name, lambda status: status["note"])
    assert f"not allowed to: {device.name} (airflow mqtt allow)" in status["note"]
    assert status["workers_online"] == 0
    assert nothing_for(device) and site.job(job).state == "queued"
    allow(site, "edge-*", [name])  # heard without a restart
    run = device.order()
    assert run.job == job and start(site, device, run).status == 200


def test_what_is_taken_back_before_it_starts_goes_to_another(site, broker, device, names, name):
    allow(site, device.name, [name])
    job = site.queue(queue=name)
    run = device.order()
    device.event("accepted", run)
    site.wait_state(job, "accepted")
    operate(site, operations.disallow, device.name, [name])
    dropped = device.order(Cancel)
    assert (dropped.job, dropped.attempt) == (job, 1) and "may not serve" in dropped.reason
    path = f"task-instances/{site.job(job).subject}/run"
    assert device.call(run, "PATCH", path, {}).status in (403, 409)  # nor does the gate open for it
    assert (site.job(job).state, site.job(job).attempt) == ("queued", 2)
    with play(broker, next(names), name) as other:
        allow(site, other.name, [name])
        again = other.order()
        assert (again.job, again.attempt) == (job, 2)
        assert start(site, other, again).status == 200
        assert not [call for call in site.api.calls("PATCH", "run") if call.path == path][1:]


def test_what_runs_goes_on(site, device, name):
    allow(site, device.name, [name])
    site.queue(queue=name)
    run = device.order()
    assert start(site, device, run).status == 200
    operate(site, operations.disallow, device.name, [])
    site.queue(queue=name)
    assert nothing_for(device)
    finish(site, device, run)
    site.wait_state(run.job, "succeeded")


#: Calls of a job of `dag`, `run`, and the right that each needs.
CALLS = [
    ("GET", "variables/site", "", "variables"), ("PUT", "variables/site", "", "variables-write"),
    ("GET", "connections/db", "", "connections"), ("GET", "xcoms/dag/run/other/key", "", "xcoms-of-run"),
    ("GET", "xcoms/dag/run/other/key", "include_prior_dates=true", "xcoms-of-others"),
    ("GET", "xcoms/dag/older/other/key", "", "xcoms-of-others"), ("GET", "xcoms/else/run/other/key", "", "xcoms-of-others"),
    ("POST", "dag-runs/else/next", "", "dag-runs-write"), ("GET", "dag-runs/else/next/state", "", "dag-runs"),
]  # fmt: skip


def test_what_a_queues_jobs_may_call(site, device, name):
    """Before: a device with one job could read every Connection and Variable, and start any Dag."""
    allow(site, device.name, [name])
    site.queue(queue=name)
    run = device.order()
    assert start(site, device, run).status == 200
    subject, task = site.job(run.job).subject, site.job(run.job).task_id

    def called(method, path, query=""):
        answer = device.call(run, method, path, {} if method != "GET" else None, query=query)
        if answer.status == 403:
            return json.loads(answer.body)["detail"]["reason"]
        return answer.status

    assert all(called(method, path, query) == 204 for method, path, query, _ in CALLS)  # as on any worker
    operate(site, operations.allow_calls, name, [])
    wait_for(lambda: called(*CALLS[0][:3]) == "not_allowed", what="the bridge to hear of it")
    seen = len(site.api.seen)
    assert all(called(method, path, query) == "not_allowed" for method, path, query, _ in CALLS)
    assert not [call for call in site.api.seen[seen:] if "heartbeat" not in call.path]
    assert called("PUT", f"task-instances/{subject}/rtif") == 204  # what is its own it may always
    assert called("POST", f"xcoms/dag/run/{task}/key") == 204
    assert called("GET", f"xcoms/dag/run/{task}/key") == 204
    for right in dict.fromkeys(call[3] for call in CALLS):
        operate(site, operations.allow_calls, name, [right])
        mine = next(call[:3] for call in CALLS if call[3] == right)
        wait_for(lambda mine=mine: called(*mine) == 204, what=f"{right} to be heard of")
        for method, path, query, needed in CALLS:
            reaches = needed == right or (right, needed) == ("xcoms-of-others", "xcoms-of-run")
            assert (called(method, path, query) == 204) == reaches, (right, method, path, query)
    operate(site, operations.allow_calls, name, None)
    wait_for(lambda: all(called(m, p, q) == 204 for m, p, q, _ in CALLS), what="all to be allowed again")


def worker_row(site, device):
    with site.engine.connect() as connection:
        return connection.execute(sa.select(tables.worker).where(tables.worker.c.name == device.name)).one()


def wait_worker(site, device, **wanted):
    wait_for(lambda: wanted.items() <= dict(worker_row(site, device)._mapping).items(), what=f"it to be {wanted}")


def test_a_shutdown_is_over_once_it_was_followed(site, broker, device, name):
    """Before: a worker that was started again stayed in "shutdown request", and got no job."""
    allow(site, device.name, [name])
    operate(site, operations.shutdown_worker, device.name, "new battery")
    wait_worker(site, device, state="shutdown request", revision=1)
    device.status("terminating", revision=1)  # it has read the wish, and ends what it runs
    wait_worker(site, device, revision=2)
    device.status("offline", revision=1, reason="stopped")
    wait_worker(site, device, state="offline", revision=2)
    desired = json.loads(worker_row(site, device).desired)
    assert (desired["shutdown"], desired["comment"]) == (False, "new battery")
    job = site.queue(queue=name)
    device.connection += 1
    device.introduce()  # `Restart=always`
    assert device.order().job == job


def test_the_shutdown_of_a_worker_that_is_away_waits_for_it(site, device):
    """It counts when the worker comes, which follows it, and then it is over: also when nobody saw it drain."""
    device.status("offline", reason="stopped")
    wait_worker(site, device, state="offline")
    operate(site, operations.shutdown_worker, device.name)
    device.introduce()  # it has not read the wish yet
    wait_worker(site, device, state="shutdown request", revision=1)
    device.status("idle", revision=1)  # it has read it, and had followed it before it was started anew
    wait_worker(site, device, state="idle", revision=2)
