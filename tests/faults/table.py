"""One row of the table: let jobs flow, inject a fault at random moments, wait for the end, judge."""

import random
import statistics
import threading
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from demo.processes import wait_for
from faults.faults import Fault, Injected
from faults.jobs import Verdict
from faults.rig import Database, Rig

#: Share of the jobs that are committed while faults happen; the rest come after the last.
DURING = 0.8

#: Seconds between two jobs, and between two when as many as should were committed already.
INTERVAL = 0.1
TRICKLE = 1.0

#: No recovery may take longer, in seconds.
LONGEST = 90

HEADER = (
    "fault", "times", "jobs", "lost", "started twice", "wrongly failed", "log cut", "time to recover, worst (median)",
    "whole row",
)  # fmt: skip


@dataclass
class Row:
    """What one fault did."""

    fault: Fault
    times: int
    verdict: Verdict
    recovered: list[float]
    seconds: float
    exits: list[str]
    unfinished: list[str]
    crashes: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether the promises held: nothing lost, nothing twice, nothing wrong, no log cut, and no traceback."""
        found = self.verdict
        return not (found.lost or found.doubled or found.wrong or found.log_cut or self.crashes)

    def cells(self) -> list[str]:
        found = self.verdict
        worst = f"{max(self.recovered):.1f} s ({statistics.median(self.recovered):.1f} s)" if self.recovered else "-"
        numbers = [self.times, found.jobs, *map(len, (found.lost, found.doubled, found.wrong, found.log_cut))]
        return [self.fault.name, *map(str, numbers), worst, f"{self.seconds:.0f} s"]

    def details(self) -> str:
        """What a person needs who wants to know why."""
        found = self.verdict
        lines = []
        for title, items in (
            ("lost", found.lost), ("started twice", found.doubled), ("wrongly failed", found.wrong), ("log cut", found.log_cut),
        ):  # fmt: skip
            lines += [f"  {title}: {job}: {story}" for job, story in list(items.items())[:6]]
        lines += [f"  {exit_}" for exit_ in self.exits[:12]]
        lines += [f"  {crash}" for crash in self.crashes]
        lines += [f"  at the end still open: {item}" for item in self.unfinished[:6]]
        return "\n".join(lines)


def run(
    fault: Fault,
    database: Database,
    directory: Path,
    *,
    seed: int,
    jobs: int,
    times: int | None = None,
    settle: float = 100,
) -> Row:
    """Run one row. `settle` bounds the wait after the last fault, in seconds."""
    began = time.monotonic()
    times = fault.times if times is None else times
    directory.mkdir(parents=True, exist_ok=True)
    with Rig(directory, database, seed=seed, overrides=fault.overrides or None) as rig, ExitStack() as stack:
        stack.enter_context(fault.around(rig) if fault.around else nullcontext())
        _warm_up(rig)
        recovered = _inject(rig, fault, times, jobs, random.Random(f"{fault.name} {seed}"))
        unfinished = _settle(rig, settle)
        verdict = rig.jobs.judge()
        exits = list(rig.keeper.exits)
    crashes = [
        f"{path.name}: {text.count('Traceback (most')} tracebacks"
        for path in sorted(directory.glob("*.log"))
        if "Traceback (most" in (text := path.read_text(errors="replace"))
    ]
    return Row(fault, times, verdict, recovered, time.monotonic() - began, exits, unfinished, crashes)


def _warm_up(rig: Rig) -> None:
    """One job on each worker's account: all is up before the first fault."""
    for _ in rig.workers:
        rig.jobs.commit()
    wait_for(lambda: not rig.jobs.unfinished(), what="the first jobs", timeout=60, every=0.2)


def _inject(rig: Rig, fault: Fault, times: int, jobs: int, rng: random.Random) -> list[float]:
    """Let jobs flow and inject; return the seconds that each recovery took."""
    pace = _Pace(times, jobs)
    flow = threading.Thread(target=_flow, args=(rig, pace), name="flow", daemon=True)
    flow.start()
    recovered = []
    try:
        for number in range(times):
            time.sleep(rng.uniform(*fault.pauses))
            recovered.append(_recovery(rig, fault.inject(rig, rng)))
            pace.injected = number + 1
    finally:
        pace.over.set()
        flow.join(120)
    return recovered


@dataclass
class _Pace:
    """How many jobs may be committed by now: most of them while faults happen."""

    times: int
    jobs: int
    injected: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def allowed(self) -> int:
        if not self.times or self.over.is_set():
            return self.jobs
        return int(self.jobs * DURING * (self.injected + 1) / self.times)


def _flow(rig: Rig, pace: _Pace) -> None:
    """Commit jobs one by one. A trickle goes on when a recovery takes longer: it is by new starts that it is seen."""
    waited = 0.0
    while (done := len(rig.jobs.planned)) < pace.jobs or not pace.over.is_set():
        if done < pace.allowed() or waited >= TRICKLE:
            rig.jobs.commit()
            waited = 0.0
        time.sleep(INTERVAL)
        waited += INTERVAL


def _settle(rig: Rig, bound: float) -> list[str]:
    """Wait until everything has come to its end; return what has not."""
    until = time.monotonic() + bound
    while (left := rig.jobs.unfinished()) and time.monotonic() < until:
        time.sleep(0.3)
    return left


def _recovery(rig: Rig, one: Injected) -> float:
    """Wait for the next start of a job after a fault; return after how many seconds that was."""
    found = wait_for(
        lambda: rig.jobs.started_after(one.over, one.worker),
        what=f"a job to start after {one}",
        timeout=LONGEST,
        every=0.1,
    )
    return found - one.over


def markdown(rows: list[Row]) -> str:
    lines = [f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells())} |" for row in rows)])
