"""What a job and a minute's silence cost a device's link, messages and bytes with TCP/IP, and what a job costs its flash:
broker, bridge and task are real.
"""

import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import servers
from bridge_bench import Site
from fakes import FakeExecutionApi
from servers import running, wait_for
from wire import Wire
from worker_bench import RUN_CONTEXT, WorkerProcess, workload

NAME = "edge-1"

DAG = """
from airflow.sdk import dag, task

@dag(schedule=None)
def lean():
    @task
    def noop():
        return 1
    noop()

lean()
"""

#: What Airflow says at the start of a task, beside what the Task SDK must have.
CONTEXT = RUN_CONTEXT | {
    "task_reschedule_count": 0, "variables": [], "connections": [], "upstream_map_indexes": {}, "next_method": None,
    "next_kwargs": None, "xcom_keys_to_clear": [], "should_retry": False,
}  # fmt: skip


def noop() -> dict[str, Any]:
    """A workload as the scheduler of Airflow 3.3 makes it: each has a trace, which nobody records."""
    order = workload("noop")
    trace = {"traceparent": f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"}
    order["ti"] |= {
        "dag_id": "lean", "executor_config": {}, "parent_context_carrier": trace, "context_carrier": trace,
        "run_id": "manual__2026-01-01T00:00:00.000000+00:00",
    }  # fmt: skip
    log_path = "dag_id=lean/run_id=manual__2026-01-01T00:00:00.000000+00:00/task_id=noop/attempt=1.log"
    return order | {"dag_rel_path": "lean.py", "log_path": log_path, "sentry_integration": ""}


class Device:
    """A worker process whose link is counted, and the bridge that it works for."""

    def __init__(self, site: Site, wire: Wire, broker: servers.Broker, directory: Path, **settings: Any) -> None:
        self.site, self.wire = site, wire
        self.process = WorkerProcess(directory / "worker", broker.url(NAME, port=wire.port), NAME, **settings)
        (directory / "worker/dags/lean.py").write_text(DAG)

    def run(self) -> str:
        """Run a no-op to its end; return its job."""
        order = noop()
        named = {name: order["ti"][name] for name in ("dag_id", "run_id", "task_id")}
        job = self.site.queue(subject=order["ti"]["id"], workload=json.dumps(order), **named)
        self.site.wait_state(job, "succeeded", "failed", timeout=60)
        assert self.site.job(job).state == "succeeded", self.site.job(job).reason
        return job

    def wake_ups(self) -> int:
        """Return how often the worker has gone to sleep (proc(5), voluntary_ctxt_switches)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(dict(line.split(":") for line in lines)["voluntary_ctxt_switches"])

    def written(self) -> int:
        """Return how many bytes the worker itself has written to files: nearly all of them to its journal."""
        counted = dict(line.split(": ") for line in Path(f"/proc/{self.process.pid}/io").read_text().splitlines())
        return int(counted["wchar"])


@pytest.fixture
def wire(broker: servers.Mosquitto) -> Iterator[Wire]:
    with Wire(broker.port) as counted:
        yield counted


@pytest.fixture
def api() -> Iterator[FakeExecutionApi]:
    with FakeExecutionApi() as server:
        server.answer("PATCH", "run", 200, CONTEXT)
        server.answer("PUT", "rtif", 201, {"message": "Rendered task instance fields successfully set"})
        server.answer("POST", "return_value", 201, {"message": "XCom successfully set"})
        yield server


@pytest.fixture
def a_site(broker: servers.Mosquitto, sqlite_url: str, tmp_path: Path, api: FakeExecutionApi) -> Iterator[Site]:
    made = Site(sqlite_url, broker, api, tmp_path)
    yield made
    made.close()


def settled(wire: Wire) -> None:
    """Wait until nothing has passed for a second."""
    seen = -1
    while seen != (seen := wire.count().segments):
        time.sleep(1)


TASKS = 4

#: Of a no-op, log included.
MOST_MESSAGES = 6
MOST_BYTES = 5_000

#: Written to flash for a no-op, log included: a quarter of what it was when each step of a job wrote all of it (119,480).
MOST_FLASH = 119_480 // 4

#: Of a minute, at the default heartbeat.
MOST_IDLE_BYTES = 1_200
MOST_WAKE_UPS = 5.5


def test_a_task_costs_its_link_little(
    a_site: Site, wire: Wire, broker: servers.Mosquitto, api: FakeExecutionApi, tmp_path: Path
) -> None:
    a_site.start_bridge()
    device = Device(a_site, wire, broker, tmp_path, heartbeat_interval=600, keepalive=600)
    with running(device.process):
        device.run()
        settled(wire)
        counts = []
        flash = []
        for _ in range(TASKS):
            wire.clear()
            before = device.written()
            job = device.run()
            wait_for(lambda job=job: a_site.log_of(job), what="the log", timeout=60)
            settled(wire)
            counts.append(wire.count())
            flash.append(device.written() - before)
            print(counts[-1].table())
    # The median: on a busy machine what would share a message goes in two now and then.
    messages = statistics.median_low(count.messages for count in counts)
    size = statistics.median_low(count.bytes for count in counts)
    print(f"a task: {messages} messages, {size} bytes; to flash: {flash} bytes")
    assert [call.body["state"] for call in api.calls("PATCH", "state")] == ["success"] * (TASKS + 1)
    assert not [call for call in api.seen if "traceparent" in call.headers]
    assert messages <= MOST_MESSAGES
    assert size <= MOST_BYTES
    assert statistics.median_low(flash) <= MOST_FLASH


#: How much faster a minute passes than outside, and how many heartbeats it has.
HASTE = 30
HEARTBEATS = 2


def test_silence_costs_its_link_little(a_site: Site, wire: Wire, broker: servers.Mosquitto, tmp_path: Path) -> None:
    """Heartbeat, keep-alive and health in the proportion of their defaults."""
    a_site.start_bridge()
    often = {"heartbeat_interval": 60 / HEARTBEATS / HASTE, "health_interval": 60 / HASTE, "keepalive": 2}
    device = Device(a_site, wire, broker, tmp_path, **often)
    with running(device.process):
        settled_at = time.monotonic() + 3
        wait_for(lambda: time.monotonic() > settled_at and wire.count().messages > 5, what="the introduction")
        wire.clear()
        woken = device.wake_ups()
        wait_for(lambda: health_told(wire) >= 6, what="six minutes", timeout=120)
        count, told, woken = wire.count(), health_told(wire), device.wake_ups() - woken
    # By what the worker counts them with: on a busy machine one that is late comes nearer to the next.
    minutes = count.packets["->", "status"] / HEARTBEATS
    shown = f"{count.messages / minutes:.1f} messages, {count.bytes / minutes:.0f} bytes"
    print(f"{minutes:.1f} minutes:\n{count.table()}\na minute: {shown}, {woken / minutes:.1f} wake-ups")
    # The first health may have been due when we began: six of them are five minutes, or a little more.
    assert told <= minutes + 1
    assert count.bytes <= (minutes + 1) * MOST_IDLE_BYTES
    assert woken <= (minutes + 1) * MOST_WAKE_UPS


def health_told(wire: Wire) -> int:
    """Return how often the device has said how it is."""
    told = [json.loads(payload) for _, kind, payload in list(wire.payloads) if kind == "status"]
    return sum(1 for status in told if status.get("health"))
