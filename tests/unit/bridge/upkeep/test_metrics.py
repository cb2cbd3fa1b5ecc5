"""The page that Prometheus scrapes: complete, readable, and bounded, whatever devices say."""

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from airflow_mqtt.bridge.tally import OTHERS, QUEUES, Tally
from airflow_mqtt.bridge.upkeep import metrics
from airflow_mqtt.bridge.upkeep.metrics import METRICS, WORDS, Kind, Led, Seen, Vocabulary, text
from airflow_mqtt.bridge.upkeep.queue_status import queue_statuses
from airflow_mqtt.protocol.clocks import Clock
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from airflow_mqtt.protocol.messages import FIGURES
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, info, job, living_of, status, worker

HOSTILE = 'a"b\\c\nd{x="y"} 1 # \x1b[2J <script>' + "é" * 10_000


def led(*rows, **values):
    living = living_of(*rows)
    base = {
        "vocabulary": Vocabulary(), "tally": Tally(), "queues": queue_statuses(living, NOW), "jobs": list(living.jobs.values()),
        "workers": list(living.workers.values()), "used": living.used, "connected": True, "writer_queue": 3,
        "acks_pending": 4, "calls_pending": 5, "publications_pending": 6, "workers_refused": 0,
        "workers_not_allowed": 0, "received": {"status": 7}, "received_bytes": 70, "sent": 8, "sent_bytes": 80,
        "dropped": {"no room": 9}, "lines_left_out": 0,
    }  # fmt: skip
    return Led(**(base | values))


def seen(*rows, shown=1000, **values):
    return Seen("b-1", "9.9", "north", shown, epoch=12, renewed_ago=0.5, led=led(*rows, **values))


#: In which order labels are shown here. Those of the page are in the order of their names.
ORDER = ["worker", "name", "queue", "state", "event", "reason", "version", "le"]


def read(what):
    """Sample's name -> values of its labels, without the team -> value."""
    found = {}
    for family in text_string_to_metric_families(text(what).decode()):
        for sample in family.samples:
            labels = {name: sample.labels[name] for name in ORDER if name in sample.labels}
            assert sample.labels.get("team_name", "north") == "north"
            found.setdefault(sample.name, {})[tuple(labels.values())] = sample.value
    return found


def test_every_metric_is_on_the_page_with_its_type():
    counts = Tally()
    counts.events["default", "start"] += 1
    counts.calls["GET", "variables/{variable_key:path}", 200] += 1
    counts.refused["forbidden"] += 1
    for each in (counts.dispatch, counts.start, counts.run):
        each["default"].add(0.3)
    one = worker(clock=Clock.of(90.0), status=status(health={**dict.fromkeys(FIGURES, 1), "extra": {"depth": 2}}))
    page = text(seen(one, job(), tally=counts)).decode()
    types = dict(line.split()[2:4] for line in page.splitlines() if line.startswith("# TYPE"))
    for metric in METRICS:
        assert types[metric.full_name] == metric.kind
        assert f"\n{metric.full_name}{'_bucket' if metric.kind is Kind.HISTOGRAM else ''}{{" in f"\n{page}", metric.name
    assert types["process_cpu_seconds_total"] == "counter"


def test_a_standby_shows_itself_and_no_fleet():
    page = read(Seen("b-2", "9.9", "north", 1000))
    ours = {name for name in page if name.startswith(metrics.PREFIX)}
    assert ours == {"airflow_mqtt_bridge_info", "airflow_mqtt_leading"}
    assert page["airflow_mqtt_leading"] == {(): 0}


def test_jobs_and_workers_by_state():
    busy = worker(name="edge-2", state=WorkerState.RUNNING)
    page = read(
        seen(busy, worker(), job(), job(id="j2"), job(id="j3", state=JobState.RUNNING, worker="edge-2", slots=2))
    )
    assert page["airflow_mqtt_jobs"] == {("default", "queued"): 2, ("default", "running"): 1}
    states = page["airflow_mqtt_workers"]
    assert (states["idle",], states["running",], states["offline",]) == (1, 1, 0)
    assert page["airflow_mqtt_worker_free_slots"] == {("edge-1",): 2, ("edge-2",): 0}
    assert page["airflow_mqtt_worker_state"] == {("edge-1", "idle"): 1, ("edge-2", "running"): 1}


def test_a_histogram_is_as_prometheus_wants_it():
    counts = Tally()
    for value in (0.07, 0.07, 4000):
        counts.dispatch["default"].add(value)
    page = read(seen(tally=counts))
    buckets = page["airflow_mqtt_job_dispatch_seconds_bucket"]
    assert (buckets["default", "0.05"], buckets["default", "0.1"], buckets["default", "+Inf"]) == (0, 2, 3)
    assert page["airflow_mqtt_job_dispatch_seconds_count"]["default",] == 3


def test_what_a_device_says_is_a_value_and_no_more():
    strange = worker(info=info(version=HOSTILE, queues=["default"]))
    page = read(seen(strange))
    ((name, version),) = page["airflow_mqtt_worker_info"]
    assert (name, version) == ("edge-1", HOSTILE[:64])


def test_series_of_devices_are_bounded_and_those_left_out_are_counted():
    fleet = [worker(name=f"edge-{number:05}") for number in range(3000)]
    page = read(seen(*fleet, shown=10))
    for name, samples in page.items():
        if name.startswith("airflow_mqtt_worker_"):
            assert len(samples) == 10, name
    assert page["airflow_mqtt_workers_left_out"] == {(): 2990}
    assert page["airflow_mqtt_workers"]["idle",] == 3000


def test_a_device_that_is_forgotten_goes_away():
    before, after = read(seen(worker(), worker(name="edge-2"))), read(seen(worker()))
    assert ("edge-2",) in before["airflow_mqtt_worker_slots"]
    assert ("edge-2",) not in after["airflow_mqtt_worker_slots"]


def test_queues_that_devices_invent_leave_room_for_those_that_have_jobs():
    inventor = worker(info=info(queues=[f"a{number}" for number in range(2 * QUEUES)]))
    page = read(seen(inventor, job(queue="zone"), job(id="j2", queue="zone")))
    assert len(page["airflow_mqtt_queue_workers"]) == QUEUES
    assert page["airflow_mqtt_jobs"]["zone", "queued"] == 2
    assert page["airflow_mqtt_jobs"][OTHERS, "queued"] == 0


def test_a_device_that_says_others_each_time_gets_no_more_series_by_that():
    """What has ended is in Prometheus' memory for hours: a scrape may not add to it for ever."""
    vocabulary, series = Vocabulary(), set()
    for number in range(3 * QUEUES):
        told = info(version=f"1.{number}", queues=[f"invented-{number}", f"other-{number}"])
        health = {"extra": {f"name-{number}-{figure}": 1 for figure in range(4)}}
        page = read(seen(worker(info=told, status=status(health=health)), vocabulary=vocabulary))
        series |= {(name, labels) for name, samples in page.items() for labels in samples}
    assert len([labels for name, labels in series if name == "airflow_mqtt_queue_workers"]) == QUEUES
    words = [one for one in series if one[0] in ("airflow_mqtt_worker_info", "airflow_mqtt_worker_extra")]
    assert len(words) == WORDS + 1  # a version beyond is one of the others
    honest = read(seen(worker(name="edge-2"), job(queue="zone"), vocabulary=vocabulary))
    assert list(honest["airflow_mqtt_worker_info"]) == [("edge-2", info().version)]
    assert ("zone", "queued") in honest["airflow_mqtt_jobs"]


def test_a_queue_that_had_jobs_keeps_its_series():
    vocabulary, counts = Vocabulary(), Tally()
    counts.events["default", "start"] += 1
    for number in range(QUEUES):
        vocabulary.queues("", f"invented-{number}")
    assert ("default",) in read(seen(worker(), tally=counts, vocabulary=vocabulary))["airflow_mqtt_queue_workers"]
    assert "airflow_mqtt_queue_workers" not in read(seen(worker(), vocabulary=vocabulary))


def test_what_has_not_happened_yet_is_counted_as_none():
    """To Prometheus a counter that is first seen at 1 has not risen: the first job that is lost would raise no alert."""
    page = read(seen(worker(state=WorkerState.RUNNING), job(state=JobState.RUNNING, worker="edge-1")))
    events = page["airflow_mqtt_job_events_total"]
    assert events == {("default", event.value): 0 for event in JobEvent}
    assert page["airflow_mqtt_refused_total"]["forbidden",] == 0


def test_what_is_not_known_of_a_device_is_left_out():
    silent = worker(status=None, info=None, seen_at=0.0)
    page = read(seen(silent))
    assert page["airflow_mqtt_worker_info"] == {("edge-1", ""): 1}
    for name in ("worker_running", "worker_seen_timestamp_seconds", "worker_clock_offset_seconds"):
        assert f"airflow_mqtt_{name}" not in page


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_is_as_prometheus_wants_it(metric):
    """https://prometheus.io/docs/practices/naming/"""
    assert metric.name.replace("_", "").isalpha()
    assert metric.name.islower()
    assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
    assert "instance" not in metric.labels  # Prometheus' own
    assert metric.help.endswith(".")
    if metric.kind is Kind.HISTOGRAM:
        assert metric.name.endswith(("_seconds", "_scripts"))


def test_a_scrape_costs_the_loop_little_for_a_large_fleet():
    """What is done before the thread takes over: references are copied, nothing is formatted or sorted."""
    shown = replace(seen(*[worker(name=f"edge-{number}") for number in range(10)]), shown=5)
    assert not {"devices", "queues"} & vars(shown).keys()
    text(shown)
    assert {"devices", "queues"} <= vars(shown).keys()


def test_each_figure_of_a_devices_health_has_a_metric():
    assert set(metrics.HEALTH) == set(FIGURES)
    page = read(
        seen(worker(status=status(health={"cpu": 25, "link_in": 7, "extra": {"door": "closed", "signal": -71}})))
    )
    assert page["airflow_mqtt_worker_cpu_ratio"] == {("edge-1",): 0.25}
    assert page["airflow_mqtt_worker_link_received_bytes_total"] == {("edge-1",): 7}
    assert page["airflow_mqtt_worker_extra"] == {("edge-1", "signal"): -71}
    assert "airflow_mqtt_worker_load" not in page


def test_the_health_of_a_device_that_is_not_heard_is_not_known():
    gone = worker(state=WorkerState.UNKNOWN, status=status(health={"cpu": 25, "extra": {"signal": -71}}))
    page = read(seen(gone))
    assert not {"airflow_mqtt_worker_cpu_ratio", "airflow_mqtt_worker_extra"} & page.keys()
    assert page["airflow_mqtt_worker_slots"] == {("edge-1",): 2}


def test_the_statuses_of_workers_are_numbers():
    page = read(seen(worker(status=status(running=1, slots=3, free=2), info=info(slots=3))))
    assert page["airflow_mqtt_worker_running"] == {("edge-1",): 1}
    assert page["airflow_mqtt_worker_slots"] == {("edge-1",): 3}
