"""`python -m simulation [--seeds N] [--first N] [--mutants]`: run seeds, print a table; exit code 1 on a violation."""

import argparse
import json
import logging
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from mutants import CAUGHT_FILE, MUTANTS, caught_at
from scenario import Outcome, run

PROMISES = {
    "1": "a committed job is never forgotten, and Airflow hears of its end once",
    "2": "user code of one dispatch starts at most once",
    "3": "a result, event or log byte that the worker took reaches Airflow",
    "5": "a task goes on without its link, and nothing is failed for it within lost_after",
    "6": "a job runs where its labels are, and begins before its deadline or not at all",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many schedules (1000), or at most for each defect (5000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--mutants", action="store_true", help="show that each deliberate defect is caught")
    parser.add_argument("--note", action="store_true", help="note in caught.json at which seed each defect is caught")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    count = arguments.seeds or (5000 if arguments.mutants else 1000)
    seeds = range(arguments.first, arguments.first + count)
    return _mutants(seeds, note=arguments.note) if arguments.mutants else _simulate(seeds)


def _simulate(seeds: range) -> int:
    faults: Counter[str] = Counter()
    states: Counter[str] = Counter()
    failures: list[Outcome] = []
    began = time.monotonic()
    with multiprocessing.Pool() as pool:
        for number, outcome in enumerate(pool.imap_unordered(run, seeds, chunksize=20), start=1):
            faults += outcome.faults
            states += outcome.states
            if outcome.violations:
                failures.append(outcome)
            if sys.stderr.isatty() and number % 20 == 0:
                print(f"\r{number} of {len(seeds)} schedules, {len(failures)} with violations", end="", file=sys.stderr)
    print(f"\n{len(seeds)} schedules (seeds {seeds.start} to {seeds.stop - 1}) in {time.monotonic() - began:.0f} s")
    _print_table("fault injected", faults)
    _print_table("jobs ended", states)
    violations = Counter(text[0] for outcome in failures for text in outcome.violations)
    _print_table("promise violated", Counter({f"{key}: {text}": violations[key] for key, text in PROMISES.items()}))
    for outcome in sorted(failures, key=lambda outcome: outcome.seed)[:3]:
        print(f"\nseed {outcome.seed}: {'; '.join(outcome.violations)}")
        print("\n".join(outcome.trace[-60:]))
    return 1 if failures else 0


def _print_table(head: str, counts: Counter[str]) -> None:
    print(f"\n{head:<78} {'times':>9}")
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        print(f"{name:<78} {count:>9}")


def _mutants(seeds: range, *, note: bool) -> int:
    missed = 0
    seen: dict[str, int] = {}
    print(f"{'deliberate defect':<64} caught at seed, by")
    with multiprocessing.Pool(maxtasksperchild=1) as pool:
        work = [(name, seeds) for name in MUTANTS]
        for (name, _), found in zip(work, pool.imap(caught_at, work), strict=True):
            missed += found is None
            if found is not None:
                seen[name] = found[0]
            print(f"{name:<64} {'NOT CAUGHT' if found is None else f'{found[0]}: {found[1][:90]}'}", flush=True)
    if note:
        CAUGHT_FILE.write_text(json.dumps(seen, indent=1, ensure_ascii=False) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
