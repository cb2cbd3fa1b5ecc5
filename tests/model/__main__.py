"""`python -m model [--large | --defects]`, in `tests/`: search the instances, or hunt the defects with their traces."""

import argparse
import resource
import sys

from model.defects import COVERED, DEFECTS, hunt
from model.instances import LARGE, STANDARD
from model.search import search
from model.state import Instance


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--large", action="store_true", help="search the large instances too: minutes, 1 GB")
    parser.add_argument("--defects", action="store_true", help="hunt the deliberate defects and print their traces")
    chosen = parser.parse_args()
    if chosen.defects:
        return _hunt_all()
    return _search_all((*STANDARD, *LARGE) if chosen.large else STANDARD)


def _search_all(instances: tuple[Instance, ...]) -> int:
    print(
        "| instance | jobs | workers | attempts | disturbances | empty disks | states | steps | depth | ends | s | MB |"
    )
    print("|---" * 12 + "|")
    for instance in instances:
        found = search(instance, say=lambda text: print(text, file=sys.stderr))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        wipes = "yes" if instance.wipes else "no"
        print(
            f"| {instance.name} | {instance.jobs} | {instance.workers} | {instance.attempts} |"
            f" {instance.disturbances} | {wipes} | {found.states:,} | {found.steps:,} | {found.depth} |"
            f" {found.quiet:,} | {found.seconds:.0f} | {peak} |",
            flush=True,
        )
        if found.violation is not None:
            print(found.violation)
            return 1
    return 0


def _hunt_all() -> int:
    missed = 0
    for defect in DEFECTS:
        found = hunt(defect)
        print(f"{defect.name}: {found.violation or 'NOT CAUGHT'}\n", flush=True)
        missed += found.violation is None
    covered = sum(hunt(defect).violation is None for defect in COVERED)
    print(f"{len(DEFECTS) - missed} of {len(DEFECTS)} defects caught; {covered} mechanisms covered by others.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
