"""Which workers are to be told how far their reports have come, and when. Pure.

Nobody waits for an acknowledgement but to forget what it holds, and each is a message. So those of one worker are
gathered: for a moment, when it may wait for one (log has a window; a gap is closed with one; it has nothing else to
do); for longer, when it goes on with a job, and so has more to say.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

#: Seconds in which acknowledgements of one worker are gathered …
DELAY: Final = 0.1

#: … and for how long one waits at most for the answers to calls of the worker, to go with them.
PATIENCE: Final = 0.8

#: Seconds in which those are gathered of a worker that goes on with a job: fewer than after which one sends its reports
#: again (30 s in ours). And reports after which it gets one before: it sends 500 at most without.
CALM: Final = 5.0
MANY: Final = 64


@dataclass(slots=True)
class PendingAck:
    """An acknowledgement that a worker gets at `due`; `marks` are the bytes of log that it says, by job."""

    due: float
    marks: dict[str, int]
    until: float  # it waits no longer than this for answers to the worker's calls
    reports: int = 0  # that it says


class Acks:
    """Acknowledgements that are not sent yet, by worker."""

    def __init__(self) -> None:
        self._soon: dict[str, PendingAck] = {}  # in the order in which they are due
        self._calm: dict[str, PendingAck] = {}  # … and those of workers that go on with a job
        self._now: dict[str, None] = {}  # workers that get theirs with the next round

    def __len__(self) -> int:
        return len(self._soon) + len(self._calm)

    def __contains__(self, worker: str) -> bool:
        return worker in self._soon or worker in self._calm

    def put(self, worker: str, marks: Mapping[str, int], now: float, *, reports: int, calm: bool) -> None:
        """Acknowledge so many more `reports` of `worker`; `calm`: it goes on, and does not wait for it."""
        ack = self._soon.get(worker)
        if ack is None:
            ack = self._calm.setdefault(worker, PendingAck(now + CALM, {}, now + CALM))
            if not calm or ack.reports + reports >= MANY:
                del self._calm[worker]
                ack.due, ack.until = now + DELAY, now + PATIENCE
                self._soon[worker] = ack
        ack.reports += reports
        ack.marks.update(marks)

    def send_now(self, worker: str) -> None:
        """Let `worker` have what there is for it with the next round: it has introduced itself."""
        self._now[worker] = None

    def due(self, now: float, goes_with_answer: Callable[[str], bool]) -> list[str]:
        """Return the workers whose acknowledgement is due. One that may go with the answer to a call is put off."""
        due, self._now = self._now, {}
        put_off = []
        for name, ack in self._soon.items():
            if ack.due > now:
                break
            if name not in due and ack.until > now and goes_with_answer(name):
                put_off.append(name)
            else:
                due[name] = None
        for name in put_off:
            ack = self._soon.pop(name)
            ack.due = now + DELAY
            self._soon[name] = ack
        for name, ack in self._calm.items():
            if ack.due > now:
                break
            due[name] = None
        return list(due)

    def pop(self, worker: str) -> dict[str, int] | None:
        """Take out the acknowledgement of `worker`; return the marks that it says, None when there is none."""
        ack = self._soon.pop(worker, None) or self._calm.pop(worker, None)
        return None if ack is None else ack.marks

    def turn_back(self, now: float) -> None:
        """The clock was set back to `now`: nothing waits longer than it would from now on."""
        for ack in self._soon.values():
            ack.due, ack.until = min(ack.due, now + DELAY), min(ack.until, now + PATIENCE)
        for ack in self._calm.values():
            ack.due = min(ack.due, now + CALM)

    @property
    def next_due(self) -> float | None:
        """When the next one is due; None when there is none."""
        return min((next(iter(acks.values())).due for acks in (self._soon, self._calm) if acks), default=None)
