"""What a device has the broker retain where nothing is retained is not played back to a bridge that comes later."""

import pytest

import servers
from airflow_mqtt.protocol.messages import Born, LogChunk
from bridge_bench import SUBJECT, Site
from fakes import FakeExecutionApi, FakeWorker
from mqtt_peer import Peer
from servers import wait_for

EVENTS = "airflow/v1/worker/edge-1/events"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_birth_that_was_retained_loses_no_job(shared_postgres, tmp_path, version) -> None:
    with (
        servers.mosquitto(accounts=["edge-1"]) as broker,
        FakeExecutionApi() as api,
        FakeWorker(broker.url("edge-1"), "edge-1") as worker,
        Peer(broker.url("edge-1"), "thief") as thief,
    ):
        site = Site(shared_postgres.new_database(), broker, api, tmp_path)
        try:
            _play_back(site, worker, thief, version)
        finally:
            site.close()


def _play_back(site, worker, thief, version) -> None:
    first = site.start_bridge("--mqtt-version", version)
    job = site.queue()
    run = worker.order(timeout=60)
    worker.event("accepted", run)
    body = {"hostname": "pi", "unixname": "u", "pid": 7}
    assert worker.call(run, "PATCH", f"task-instances/{SUBJECT}0/run", body).status == 200
    wait_for(lambda: worker.acked == worker.seq, what="the acknowledgement", timeout=60)
    first.kill()
    first.wait()
    born = Born(
        journal="thief", first=1, last=0, instance="thief", connection=2**40, number=1, queues=["default"],
        kinds=["airflow"],
    )  # fmt: skip
    chunk, logs = LogChunk.of(1, 0, b"forged\n"), f"airflow/v1/worker/edge-1/logs/{job}"
    thief.publish(logs, chunk.encode(), retain=True)
    thief.publish(EVENTS, born.encode(), retain=True)
    site.start_bridge("--mqtt-version", version)
    worker.event("finished", run, outcome="failed")
    site.wait_state(job, "failed", timeout=60)
    wait_for(lambda: worker.acked == worker.seq, what="the acknowledgement", timeout=60)
    assert site.job(job).reason == "the worker's supervisor failed"
    assert site.log_of(job) == b""
    with site.engine.connect() as connection:
        (journal, past) = connection.exec_driver_sql("SELECT journal, past_journals FROM mqtt_worker").one()
    assert (journal, past) == (worker.journal, "[]")
    if version == "3.1.1":  # such a bridge gets it, and has it cleared
        _is_retained_no_more(site, logs)


def _is_retained_no_more(site, logs) -> None:
    def retained() -> list[str]:
        with Peer(site.broker.url("bridge"), "watch") as watch:
            watch.subscribe(EVENTS, logs, "airflow/v1/worker/+/status")
            watch.wait("airflow/v1/worker/edge-1/status")
            return [topic for topic in watch.topics() if topic in (EVENTS, logs)]

    wait_for(lambda: not retained(), what="the broker to forget what it retained", timeout=60)
