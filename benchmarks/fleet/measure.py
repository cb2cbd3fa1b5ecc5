"""Measures one scenario."""

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fleet.report import Result, percentile
from fleet.scenarios import Scenario
from fleet.site import Site, site
from fleet.workers import Fleet
from proc import memory_mib

#: Seconds after which a fleet that was heard has come to rest.
_SETTLE: Final = 5.0


def measure(scenario: Scenario, rate: float = 0.0) -> Result:
    """Start all that `scenario` needs, measure, end it. `rate` is jobs a second; 0: they come at once.

    Raises `TimeoutError` when something does not come to its end within the limit.
    """
    result = Result(scenario.name, scenario.title, at=datetime.now(UTC).isoformat(timespec="seconds"), rate=rate)
    with (
        tempfile.TemporaryDirectory(prefix="airflow-mqtt-fleet-", ignore_cleanup_errors=True) as name,
        site(Path(name), sqlite=scenario.sqlite, history=scenario.history) as here,
    ):
        if scenario.waiting:
            here.queue_jobs(scenario.waiting, scenario.queues).wait(scenario.limit)
        fleet = Fleet(here.broker.port, workers=scenario.workers, slots=scenario.slots, queues=scenario.queues)
        try:
            _begin(here, fleet, scenario, result)
            if scenario.held:
                _take_over(here, fleet, scenario, result)
            elif scenario.waiting:
                _run_waiting(here, fleet, scenario, result)
            else:
                _run_jobs(here, fleet, scenario, result)
            result.refused = fleet.refused
        finally:
            fleet.close()
    return result


def _begin(here: Site, fleet: Fleet, scenario: Scenario, result: Result) -> None:
    """Have the bridge lead and the fleet heard; see what both cost when nothing else is to be done."""
    bridge = here.start_bridge()
    _until(lambda: fleet.epoch > 0, "a bridge that leads", 60)
    _until(here.is_known, "a bridge that knows what waits", scenario.limit)
    began = time.monotonic()
    fleet.holding = bool(scenario.held)
    fleet.connect()
    _until(lambda: fleet.heard == scenario.workers, "a fleet that is heard", scenario.limit)
    result.heard_s = round(time.monotonic() - began, 1)
    if scenario.idle:
        time.sleep(min(_SETTLE, scenario.idle))
        before, began = here.processor_seconds(), time.monotonic()
        time.sleep(scenario.idle)
        spent = here.processor_seconds()["bridge"] - before["bridge"]
        result.idle_percent = round(100 * spent / (time.monotonic() - began), 1)
    result.memory_mib = round(memory_mib(bridge.pid))


def _run_jobs(here: Site, fleet: Fleet, scenario: Scenario, result: Result) -> None:
    since, before = time.time(), here.processor_seconds()
    adding = here.queue_jobs(scenario.jobs, scenario.queues, result.rate)
    try:
        _until(lambda: fleet.ended >= scenario.jobs, "the end of all jobs", scenario.limit)
        _until(lambda: fleet.unacknowledged == 0, "the last acknowledgement", 60)
    finally:
        adding.kill()
        adding.wait()
    _note_cost(here, before, fleet.ended, result)
    _note_times(here.times(since), result)


def _run_waiting(here: Site, fleet: Fleet, scenario: Scenario, result: Result) -> None:
    """Measure on the way through a long queue. How long its jobs wait says nothing of us."""
    began, before, ended = time.monotonic(), here.processor_seconds(), fleet.ended
    _until(lambda: fleet.ended - ended >= scenario.jobs, "the end of jobs", scenario.limit)
    result.jobs = fleet.ended - ended
    result.jobs_per_s = round(result.jobs / (time.monotonic() - began), 1)
    _note_cost(here, before, result.jobs, result)


def _note_cost(here: Site, before: dict[str, float], jobs: int, result: Result) -> None:
    after = here.processor_seconds()
    result.processor_ms = {part: round(1000 * (after[part] - before[part]) / jobs, 2) for part in after}
    result.memory_mib = max(result.memory_mib or 0, round(memory_mib(here.bridges[0].pid)))


def _note_times(times: list[tuple[float, float, float]], result: Result) -> None:
    result.jobs = len(times)
    first, last = min(queued for queued, _, _ in times), max(finished for _, _, finished in times)
    result.jobs_per_s = round(len(times) / (last - first), 1)
    waited = [accepted - queued for queued, accepted, _ in times]
    result.accepted_p50_ms = round(1000 * percentile(waited, 0.5))
    result.accepted_p99_ms = round(1000 * percentile(waited, 0.99))


def _take_over(here: Site, fleet: Fleet, scenario: Scenario, result: Result) -> None:
    """Kill the leader while jobs run, and see when the next one is accepted: since the kill, and since the lease."""
    holding = here.queue_jobs(scenario.held, scenario.queues)
    try:
        _until(lambda: fleet.running >= scenario.held, "jobs that run", scenario.limit)
        _until(lambda: fleet.unacknowledged == 0, "the last acknowledgement", 60)
    finally:
        holding.kill()
        holding.wait()
    standby = here.start_bridge()
    _until(lambda: "standing by" in standby.log.read_text(), "a standby", 60)
    fleet.holding = False
    here.bridges[0].kill()
    killed = time.time()
    adding = here.queue_jobs(scenario.jobs, scenario.queues)
    try:
        _until(lambda: "leading with epoch" in standby.log.read_text(), "a leader", scenario.limit)
        led = time.time()
        _until(lambda: fleet.accepted_at > killed, "a job after the takeover", scenario.limit)
        result.takeover_s, result.led_s = round(fleet.accepted_at - killed, 1), round(fleet.accepted_at - led, 1)
        _until(lambda: fleet.ended >= scenario.jobs, "the end of all jobs", scenario.limit)
        _until(lambda: fleet.unacknowledged == 0, "the last acknowledgement", scenario.limit)
    finally:
        adding.kill()
        adding.wait()
    result.jobs = len(here.times(killed))
    result.memory_mib = max(result.memory_mib or 0, round(memory_mib(standby.pid)))


def _until(condition: Callable[[], bool], what: str, limit: float) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit:.0f} s in vain for {what}")
        time.sleep(0.05)
