"""Table, plot and page of what was measured. Pure."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Final

BEGIN: Final = "<!-- measured: fleet -->"
END: Final = "<!-- end of measured: fleet -->"

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
    "bridge while idle", "bridge's memory", "fleet heard in", "takeover",
)  # fmt: skip


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table with a line for each result."""
    lines = [_line(_COLUMNS), _line(["---", *["---:"] * (len(_COLUMNS) - 1)])]
    return "\n".join([*lines, *(_line(_cells(result)) for result in results)]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(result: Result) -> list[str]:
    if result.error:
        return [f"{result.title} (failed: {result.error})", *["-"] * (len(_COLUMNS) - 1)]
    return [
        result.title + (f" ({result.refused} calls refused)" if result.refused else ""),
        f"{result.jobs:,}",
        _text(result.jobs_per_s),
        _text(result.accepted_p50_ms, " ms"),
        _text(result.accepted_p99_ms, " ms"),
        *(_text(result.processor_ms.get(part)) for part in PARTS),
        _text(result.idle_percent, " %"),
        _text(result.memory_mib, " MiB"),
        _text(result.heard_s, " s"),
        _text(result.takeover_s, " s"),
    ]


def _text(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:,}{unit}"


def fill(page: str, block: str) -> str:
    """Return `page` with `block` between the two comments. `ValueError` when they are not there."""
    pattern = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return pattern.sub(lambda found: f"{found[1]}\n{block}\n{found[2]}", page, count=1)


# --- the plot ---------------------------------------------------------------------------------------------

_WIDTH: Final = 860
_LEFT: Final = 330
_BAR: Final = 18
_GAP: Final = 8
_HEAD: Final = 34

#: Title of each panel, and the figure of a result that it shows.
_PANELS: Final[tuple[tuple[str, Callable[[Result], float | None]], ...]] = (
    ("jobs a second", lambda result: result.jobs_per_s),
    ("processor time of the bridge for a job, ms", lambda result: result.processor_ms.get("bridge")),
    ("bridge while the fleet only heartbeats, % of a core", lambda result: result.idle_percent),
)


def plot(results: Sequence[Result]) -> str:
    """Return an SVG with a panel of bars for each figure; what was not measured has no bar."""
    parts: list[str] = []
    top = 0
    for title, figure in _PANELS:
        bars = [(result.title, value) for result in results if (value := figure(result)) is not None]
        if bars:
            parts += _panel(title, bars, top)
            top += _HEAD + len(bars) * (_BAR + _GAP) + _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {max(top, _BAR)}" font-family="sans-serif"'
        ' font-size="13" role="img">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def _panel(title: str, bars: Sequence[tuple[str, float]], top: int) -> list[str]:
    most = max(value for _, value in bars) or 1.0
    lines = [f'<text x="8" y="{top + 22}" font-weight="bold">{escape(title)}</text>']
    for number, (name, value) in enumerate(bars):
        y = top + _HEAD + number * (_BAR + _GAP)
        width = max(1.0, (_WIDTH - _LEFT - 90) * value / most)
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="#3465a4"/>',
            f'<text x="{_LEFT + width + 6:.1f}" y="{y + 14}">{value:,}</text>',
        ]
    return lines
