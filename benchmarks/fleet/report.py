"""Table and plot of what was measured. Pure."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import page
from page import cell

#: Parts whose processor time is shown, in this order.
PARTS: Final = ("bridge", "broker", "database", "stub", "fleet")


@dataclass(slots=True)
class Result:
    """One row. None: not measured. `processor_ms` is for one job, by part; `rate` jobs a second, 0: all at once."""

    name: str
    title: str
    at: str = ""
    rate: float = 0.0
    jobs: int = 0
    heard_s: float | None = None
    jobs_per_s: float | None = None
    accepted_p50_ms: int | None = None
    accepted_p99_ms: int | None = None
    processor_ms: dict[str, float] = field(default_factory=dict)
    idle_percent: float | None = None
    memory_mib: int | None = None
    takeover_s: float | None = None
    led_s: float | None = None
    refused: int = 0
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest of `values` that is not below `share` of them (the nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there are no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


_COLUMNS: Final = (
    "row", "jobs", "jobs/s", "queued → accepted p50", "p99",
    *(f"{part}, ms/job" for part in PARTS),
    "bridge while idle", "bridge's memory", "fleet heard in", "takeover", "once it leads",
)  # fmt: skip


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table with a line for each result."""
    return page.table(_COLUMNS, (_cells(result) for result in results))


def _cells(result: Result) -> list[str]:
    if result.error:
        return [f"{result.title} (failed: {result.error})", *["-"] * (len(_COLUMNS) - 1)]
    return [
        result.title + (f" ({result.refused} calls refused)" if result.refused else ""),
        f"{result.jobs:,}",
        cell(result.jobs_per_s),
        cell(result.accepted_p50_ms, " ms"),
        cell(result.accepted_p99_ms, " ms"),
        *(cell(result.processor_ms.get(part)) for part in PARTS),
        cell(result.idle_percent, " %"),
        cell(result.memory_mib, " MiB"),
        cell(result.heard_s, " s"),
        cell(result.takeover_s, " s"),
        cell(result.led_s, " s"),
    ]


#: Title of each panel, and the figure of a result that it shows.
_PANELS: Final[tuple[tuple[str, Callable[[Result], float | None]], ...]] = (
    ("jobs a second", lambda result: result.jobs_per_s),
    ("processor time of the bridge for a job, ms", lambda result: result.processor_ms.get("bridge")),
    ("bridge while the fleet only heartbeats, % of a core", lambda result: result.idle_percent),
)


def plot(results: Sequence[Result]) -> str:
    """Return an SVG with a panel of bars for each figure; what was not measured has no bar."""
    return page.plot(
        (title, [(result.title, value) for result in results if (value := figure(result)) is not None])
        for title, figure in _PANELS
    )
