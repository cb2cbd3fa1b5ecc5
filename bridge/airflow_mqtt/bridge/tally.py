"""What the leader counts while it works: numbers in memory, and no more than that.

A count is one line where the outcome is known: of a batch when it has committed, of a call when it is answered. It
costs a microsecond or two. What becomes of the numbers is `upkeep.metrics`. A new leader begins at nothing.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Final

from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.database.ledger import Committed, Transition
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol.execution_api import Match, Miss
from airflow_mqtt.protocol.jobs import TERMINAL, JobEvent
from airflow_mqtt.protocol.messages import Request

#: Upper ends of buckets, in seconds: of what a job waits for, of how long it runs, of what the bridge does itself.
WAITS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
RUNS: Final = (0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
WORKS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)

#: … and in scripts of a batch.
SIZES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)

#: Queues that are told apart. Each has some forty numbers; what is of more queues is counted together.
QUEUES: Final = 500
OTHERS: Final = "(others)"

#: Why something is refused: `calls.gate.Refusal.reason`, and `protocol` of an introduction.
REFUSALS: Final = (
    "already_started", "forbidden", "invalid_state", "malformed", "not_allowed", "not_found", "protocol",
    "stale_attempt",
)  # fmt: skip

#: Route of a call that is in no table.
NO_ROUTE: Final = "(none)"


class Histogram:
    """Counts values by the first of `bounds` that is not less; the last count is of those beyond."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count `value`. A clock that was set back makes no negative times."""
        value = max(0.0, value)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> "Histogram":
        made = Histogram(self.bounds)
        made.counts, made.sum = self.counts.copy(), self.sum
        return made


def _of_each_queue(bounds: tuple[float, ...]) -> dict[str, Histogram]:
    return defaultdict(lambda: Histogram(bounds))


class Tally:
    """Counts of one leader."""

    def __init__(self) -> None:
        self.events: Counter[tuple[str, str]] = Counter()  # (queue, event) of jobs
        self.dispatch = _of_each_queue(WAITS)
        self.start = _of_each_queue(WAITS)
        self.run = _of_each_queue(RUNS)
        self.batch_sizes = Histogram(SIZES)
        self.batch_seconds = Histogram(WORKS)
        self.conflicts = 0
        self.failures = 0
        self.calls: Counter[tuple[str, str, int]] = Counter()  # (method, route, status)
        self.call_seconds = Histogram(WORKS)
        self.call_tries_failed = 0
        self.refused: Counter[str] = Counter()  # by why
        self.log_bytes = 0
        self.log_bytes_lost = 0
        self._queues: set[str] = set()

    def batch(self, draft: Draft, committed: Committed, scripts: int, seconds: float) -> None:
        """Count a batch that has committed. One without scripts that moves nothing was a look at the clock."""
        if scripts or draft.transitions:
            self.batch_sizes.add(scripts)
            self.batch_seconds.add(seconds)
        for job, _ in committed.dispatched.values():
            queue = self._queue(job.queue)
            self.events[queue, JobEvent.DISPATCH.value] += 1
            if job.attempt == 1 and job.dispatched_at is not None:
                self.dispatch[queue].add(job.dispatched_at - job.queued_at)
        for step in draft.transitions:
            moved = draft.jobs.get(step.job_id)
            if moved is not None:
                self._step(moved, step)
        self.log_bytes += sum(len(chunk.data) for chunk in draft.chunks)
        self.log_bytes_lost += draft.log_bytes_lost
        self.refused.update(draft.refused)

    def _step(self, job: Job, step: Transition) -> None:
        queue = self._queue(job.queue)
        self.events[queue, step.event] += 1
        if job.started_at is None:
            return
        if step.event == JobEvent.START and job.dispatched_at is not None:
            self.start[queue].add(job.started_at - job.dispatched_at)
        elif step.after in TERMINAL:
            self.run[queue].add(step.at - job.started_at)

    def call(self, request: Request, match: Match | Miss, status: int, seconds: float) -> None:
        """Count a call that is answered. Only what is in our own table becomes a name."""
        if isinstance(match, Match):
            self.calls[request.method, match.route.path, status] += 1
        else:
            self.calls[NO_ROUTE, NO_ROUTE, status] += 1
        self.call_seconds.add(seconds)

    def copy(self) -> "Tally":
        """Return the counts of now, which count no more: to be read in another thread."""
        made = Tally()
        for name, value in vars(self).items():
            setattr(made, name, value if isinstance(value, int) else value.copy())
        for each in (made.dispatch, made.start, made.run):
            each.update({queue: one.copy() for queue, one in each.items()})
        return made

    def shown(self, queue: str) -> str:
        """Return under which name the jobs of `queue` are counted."""
        return queue if queue in self._queues or len(self._queues) < QUEUES else OTHERS

    def _queue(self, name: str) -> str:
        shown = self.shown(name)
        if shown is name:
            self._queues.add(name)
        return shown
