"""`python -m fleet [--quick] [--rows 20 2000 …] [--sqlite]`: measure one bridge with a simulated fleet.

Prints the table. Without --quick it also keeps what was measured, row by row, in
docs/explanation/performance-fleet.json, and makes from that the plot beside it and the table of performance.md.
"""

import argparse
import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

ROOT: Final = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]

from fleet.measure import measure  # noqa: E402
from fleet.report import Result, plot, table  # noqa: E402
from fleet.scenarios import QUICK, ROWS, Scenario  # noqa: E402
from page import fill, machine, write_json  # noqa: E402

_PAGE: Final = ROOT / "docs/explanation/performance.md"
_KEPT: Final = ROOT / "docs/explanation/performance-fleet.json"
_PLOT: Final = ROOT / "docs/explanation/performance-fleet.svg"


def main() -> int:
    signal.signal(signal.SIGTERM, _end)
    arguments = _arguments()
    rows: tuple[Scenario, ...] = QUICK if arguments.quick else ROWS
    if arguments.rows:
        rows = tuple(row for row in rows if row.name in arguments.rows)
    if arguments.sqlite:
        rows = tuple(replace(row, sqlite=True) for row in rows)
    known = {} if arguments.quick else _kept()
    fresh = _measure_all(rows, known, arguments.budget)
    results = list(fresh.values())
    print("\n" + table(results))
    if arguments.json:
        write_json(arguments.json, [result.to_json() for result in results])
    if not (arguments.quick or arguments.sqlite):
        kept = known | fresh
        _keep([kept[row.name] for row in ROWS if row.name in kept])
    return 1 if any(result.error for result in results) else 0


def _end(*_: object) -> NoReturn:
    sys.exit("stopped")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fleet", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small slice, to see that it runs; nothing is kept")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="these rows only")
    parser.add_argument("--sqlite", action="store_true", help="all rows on SQLite; nothing is kept")
    parser.add_argument("--json", type=Path, help="write what was measured now to this file")
    parser.add_argument("--budget", type=float, default=2400, help="seconds after which no row is begun (2400)")
    return parser.parse_args()


def _measure_all(rows: tuple[Scenario, ...], known: dict[str, Result], budget: float) -> dict[str, Result]:
    began = time.monotonic()
    fresh: dict[str, Result] = {}
    for row in rows:
        if time.monotonic() - began > budget:
            print(f"{row.title}: left out, the budget of {budget:.0f} s is used up", flush=True)
            continue
        print(f"{row.title} …", flush=True)
        fresh[row.name] = _measure(row, _rate(row, known | fresh))
        print("   " + json.dumps(fresh[row.name].to_json()), flush=True)
    return fresh


def _rate(row: Scenario, known: dict[str, Result]) -> float:
    """Return half of what the row that this one names has sustained."""
    if not row.half_of:
        return 0.0
    sustained = known[row.half_of].jobs_per_s if row.half_of in known else None
    return round((sustained or 0.0) / 2, 1)


def _measure(row: Scenario, rate: float) -> Result:
    if row.half_of and not rate:
        return Result(row.name, row.title, error=f"the row {row.half_of} has not been measured")
    try:
        return measure(row, rate)
    except Exception as error:  # the other rows can be measured all the same
        return Result(row.name, row.title, error=f"{type(error).__name__}: {error}".splitlines()[0])


def _kept() -> dict[str, Result]:
    if not _KEPT.exists():
        return {}
    rows: list[dict[str, Any]] = json.loads(_KEPT.read_text())["rows"]
    return {row["name"]: Result(**row) for row in rows}


def _keep(results: list[Result]) -> None:
    write_json(_KEPT, [result.to_json() for result in results])
    _PLOT.write_text(plot(results))
    when = sorted(result.at[:10] for result in results if result.at)
    said = f"Measured with `make bench-fleet` on {machine()}, {when[-1]}." if when else ""
    block = f"{table(results)}\n![The same as bars]({_PLOT.name})\n\n{said}\n"
    _PAGE.write_text(fill(_PAGE.read_text(), "fleet", block))


if __name__ == "__main__":
    sys.exit(main())
