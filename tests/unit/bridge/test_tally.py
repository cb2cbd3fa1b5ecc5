"""What the leader counts, over a writer and a gateway that work."""

import itertools
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_mqtt import bridge
from airflow_mqtt.bridge import tally
from airflow_mqtt.bridge.dispatch.reports import Heard
from airflow_mqtt.bridge.tally import Histogram, Tally
from airflow_mqtt.protocol.messages import LogChunk, UnsupportedBirth
from bridge_samples import info, status, worker
from gateway_bench import Bench, request
from unit.bridge.calls.test_cost import lifetime, new_job, until


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path / "bridge.db")
    await made.start()
    yield made
    await made.close()


def test_a_value_counts_in_the_first_bucket_that_holds_it():
    histogram = Histogram((1, 2, 5))
    for value in (0.5, 1, 1.5, 5, 7, -3):
        histogram.add(value)
    assert histogram.counts == [3, 1, 1, 1]  # 1 is in "up to 1"; a time that a clock made negative counts as none
    assert histogram.sum == 15


def test_a_copy_counts_no_more():
    counts = Tally()
    counts.refused["forbidden"] += 1
    counts.start["q"].add(1)
    copy = counts.copy()
    counts.refused["forbidden"] += 1
    counts.start["q"].add(1)
    counts.start["other"].add(1)
    counts.conflicts += 1
    assert (copy.refused["forbidden"], sum(copy.start["q"].counts), list(copy.start)) == (1, 1, ["q"])
    assert copy.conflicts == 0


async def test_a_job_is_counted_at_each_step(bench):
    bench.living.put_worker(worker(seen_at=time.time(), info=info(slots=2), status=status(slots=2, free=2)))
    bench.execute(*new_job("one"))
    bench.writer.connect(time.time())
    bench.writer.look_for_news()
    counts = bench.writer.tally
    await until(lambda: counts.events["default", "dispatch"])
    await lifetime(bench, "one", itertools.count(1))
    await until(lambda: counts.events["default", "succeed"])
    steps = {event: count for (queue, event), count in counts.events.items() if queue == "default"}
    assert steps == {"dispatch": 1, "accept": 1, "start": 1, "succeed": 1}
    for histograms in (counts.dispatch, counts.start, counts.run):
        assert sum(histograms["default"].counts) == 1
    assert counts.calls["PATCH", "task-instances/{task_instance_id}/run", 204] == 1
    assert sum(counts.call_seconds.counts) == counts.calls.total() == 4
    assert sum(counts.batch_sizes.counts) == sum(counts.batch_seconds.counts) > 0
    assert not counts.refused.total()


async def test_what_is_refused_is_counted_by_why(bench):
    await bench.add("one")
    await bench.ask("GET", "no/such/path")
    await bench.gateway.take(request("GET", "variables/x", job="another's"))
    refused = bench.writer.tally.refused
    assert (refused["not_found"], refused["forbidden"]) == (1, 1)
    assert bench.writer.tally.calls[tally.NO_ROUTE, tally.NO_ROUTE, 404] == 1
    bench.writer.receive(Heard("edge-9", UnsupportedBirth(protocol=99, journal="j")))
    await until(lambda: refused["protocol"] == 1)


def test_each_reason_of_a_refusal_is_known():
    """Those that have not been counted yet are shown as 0. An answer that is too large is no refusal of a call."""
    sources = "".join(path.read_text() for path in Path(bridge.__path__[0]).rglob("*.py"))
    said = {"protocol", *re.findall(r'Refusal\(\s*\d+,\s*"(\w+)"', sources)}
    assert said == {*tally.REFUSALS, "too_large"}
    assert len(re.findall(r"\bRefusal\(", sources)) == len(re.findall(r'Refusal\(\s*\d+,\s*"', sources))


async def test_what_log_limit_cuts_is_counted(bench):
    await bench.add("one")
    job = bench.living.jobs["one"]
    bench.living.put_job(replace(job, log_stored=10**6, log_bytes=1))
    bench.writer.receive(Heard("edge-1", LogChunk.of(1, 1, b"x" * 50), job="one"))
    await until(lambda: bench.writer.tally.log_bytes_lost == 50)


def test_queues_beyond_the_bound_count_together(monkeypatch):
    monkeypatch.setattr(tally, "QUEUES", 2)
    counts = Tally()
    assert [counts._queue(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", tally.OTHERS, "a", tally.OTHERS]
