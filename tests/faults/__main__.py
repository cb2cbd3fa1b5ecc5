"""`python -m faults`: run the whole matrix and print one table. Exit code 1 when a promise was broken.

python -m faults [--slice] [--only NAME,…] [--seed N] [--jobs N] [--keep DIR]
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "examples")]

from faults import faults, rig, table  # noqa: E402  the path is set above

#: Rows that did not come to their end.
BROKEN: list[str] = []


def main() -> int:
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that all that was started is stopped
    names = faults.SLICE if arguments.slice else tuple(faults.FAULTS)
    if arguments.only:
        names = tuple(arguments.only.split(","))
        unknown = sorted(set(names) - set(faults.FAULTS))
        if unknown:
            sys.exit(f"there is no row {', '.join(unknown)}; there are {', '.join(faults.FAULTS)}")
    jobs = arguments.jobs or (60 if arguments.slice else 200)
    rows: list[table.Row] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="airflow-mqtt-faults-", ignore_cleanup_errors=True) as made:
        directory = Path(arguments.keep or made)
        with rig.database() as database:
            for name in names:
                rows += _row(name, database, directory / name, arguments.seed, jobs, short=arguments.slice)
    print(f"\n{table.markdown(rows)}\n\nseed {arguments.seed}, {(time.monotonic() - began) / 60:.1f} minutes")
    if BROKEN:
        print(f"broken off, see above: {', '.join(BROKEN)}")
    return 0 if all(row.kept for row in rows) and not BROKEN else 1


def _row(name: str, database: rig.Database, directory: Path, seed: int, jobs: int, *, short: bool) -> list[table.Row]:
    fault = faults.FAULTS[name]
    if not faults.available(fault):
        print(f"{name}: skipped, it needs root", file=sys.stderr, flush=True)
        return []
    times = min(fault.times, 3) if short else None
    shutil.rmtree(directory, ignore_errors=True)  # evidence of an earlier run would count
    try:
        row = table.run(fault, database, directory, seed=seed, jobs=jobs, times=times)
    except Exception:
        print(f"{name}: broken off\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        BROKEN.append(name)
        return []
    print(f"{name}: {' | '.join(row.cells()[1:])}\n{row.details()}".rstrip(), file=sys.stderr, flush=True)
    return [row]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description="Break the real thing, and count.")
    parser.add_argument("--slice", action="store_true", help="a few rows with fewer jobs, as CI runs them")
    parser.add_argument("--only", default="", help=f"names of rows, comma-separated: {', '.join(faults.FAULTS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--keep", default="", help="directory for all logs, kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
