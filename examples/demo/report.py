"""What the demo prints about tasks, and whether they went as they should."""

from collections.abc import Iterable
from typing import Any

from demo.client import seconds_between

Json = dict[str, Any]

#: Tasks of the example Dag that are meant to end otherwise than with success.
INTENDED = {"carry_on": "skipped", "broken_probe": "failed"}

HEADINGS = ("task", "try", "state", "queue", "worker", "queued → started", "took")


def label(task: Json) -> str:
    index = task["map_index"]
    return str(task["task_id"]) if index < 0 else f"{task['task_id']}[{index}]"


def surprises(tasks: Iterable[Json], worker: str) -> list[str]:
    """Return a line for each task that did not end as it should, or not on `worker`."""
    lines = []
    for task in tasks:
        wanted = INTENDED.get(task["task_id"], "success")
        if task["state"] != wanted:
            lines.append(f"{label(task)} is {task['state']}, not {wanted}")
        elif task["state"] != "skipped" and task["hostname"] != worker:
            lines.append(f"{label(task)} ran on {task['hostname']!r}, not on {worker}")
    return lines


def table(tasks: Iterable[Json]) -> str:
    """Return the tasks as a table, in the order in which they started."""
    ordered = sorted(tasks, key=lambda task: (task["start_date"] or "~", task["map_index"]))
    rows = [HEADINGS, *(_row(task) for task in ordered)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _row(task: Json) -> tuple[str, ...]:
    state = str(task["state"])
    if INTENDED.get(task["task_id"]) == state:
        state += " (intended)"
    ran = bool(task["hostname"])
    return (
        label(task),
        str(task["try_number"]),
        state,
        str(task["queue"]),
        task["hostname"] or "-",
        _seconds(seconds_between(task["queued_when"], task["start_date"]) if ran else None),
        _seconds(task["duration"] if ran else None),
    )


def _seconds(value: float | None) -> str:
    """A task that resumes keeps the start of its first part: then no latency can be told."""
    return "-" if value is None or value < 0 else f"{value:.2f} s"
