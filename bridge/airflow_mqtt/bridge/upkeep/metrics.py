"""The figures of a bridge as Prometheus reads them: one table, `METRICS`, and what it is read from. Pure.

A row says a metric's name, kind and labels, what it is, and how it is read from `Seen`. A new one is a row here, and a
line in `tally` where something has to be counted. Names follow https://prometheus.io/docs/practices/naming/.

What devices can invent is bounded: series of so many queues and so many workers, and no other label of theirs but
their names and versions, and names of figures of the site's own (`messages.MAX_EXTRA`). Nor do they get more by saying
others from scrape to scrape: see `Vocabulary`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import accumulate
from typing import Any, Final

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from airflow_mqtt.bridge.bounds import Names
from airflow_mqtt.bridge.tally import OTHERS, QUEUES, REFUSALS, Histogram, Tally
from airflow_mqtt.database.records import Job, Worker
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from airflow_mqtt.protocol.messages import QueueStatus, sanitise
from airflow_mqtt.protocol.workers import GONE, WorkerState

#: What all names begin with.
PREFIX: Final = "airflow_mqtt_"

#: Characters of a version that a device says.
_VERSION: Final = 64

#: Versions of one device, and names of figures of its own, that become labels in the time of one leader.
WORDS: Final = 64


class Vocabulary:
    """What devices have said that has become a label, in the time of one leader: so much, and then no more.

    A series that has ended costs Prometheus for hours, and another may begin with each scrape.
    """

    def __init__(self) -> None:
        self.queues = Names(each=QUEUES)  # without jobs
        self.words = Names(each=WORDS)


@dataclass(frozen=True, slots=True)
class Led:
    """What a leader shows: its counts, and what is in its memory now. Nothing in it changes any more but `vocabulary`,
    which belongs to whoever makes the page.
    """

    vocabulary: Vocabulary
    tally: Tally
    queues: Mapping[str, QueueStatus]
    jobs: Sequence[Job]  # that workers hold
    workers: Sequence[Worker]
    used: Mapping[str, int]  # worker -> slots that its jobs take
    connected: bool
    writer_queue: int
    acks_pending: int
    calls_pending: int
    publications_pending: int
    workers_refused: int
    workers_not_allowed: int
    received: Mapping[str, int]
    received_bytes: int
    sent: int
    sent_bytes: int
    dropped: Mapping[str, int]
    lines_left_out: int


@dataclass(frozen=True)
class Seen:
    """What a bridge shows. `led` is None while it stands by; `shown` is of how many workers there are series."""

    instance: str
    version: str
    team_name: str
    shown: int
    epoch: int = 0
    renewed_ago: float = 0.0
    led: Led | None = None

    @cached_property
    def devices(self) -> list[Worker]:
        """The workers that have series."""
        return sorted(_led(self).workers, key=lambda worker: worker.name)[: self.shown]

    @cached_property
    def queues(self) -> frozenset[str]:
        """The queues that have series: first those with jobs, now or before, since a device can say any queue."""
        led = _led(self)
        had = {queue for queue, _ in led.tally.events}
        by_use = sorted((not _is_used(status), name not in had, name) for name, status in led.queues.items())
        return frozenset(
            name
            for idle, new, name in by_use[:QUEUES]
            if not (idle and new) or led.vocabulary.queues("", name)
        )  # fmt: skip


class Kind(StrEnum):
    """As Prometheus calls them."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


#: Values of a row's labels, and the number, which of a histogram is a `Histogram`.
Samples = Iterable[tuple[Sequence[str], Any]]


@dataclass(frozen=True, slots=True)
class Metric:
    """A row. `read` gives the samples; of a metric of the leader it is not asked while the bridge stands by."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    read: Callable[[Any], Samples]
    of_leader: bool = True

    @property
    def full_name(self) -> str:
        """As it is queried; of a histogram `_bucket`, `_sum` and `_count` follow."""
        return PREFIX + self.name + ("_total" if self.kind is Kind.COUNTER else "")


def _one(number: Callable[[Led], Any]) -> Callable[[Seen], Samples]:
    return lambda seen: [((), number(_led(seen)))]


def _each(numbers: Callable[[Led], Mapping[Any, Any]]) -> Callable[[Seen], Samples]:
    """Of a mapping from the value of the one label, or from a tuple of values."""
    return lambda seen: [(_texts(key), number) for key, number in numbers(_led(seen)).items()]


def _of_queue(number: Callable[[QueueStatus], float]) -> Callable[[Seen], Samples]:
    return lambda seen: [((name,), number(status)) for name, status in _led(seen).queues.items() if name in seen.queues]


def _of_worker(number: Callable[[Worker, Led], float | None]) -> Callable[[Seen], Samples]:
    """Of each worker of which it is known."""
    return lambda seen: (
        ((worker.name,), value)
        for worker in seen.devices
        if (value := number(worker, _led(seen))) is not None
    )  # fmt: skip


def _is_used(status: QueueStatus) -> bool:
    return bool(status.queued or status.running)


def _led(seen: Seen) -> Led:
    assert seen.led is not None
    return seen.led


def _texts(key: Any) -> tuple[str, ...]:
    return tuple(map(str, key)) if isinstance(key, tuple) else (str(key),)


def _jobs(seen: Seen) -> Samples:
    """How many jobs are in each queue and state; the states of jobs that wait or run are there with 0, too."""
    found: Counter[tuple[str, str]] = Counter()
    for name, status in _led(seen).queues.items():
        queue = name if name in seen.queues else OTHERS
        found[queue, JobState.QUEUED.value] += status.queued
        found[queue, JobState.RUNNING.value] += 0
    for job in _led(seen).jobs:
        found[job.queue if job.queue in seen.queues else OTHERS, job.state.value] += 1
    return list(found.items())


def _events(seen: Seen) -> Samples:
    """What happened to the jobs of a queue, and 0 for what has not: a counter that begins at 1 has not risen yet."""
    led = _led(seen)
    counted = led.tally.events
    queues = {queue for queue, _ in counted}
    queues |= {led.tally.shown(name) for name, status in led.queues.items() if _is_used(status)}
    return [((queue, event.value), counted[queue, event.value]) for queue in sorted(queues) for event in JobEvent]


def _workers(seen: Seen) -> Samples:
    found = Counter(worker.state for worker in _led(seen).workers)
    return [((state.value,), found[state]) for state in WorkerState]


def _versions(seen: Seen) -> Samples:
    known = _led(seen).vocabulary.words
    for worker in seen.devices:
        version = sanitise(worker.info.version if worker.info else "", _VERSION)
        yield (worker.name, version if known(worker.name, f"version {version}") else OTHERS), 1


def _states(seen: Seen) -> Samples:
    return (((worker.name, worker.state.value), 1) for worker in seen.devices)


def _of_health(figure: str, factor: float) -> Callable[[Seen], Samples]:
    """Of each worker that says it and is heard of: what is not known any more is no figure."""

    def number(worker: Worker, _: Led) -> float | None:
        value = _health(worker).get(figure)
        return None if value is None else value * factor

    return _of_worker(number)


def _health(worker: Worker) -> Mapping[str, Any]:
    return worker.status.health if worker.status is not None and worker.state not in GONE else {}


def _extra(seen: Seen) -> Samples:
    known = _led(seen).vocabulary.words
    for worker in seen.devices:
        for name, value in _health(worker).get("extra", {}).items():
            if not isinstance(value, str) and known(worker.name, f"extra {name}"):
                yield (worker.name, name), value


G, C, H = Kind.GAUGE, Kind.COUNTER, Kind.HISTOGRAM

#: Figure of a device's health -> its metric, by what it is multiplied to be in Prometheus' units, what it is.
HEALTH: Final = {
    "cpu": ("cpu_ratio", G, 0.01, "How busy all cores together are, from 0 to 1."),
    "load": ("load", G, 1, "The load average of the last minute."),
    "memory_used": ("memory_used_bytes", G, 1, "Memory that is not available to a new program."),
    "memory_total": ("memory_bytes", G, 1, "Memory that it has."),
    "disk_free": ("disk_free_bytes", G, 1, "What is free of the disk with the worker's state directory."),
    "disk_total": ("disk_bytes", G, 1, "What that disk has."),
    "temperature": ("temperature_celsius", G, 1, "The highest that any thermal zone tells."),
    "battery": ("battery_ratio", G, 0.01, "Charge of the weakest battery, from 0 to 1."),
    "uptime": ("uptime_seconds", G, 1, "Since the device was started."),
    "link_in": ("link_received_bytes", C, 1, "What came on its connections to the broker, with TLS, without TCP/IP."),
    "link_out": ("link_sent_bytes", C, 1, "What went out on them."),
    "journal": ("journal_bytes", G, 1, "Size of the worker's journal."),
}

METRICS: Final = (
    # The process.
    Metric(
        "bridge_info", G, ("instance_name", "version"), "1: a bridge, whether it leads or stands by.",
        lambda seen: [((seen.instance, seen.version), 1)], of_leader=False,
    ),
    Metric(
        "leading", G, (), "Whether this bridge leads (1) or stands by (0).",
        lambda seen: [((), int(seen.led is not None))], of_leader=False,
    ),
    Metric("lease_epoch", G, (), "The epoch of the lease; each takeover raises it.", lambda seen: [((), seen.epoch)]),
    Metric(
        "lease_renewed_seconds", G, (), "Seconds since the lease was renewed last.",
        lambda seen: [((), seen.renewed_ago)],
    ),
    # Jobs.
    Metric(
        "jobs", G, ("queue", "state"),
        f"Jobs by state. Ended ones are in `job_events_total`. Queues beyond the first {QUEUES} are `{OTHERS}`.", _jobs,
    ),
    Metric("queue_oldest_seconds", G, ("queue",), "Age of the job that has waited longest; 0 where none waits.",
           _of_queue(lambda status: status.oldest_age)),
    Metric("queue_workers", G, ("queue",), "Workers that serve the queue, may do so, and are heard of.",
           _of_queue(lambda status: status.workers_online)),
    Metric("queue_free_slots", G, ("queue",), "Free slots of these; one of several queues counts in each.",
           _of_queue(lambda status: status.free_slots)),
    Metric("job_events", C, ("queue", "event"), "What happened to jobs: each row of their history but the first.",
           _events),
    Metric("job_dispatch_seconds", H, ("queue",), "From when a job was queued until it is given to its first worker.",
           _each(lambda led: led.tally.dispatch)),
    Metric("job_start_seconds", H, ("queue",), "From when a job is given to a worker until its user code may run.",
           _each(lambda led: led.tally.start)),
    Metric("job_run_seconds", H, ("queue",), "From a job's start until its end.", _each(lambda led: led.tally.run)),
    # Workers.
    Metric("workers", G, ("state",), "Workers by state.", _workers),
    Metric("workers_refused", G, (), "Workers that are refused now, since their protocol is another.",
           _one(lambda led: led.workers_refused)),
    Metric("workers_not_allowed", G, (), "Workers that say they serve a queue and may not (`airflow mqtt allow`).",
           _one(lambda led: led.workers_not_allowed)),
    Metric("workers_left_out", G, (), "Workers that have no series of their own: more than `metrics_workers`.",
           lambda seen: [((), len(_led(seen).workers) - len(seen.devices))]),
    # Calls of the Execution API.
    Metric("calls", C, ("method", "route", "status"), "Calls of jobs that were answered, refused ones among them.",
           _each(lambda led: led.tally.calls)),
    Metric("call_seconds", H, (), "From a call's turn until its answer is known: start gate, Airflow, commit.",
           _one(lambda led: led.tally.call_seconds)),
    Metric("call_tries_failed", C, (), "Tries of calls that Airflow's API did not answer; they are made again.",
           _one(lambda led: led.tally.call_tries_failed)),
    Metric("calls_pending", G, (), "Calls that are being answered.", _one(lambda led: led.calls_pending)),
    Metric("refused", C, ("reason",), "Calls that the bridge refused, and introductions of workers (`protocol`).",
           _each(lambda led: dict.fromkeys(REFUSALS, 0) | led.tally.refused)),
    # The broker.
    Metric("broker_connected", G, (), "Whether the connection to the broker stands.",
           _one(lambda led: led.connected)),
    Metric("received_messages", C, ("kind",), "MQTT messages that came, by kind of topic.",
           _each(lambda led: led.received)),
    Metric("received_bytes", C, (), "Bytes of their payloads.", _one(lambda led: led.received_bytes)),
    Metric("sent_messages", C, (), "MQTT messages that were published.", _one(lambda led: led.sent)),
    Metric("sent_bytes", C, (), "Bytes of their payloads.", _one(lambda led: led.sent_bytes)),
    Metric("dropped_messages", C, ("reason",), "Messages that were not taken, or not sent, by kind of topic or by why.",
           _each(lambda led: led.dropped)),
    Metric("publications_pending", G, (), "Messages that the broker has not acknowledged.",
           _one(lambda led: led.publications_pending)),
    Metric("acks_pending", G, (), "Workers that an acknowledgement is to be sent to.",
           _one(lambda led: led.acks_pending)),
    # The writer.
    Metric("writer_queue", G, (), "Scripts that wait for the writer.", _one(lambda led: led.writer_queue)),
    Metric("batch_scripts", H, (), "Scripts of a batch that has committed.",
           _one(lambda led: led.tally.batch_sizes)),
    Metric("batch_seconds", H, (), "From a batch's begin until it has committed.",
           _one(lambda led: led.tally.batch_seconds)),
    Metric("batch_conflicts", C, (), "Batches that ran again, since others had changed what they change.",
           _one(lambda led: led.tally.conflicts)),
    Metric("batch_failures", C, (), "Batches that the database did not take; they are tried again.",
           _one(lambda led: led.tally.failures)),
    # Logs.
    Metric("log_bytes", C, (), "Bytes of jobs' logs that were stored.", _one(lambda led: led.tally.log_bytes)),
    Metric("log_lost_bytes", C, (), "Bytes of jobs' logs that were not kept: beyond `log_limit`.",
           _one(lambda led: led.tally.log_bytes_lost)),
    Metric("lines_left_out", C, (), "Lines of the bridge's own log that were left out, since there were many alike.",
           _one(lambda led: led.lines_left_out)),
    # Each device.
    Metric("worker_info", G, ("worker", "version"), "1: what the worker says of itself.", _versions),
    Metric("worker_state", G, ("worker", "state"), "1: the state that the worker is in.", _states),
    Metric("worker_slots", G, ("worker",), "Slots that the worker has.", _of_worker(lambda worker, _: worker.slots)),
    Metric("worker_free_slots", G, ("worker",), "Slots that no job holds.",
           _of_worker(lambda worker, led: max(0, worker.slots - led.used.get(worker.name, 0)))),
    Metric("worker_running", G, ("worker",), "Jobs that the worker says it runs.",
           _of_worker(lambda worker, _: worker.status.running if worker.status else None)),
    Metric("worker_seen_timestamp_seconds", G, ("worker",), "When the worker was heard last, in seconds since 1970.",
           _of_worker(lambda worker, _: worker.seen_at or None)),
    Metric("worker_clock_offset_seconds", G, ("worker",), "Seconds that its clock is behind the bridge's.",
           _of_worker(lambda worker, _: worker.clock.offset if worker.clock.heard else None)),
    *(
        Metric(f"worker_{name}", kind, ("worker",), text, _of_health(figure, factor))
        for figure, (name, kind, factor, text) in HEALTH.items()
    ),
    Metric("worker_extra", G, ("worker", "name"), "Figures of the site: the setting `health_function`.", _extra),
)  # fmt: skip


class _Collector(Collector):
    """What `generate_latest` asks, metric by metric: of no more than one of them all samples are there at a time."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            if self._seen.led is not None or not metric.of_leader:
                yield _family(metric, self._seen)
        yield from ProcessCollector(registry=None).collect()


def text(seen: Seen) -> bytes:
    """Return the page that Prometheus scrapes. Takes some microseconds for each of its lines: not for the loop."""
    return generate_latest(_Collector(seen))


def _family(metric: Metric, seen: Seen) -> Family:
    name, labels, team = PREFIX + metric.name, ["team_name", *metric.labels], seen.team_name
    if metric.kind is Kind.HISTOGRAM:
        histograms = HistogramMetricFamily(name, metric.help, labels=labels)
        for values, histogram in metric.read(seen):
            histograms.add_metric([team, *values], _buckets(histogram), histogram.sum)
        return histograms
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(name, metric.help, labels=labels)
    for values, number in metric.read(seen):
        family.add_metric([team, *values], number)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    ends = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(ends, accumulate(histogram.counts), strict=True))
