"""A broker that takes less than bridge and worker would send: a real Mosquitto with a low limit, MQTT 5 and 3.1.1.

`max_packet_size` is said in CONNACK, and without that ends the connection. `message_size_limit` is said in a PUBACK.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import link_ends  # first: see there
import servers
from airflow_mqtt.protocol.messages import Run
from airflow_mqtt.worker.core import calls, trial
from airflow_mqtt.worker.core.effects import SaveCall, SaveJob
from airflow_mqtt.worker.core.jobs import Call, Job, Phase, Result
from airflow_mqtt.worker.core.limits import KEY
from airflow_mqtt.worker.job_files import JobFiles
from airflow_mqtt.worker.journal import Journal
from bridge_bench import Site
from fakes import FakeExecutionApi, FakeWorker
from servers import wait_for
from worker_bench import FakeBridge

NAME = "edge-1"
LIMIT = 20_000

VARIANTS = [("max_packet_size", "5"), ("max_packet_size", "3.1.1"), ("message_size_limit", "5")]

#: Acknowledges what is too large, and ends the connection all the same.
ACKNOWLEDGES = ("message_size_limit", "3.1.1")


@contextmanager
def limited(directory: Path, option: str) -> Iterator[servers.Mosquitto]:
    overrides = {"max_packet_size": None, option: LIMIT}
    with servers.mosquitto(directory, accounts=[NAME], overrides=overrides) as broker:
        yield broker


def noise(size: int) -> str:
    return os.urandom(size // 2).hex()


def call(name: str, position: int, method: str, path: str, body: str) -> Call:
    return Call(id=name, method=method, path=path, body=body, position=position, headers={})


def remember(state: Path, log: bytes) -> None:
    """Leave in the journal what two tasks wrote while there was no link."""
    large, small = noise(400_000), '"small"'
    written = {
        "a": [
            call("a-1", 1, "POST", "xcoms/d/r/t/large", large),
            call("a-2", 2, "POST", "xcoms/d/r/t/small", small),
            call("a-3", 3, "PATCH", "task-instances/a/state", json.dumps({"state": "success", "end_date": None})),
        ],
        "b": [
            call("b-1", 4, "POST", "xcoms/d/r/t/small", small),
            call("b-2", 5, "PATCH", "task-instances/b/state", json.dumps({"state": "success", "end_date": None})),
        ],
    }
    effects = []
    for name, theirs in written.items():
        job = Job(run=Run(job=name, attempt=1, kind="airflow", slots=1, workload={}), queue="default")
        job.phase, job.final, job.result = Phase.ENDED, "success", Result(returned=True, exit_code=0)
        files = JobFiles(state, name, 1)
        files.directory.mkdir(parents=True)
        files.task_log.write_bytes(log)
        job.log_size = len(log)
        effects += [
            SaveJob(name, job.record()),
            *(SaveCall(one.id, name, one.position, one.record()) for one in theirs),
        ]
    with Journal(state / "journal.sqlite") as journal:
        journal.write(effects)


@pytest.mark.parametrize(("option", "version"), VARIANTS)
def test_a_call_that_cannot_pass_fails_alone(tmp_path: Path, option: str, version: str) -> None:
    """Before: with MQTT 3.1.1 and 5 the worker was cut off again and again, and nothing of `b` arrived."""
    log = b"".join(noise(1000).encode() + b"\n" for _ in range(30)) + os.urandom(30_000)
    with limited(tmp_path, option) as broker, FakeBridge(broker.url("bridge"), NAME) as bridge:
        worker = link_ends.LivingWorker(broker.url(NAME), NAME, version)
        state = Path(worker._folder.name)
        remember(state, log)
        with worker:
            assert bridge.event("b", "finished").outcome == "succeeded"
            finished = bridge.event("a", "finished")
            wait_for(lambda: len(bridge.logs.get("a", b"")) == finished.log_size, what="the whole log")
            wait_for(lambda: bridge.logs.get("b") == log, what="the other's log")
            with Journal(state / "journal.sqlite") as journal:
                learnt = journal.load().meta.get(KEY, "")
        assert [request.path for request in bridge.requests if request.job == "b"] == [
            "xcoms/d/r/t/small",
            "task-instances/b/state",
        ]
        mine = {request.path: request.body for request in bridge.requests if request.job == "a"}
        assert list(mine) == ["xcoms/d/r/t/small", "task-instances/a/state"]
        assert json.loads(mine["task-instances/a/state"])["state"] == "failed"
        assert bridge.logs["a"].startswith(log) and b"413" in bridge.logs["a"][len(log) :]
        assert bool(learnt) == (option != "max_packet_size" or version != "5")


@pytest.mark.parametrize(("option", "version"), [*VARIANTS, ACKNOWLEDGES])
def test_an_order_and_an_answer_that_cannot_pass_fail_alone(tmp_path: Path, option: str, version: str) -> None:
    """Before: the bridge was cut off at each order, and no device got a job."""
    with limited(tmp_path / "broker", option) as broker, FakeExecutionApi() as api:
        site = Site(f"sqlite:///{tmp_path}/airflow.db", broker, api, tmp_path)
        api.answer("GET", "large", 200, {"value": noise(60_000)})
        try:
            with FakeWorker(broker.url(NAME), NAME, slots=4) as worker:
                site.start_bridge("--mqtt-version", version, "--accept-timeout", "2")
                large = site.queue(workload=json.dumps({"noise": noise(50_000)}))
                site.wait_state(large, "failed", timeout=60)
                assert "of what the broker takes" in site.job(large).reason
                small = site.queue()
                run = worker.order()
                assert run.job == small
                worker.event("accepted", run)
                site.wait_state(small, "accepted")
                assert worker.call(run, "PATCH", f"task-instances/{site.job(small).subject}/run", {}).status == 200
                asked = worker.request(run, "GET", "variables/large")
                status = None
                while status is None:  # it sends again what is not answered
                    worker.request(run, "GET", "variables/large", id_=asked)
                    status = _answer_within(worker, asked, 2)
                assert status == 413
                assert worker.call(run, "GET", "variables/x").status == 204
        finally:
            site.close()


def _answer_within(worker: FakeWorker, id_: str, seconds: float) -> int | None:
    import queue

    try:
        while True:
            response = worker.responses.get(timeout=seconds)
            if response.id == id_:
                return response.status
    except queue.Empty:
        return None


def test_a_broker_that_acknowledges_what_it_drops_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the connection, with a bound of `max_queued_messages`. Before: the call waited for ever, and with it all of its job."""
    monkeypatch.setattr(calls, "RESEND_CALL_AFTER", 0.5)
    monkeypatch.setattr(trial, "WAIT", 2.0)
    overrides = {"max_packet_size": None, "message_size_limit": LIMIT, "max_queued_messages": 1000}
    with (
        servers.mosquitto(tmp_path, accounts=[NAME], overrides=overrides) as broker,
        FakeBridge(broker.url("bridge"), NAME) as bridge,
    ):
        worker = link_ends.LivingWorker(broker.url(NAME), NAME, "3.1.1", heartbeat_interval=1)
        remember(Path(worker._folder.name), b"")
        with worker:
            assert bridge.event("b", "finished").outcome == "succeeded"
            bridge.event("a", "finished")
        assert "xcoms/d/r/t/large" not in [request.path for request in bridge.requests]
