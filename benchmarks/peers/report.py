"""Tables and plot of what was measured. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import page
from page import cell


@dataclass(slots=True)
class Result:
    """One system. None: not measured. Bytes are those of the worker's link, IP and TCP included.

    Of airflow-mqtt alone: `stages_ms` has the median of each stage of a single task, `imports_ms` is a process that
    loads what a worker's warm process does and ends, `slow_round_trips` is how many times the delay of a slow link a
    task holds its slot longer than without one.
    """

    name: str
    title: str
    at: str = ""
    tasks: int = 0
    first_ms: int | None = None
    ended_p50_ms: int | None = None
    started_p50_ms: int | None = None
    started_max_ms: int | None = None
    tasks_per_s: float | None = None
    idle_mib: float | None = None
    idle_bytes_per_minute: int | None = None
    idle_core_percent: float | None = None
    bytes_per_task: int | None = None
    peak_mib: float | None = None
    after_mib: float | None = None
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    imports_ms: int | None = None
    slow_round_trips: float | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


#: Column, figure, unit.
_FIGURES: Final[tuple[tuple[str, Callable[[Result], float | None], str], ...]] = (
    ("queued → started p50", lambda result: result.started_p50_ms, " ms"),
    ("max", lambda result: result.started_max_ms, " ms"),
    ("mapped tasks a second", lambda result: result.tasks_per_s, ""),
    ("queued → ended p50", lambda result: result.ended_p50_ms, " ms"),
    ("first task, queued → ended", lambda result: result.first_ms, " ms"),
    ("idle memory", lambda result: result.idle_mib, " MiB"),
    ("… at its height", lambda result: result.peak_mib, " MiB"),
    ("… after work", lambda result: result.after_mib, " MiB"),
    ("idle, of a core", lambda result: result.idle_core_percent, " %"),
    ("idle, bytes a minute", lambda result: result.idle_bytes_per_minute, ""),
    ("bytes a task", lambda result: result.bytes_per_task, ""),
)

#: What the plot shows: the columns that a reader compares first.
_PLOTTED: Final = frozenset({
    "queued → started p50", "mapped tasks a second", "… at its height", "idle, bytes a minute", "bytes a task",
})  # fmt: skip


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table with a line for each system."""
    return page.table(("executor", *(column for column, _, _ in _FIGURES)), map(_cells, results))


def _cells(result: Result) -> list[str]:
    if result.error:
        return [f"{result.title} (failed: {result.error})", *["-"] * len(_FIGURES)]
    return [result.title, *(cell(figure(result), unit) for _, figure, unit in _FIGURES)]


def own(result: Result) -> str:
    """Return what was measured of airflow-mqtt alone: a table of a task's stages, and a line for each other figure."""
    parts = []
    if result.stages_ms:
        rows = [[stage, f"{took:,} ms"] for stage, took in result.stages_ms.items()]
        parts.append(page.table(("stage of a single task, p50", "takes"), rows))
    if result.imports_ms and result.ended_p50_ms and result.first_ms:
        least = result.imports_ms + result.ended_p50_ms
        parts.append(
            f"A worker's first task took {result.first_ms:,} ms. Loading the Task SDK in a fresh process took"
            f" {result.imports_ms:,} ms and a warm task {result.ended_p50_ms:,} ms: {result.first_ms / least:.2f} times"
            " both.\n"
        )
    if result.slow_round_trips is not None:
        parts.append(
            "On a link with a round trip of 300 ms a task holds its slot longer by"
            f" {result.slow_round_trips:.1f} round trips.\n"
        )
    return "\n".join(parts)


def plot(results: Sequence[Result]) -> str:
    """Return an SVG with a panel of bars for each figure that is compared first."""
    return page.plot(
        (
            f"{column},{unit}" if unit else column,
            [(result.title, value) for result in results if (value := figure(result)) is not None],
        )
        for column, figure, unit in _FIGURES
        if column in _PLOTTED
    )
