"""What both benchmarks make of their results: a table, a plot, a file, and a page that holds them."""

import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

#: (title, bars of (name, value)) of one panel of a plot.
Panel = tuple[str, Sequence[tuple[str, float]]]

_WIDTH: Final = 860
_LEFT: Final = 330
_BAR: Final = 18
_GAP: Final = 8
_HEAD: Final = 34


def begin(name: str) -> str:
    """Return the comment in a page after which the results of the benchmark `name` stand."""
    return f"<!-- measured: {name} -->"


def end(name: str) -> str:
    """Return the comment before which they end."""
    return f"<!-- end of measured: {name} -->"


def fill(page: str, name: str, block: str) -> str:
    """Return `page` with `block` between the two comments of `name`. `ValueError` when they are not there."""
    pattern = re.compile(f"({re.escape(begin(name))}\n).*?({re.escape(end(name))})", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {begin(name)} … {end(name)}")
    return pattern.sub(lambda found: f"{found[1]}\n{block}\n{found[2]}", page, count=1)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are numbers."""
    lines = [_line(columns), _line(["---", *["---:"] * (len(columns) - 1)])]
    return "\n".join([*lines, *(_line(row) for row in rows)]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def cell(value: float | None, unit: str = "") -> str:
    """Return a figure as a table shows it; None: not measured."""
    return "-" if value is None else f"{value:,}{unit}"


def plot(panels: Iterable[Panel]) -> str:
    """Return an SVG with the bars of each panel; a panel without any is left out."""
    parts: list[str] = []
    top = 0
    for title, bars in panels:
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


def machine() -> str:
    """Return what was measured on."""
    return f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"


def write_json(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write results and the machine that they are of."""
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
