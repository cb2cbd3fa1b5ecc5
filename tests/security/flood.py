"""One device at full speed, in each way that costs its site more than the device: `python -m security.flood` (in tests/).

It measures how long the jobs of another device take to start, without and with each flood, over a real Mosquitto and
PostgreSQL. `python -m security.flood WAY URL NAME INSTANCE JOB SECONDS` is the flood itself, a process of its own.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt

from airflow_mqtt.config.broker_url import parse_broker_url
from airflow_mqtt.protocol.messages import Born, Event, LogChunk, Request, Run, WorkerStatus
from bridge_bench import SUBJECT, Site
from fakes import FakeWorker

#: Messages after which a flood is one.
BEGUN = 3

#: Bytes of the answer that is asked for.
LARGE = 7 * 2**20


class Flood:
    """What one device sends: `topic` and payloads for ever, so many a second at most."""

    def __init__(self, name: str, instance: str, job: str) -> None:
        self.name, self.instance, self.job = name, instance, job

    def _own(self, level: str) -> str:
        return f"airflow/v1/worker/{self.name}/{level}"

    def bombs(self) -> Iterator[tuple[str, bytes]]:
        """8 KB that unpack to 8 MiB, as calls: of all kinds these may be the largest."""
        call = Request(
            id="bomb", journal="stolen", job=self.job, attempt=1, method="GET", path="x", body="a" * (2**23 - 500)
        )
        payload = call.encode()
        assert payload[:1] == b"x"
        while True:
            yield self._own("request"), payload

    def junk(self) -> Iterator[tuple[str, bytes]]:
        """The same, and no message at all."""
        payload = zlib.compress(b"[" * 2**23)
        while True:
            yield self._own("request"), payload

    def answers(self) -> Iterator[tuple[str, bytes]]:
        """Calls for a large answer."""
        while True:
            call = Request(
                id=uuid.uuid4().hex, journal="stolen", job=self.job, attempt=1, method="GET", path="variables/large"
            )
            yield self._own("request"), call.encode()

    def statuses(self) -> Iterator[tuple[str, bytes]]:
        number = 0
        while True:
            number += 1
            state = ("idle", "running")[number % 2]
            yield (
                self._own("status"),
                WorkerStatus(
                    state=state, connection=2**40, instance=self.instance, ts=1.0, slots=number % 9, free=0, running=0
                ).encode(),
            )

    def births(self) -> Iterator[tuple[str, bytes]]:
        """Each with a journal of its own, and 2,000 jobs that are nobody's."""
        holds = [{"job": uuid.uuid4().hex, "attempt": 1, "state": "running"} for _ in range(2_000)]
        while True:
            born = Born(
                journal=uuid.uuid4().hex, first=1, last=0, instance="i", connection=1, number=1, queues=["none"],
                kinds=[], holds=holds,
            )  # fmt: skip
            yield self._own("events"), born.encode()

    def events(self) -> Iterator[tuple[str, bytes]]:
        """Of journals that nobody knows: each is answered."""
        while True:
            event = Event(type="accepted", journal=uuid.uuid4().hex, seq=1, job=self.job, attempt=1, ts=1.0)
            yield self._own("events"), event.encode()

    def logs(self) -> Iterator[tuple[str, bytes]]:
        """Byte by byte."""
        offset = 0
        while True:
            yield self._own(f"logs/{self.job}"), LogChunk.of(1, offset, b"x").encode()
            offset += 1


#: How many a second each sends.
RATES: dict[str, int] = {
    "answers": 50, "logs": 3_000, "statuses": 3_000, "events": 3_000, "bombs": 5, "junk": 5, "births": 100,
}  # fmt: skip

#: Accounts that send: the device with a job that runs, and one for each way that needs none. What one has sent waits
#: for its own turn for long after, and would keep its next flood away.
LOUD = {way: "edge-2" if way in ("answers", "logs", "statuses") else f"loud-{way}" for way in RATES}


def attack(way: str, url: str, flood: Flood, seconds: float) -> int:
    """Send; return how many messages."""
    parts = parse_broker_url(url)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"flood-{way}", protocol=mqtt.MQTTv5)
    client.username_pw_set(parts.username, parts.password)
    client.connect(parts.host, parts.port)
    client.loop_start()
    messages, rate, began, sent = getattr(flood, way)(), RATES[way], time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        while sent < passed * rate:
            topic, payload = next(messages)
            client.publish(topic, payload, qos=0)
            sent += 1
            if sent == BEGUN:
                print("begun", flush=True)
        time.sleep(0.01)
    client.disconnect()
    client.loop_stop()
    return sent


@contextmanager
def flooding(way: str, url: str, loud: FakeWorker, job: str) -> Iterator[None]:
    """Have another process send it meanwhile."""
    arguments = [sys.executable, "-m", "security.flood", way, url, LOUD[way], loud.instance, job, "600"]
    process = subprocess.Popen(
        arguments, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n", "the flood does not begin"
        yield
        assert process.poll() is None, "the flood has ended by itself"
    finally:
        process.kill()
        process.wait()


def start_times(site: Site, worker: FakeWorker, queue: str, count: int, timeout: float) -> list[float]:
    """Have `count` jobs started, one after the other; return for each the seconds from its commit to its start."""
    times = []
    for _ in range(count):
        number, began = len(site.jobs()), time.monotonic()
        job = site.queue(queue=queue)
        run = start(worker, SUBJECT + str(number), timeout)
        assert run.job == job
        times.append(time.monotonic() - began)
        worker.event("finished", run, outcome="failed")
        site.wait_state(job, "failed", timeout=timeout)
    return times


def start(worker: FakeWorker, subject: str, timeout: float = 60) -> Run:
    """Take the next order through the gate."""
    run = worker.order(timeout=timeout)
    worker.event("accepted", run)
    body = {"hostname": "pi", "unixname": "u", "pid": 7}
    assert worker.call(run, "PATCH", f"task-instances/{subject}/run", body).status == 200
    return run


def measure(report: Callable[[str], None], count: int = 20) -> None:
    import servers
    from fakes import FakeExecutionApi

    with (
        servers.mosquitto(accounts=["edge-1", *dict.fromkeys(LOUD.values())]) as broker,
        servers.postgres() as database,
        FakeExecutionApi() as api,
        tempfile.TemporaryDirectory() as folder,
        FakeWorker(broker.url("edge-1"), "edge-1", queues=["quiet"], slots=100) as quiet,
        FakeWorker(broker.url("edge-2"), "edge-2", queues=["loud"], slots=100) as loud,
    ):
        site = Site(database.url, broker, api, Path(folder))
        try:
            site.start_bridge()
            api.answer("GET", "large", 200, "x" * LARGE)
            site.queue(queue="loud")
            run = start(loud, SUBJECT + "0")
            usual = statistics.median(start_times(site, quiet, "quiet", count, 20))
            report(f"without a flood: {usual * 1000:.0f} ms (median of {count} jobs)")
            for way in RATES:
                loud.quiet = True
                with flooding(way, broker.url(LOUD[way]), loud, run.job):
                    time.sleep(2)
                    times = start_times(site, quiet, "quiet", count, 60)
                median, worst = statistics.median(times), max(times)
                report(
                    f"{way}: {median * 1000:.0f} ms, {median / usual:.1f} times the usual; worst {worst * 1000:.0f} ms"
                )
                time.sleep(5)
            with site.engine.connect() as connection:
                report(f"epoch of the lease: {connection.exec_driver_sql('SELECT epoch FROM mqtt_bridge').scalar()}")
        finally:
            site.close()


def main(arguments: list[str]) -> None:
    if arguments:
        way, url, name, instance, job, seconds = arguments
        attack(way, url, Flood(name, instance, job), float(seconds))
    else:
        measure(lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(sys.argv[1:])
