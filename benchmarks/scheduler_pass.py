"""What a pass of a scheduler costs in which it hears of many jobs: `make bench-pass`.

The executor queues jobs and the bridge's part is played: all of them begin and end. Then `sync` is measured while all
wait to be heard, on both databases. They are made to wait anew by adopting them, as another scheduler does. Processor
time is the scheduler's own; PostgreSQL's is in the time alone, SQLite's in both.

Prints the table, and without --quick also keeps it in docs/explanation/performance.md.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]

from airflow_mqtt.database.transitions import move  # noqa: E402
from airflow_mqtt.protocol.jobs import JobEvent, JobState  # noqa: E402
from integration.executor.world import TO_RUNNING, World, bound_to  # type: ignore[import-not-found]  # noqa: E402
from page import fill, machine, table  # noqa: E402
from servers import postgres  # type: ignore[import-not-found]  # noqa: E402

_PAGE: Final = ROOT / "docs/explanation/performance.md"
_COLUMNS: Final = ("database", "jobs heard of", "time p50", "processor time p50", "statements")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scheduler_pass", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few jobs, to see that it runs; nothing is kept")
    quick = parser.parse_args().quick
    jobs, passes = (20, 3) if quick else (1000, 15)
    with postgres(durable=True) as server:
        found = table(
            _COLUMNS,
            [
                _measure("PostgreSQL", server.new_database(), jobs, passes),
                _measure("SQLite", "", jobs, passes),
            ],
        )
    print(found)
    if not quick:
        said = f"Measured with `make bench-pass` on {machine()}, {datetime.now(UTC):%Y-%m-%d}."
        _PAGE.write_text(fill(_PAGE.read_text(), "pass", f"{found}\n{said}\n"))


def _measure(title: str, url: str, jobs: int, passes: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="airflow-mqtt-pass-") as name, bound_to(Path(name), url) as world:
        executor = world.executor(world.scheduler())
        tasks = [world.queued_task() for _ in range(jobs)]
        _run_all(world, executor, tasks)
        executor.sync()  # its housekeeping is due every half minute, and all is compiled at the first time
        results = [_pass(world, executor, tasks) for _ in range(passes)]
    times, processor_times, statements = zip(*results, strict=True)
    return [title, f"{jobs:,}", _ms(times), _ms(processor_times), str(median(statements))]


def _ms(seconds: Sequence[float]) -> str:
    return f"{1000 * median(seconds):.0f} ms"


def _run_all(world: World, executor: Any, tasks: Sequence[Any]) -> None:
    """Queue `tasks`, and move their jobs to their end as the bridge does."""
    with world.session() as session:
        for task in tasks:
            executor.queue_workload(world.workload(executor, task), session=session)
    with world.session() as session:
        for task in tasks:
            state = JobState.QUEUED
            for event in (*TO_RUNNING, JobEvent.SUCCEED):
                ended = {"final_state": "success"} if event is JobEvent.SUCCEED else {}
                step = move(task.external_executor_id, state, 1, event, now=time.time(), by="bench", **ended)
                session.execute(step.statement)
                state = step.after


def _pass(world: World, executor: Any, tasks: Sequence[Any]) -> tuple[float, float, int]:
    """Return the seconds of one pass that hears of `tasks`, those of its processor time, and how many statements."""
    assert executor.try_adopt_task_instances(tasks) == []
    world.vacuum()
    with world.statements() as seen:
        began, processor = time.perf_counter(), time.process_time()
        executor.sync()
        result = (time.perf_counter() - began, time.process_time() - processor)
    assert len(executor.get_event_buffer()) == len(tasks)
    return *result, len(seen) - seen.count("BEGIN")


if __name__ == "__main__":
    main()
