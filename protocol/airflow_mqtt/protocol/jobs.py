"""The state machine of a job, as one table, and the rule by which reports are settled against it.

A job is one dispatch of one workload. Its *attempt* counts how often it was given to a worker, and fences: what
an older attempt reports changes nothing. `docs/explanation/states.md` holds a diagram that is drawn from `TABLE`.
"""

from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"  # committed by the executor, held by no worker
    DISPATCHED = "dispatched"  # claimed for a worker in the database, then published to it
    ACCEPTED = "accepted"  # in the worker's journal
    RUNNING = "running"  # passed the start gate: user code may run
    CANCELLING = "cancelling"  # its end was asked for; the worker has not confirmed
    SUCCEEDED = "succeeded"  # its supervisor ended in order; what became of the task, the Execution API knows
    FAILED = "failed"  # its supervisor did not end in order, or could not begin
    LOST = "lost"  # its worker was silent for longer than `lost_after`
    CANCELLED = "cancelled"  # ended because somebody asked for it


class JobEvent(StrEnum):
    """What moves a job."""

    DISPATCH = "dispatch"  # the bridge claims it for a worker
    ACCEPT = "accept"  # the worker journaled it
    REJECT = "reject"  # the worker does not take it: full, draining, unknown kind
    RELEASE = "release"  # the bridge takes it back: worker gone, or no answer
    START = "start"  # the start gate let it through
    SUCCEED = "succeed"  # the worker reports the end of its supervisor
    FAIL = "fail"  # the worker reports that its supervisor failed, or a row cannot be run at all
    LOSE = "lose"  # the bridge gives the worker up
    CANCEL = "cancel"  # Airflow, or an operator, wants it ended
    CONFIRM = "confirm"  # the worker reports that a cancelled job is gone


S = JobState
E = JobEvent

#: A job starts from ACCEPTED only: the gate's request may overtake the report of acceptance, and then waits for it.
#: Otherwise a `Born` that is older than both, and so does not list the job, would look as if the job were forgotten.
#:
#: (state, event) -> next state. What is not listed does not happen: `settle` says what it is instead.
TABLE: Final[dict[tuple[JobState, JobEvent], JobState]] = {
    (S.QUEUED, E.DISPATCH): S.DISPATCHED,
    (S.QUEUED, E.CANCEL): S.CANCELLED,
    (S.QUEUED, E.FAIL): S.FAILED,
    (S.DISPATCHED, E.ACCEPT): S.ACCEPTED,
    (S.DISPATCHED, E.REJECT): S.QUEUED,
    (S.DISPATCHED, E.RELEASE): S.QUEUED,
    (S.DISPATCHED, E.FAIL): S.FAILED,
    (S.DISPATCHED, E.CANCEL): S.CANCELLING,
    (S.ACCEPTED, E.START): S.RUNNING,
    (S.ACCEPTED, E.REJECT): S.QUEUED,  # a drain that began before the job did
    (S.ACCEPTED, E.RELEASE): S.QUEUED,
    (S.ACCEPTED, E.FAIL): S.FAILED,
    (S.ACCEPTED, E.CANCEL): S.CANCELLING,
    (S.RUNNING, E.SUCCEED): S.SUCCEEDED,
    (S.RUNNING, E.FAIL): S.FAILED,
    (S.RUNNING, E.LOSE): S.LOST,
    (S.RUNNING, E.CANCEL): S.CANCELLING,
    (S.CANCELLING, E.CONFIRM): S.CANCELLED,
    (S.CANCELLING, E.RELEASE): S.CANCELLED,  # its worker is gone and it had not started
    (S.CANCELLING, E.REJECT): S.CANCELLED,
    (S.CANCELLING, E.LOSE): S.CANCELLED,
    (S.CANCELLING, E.SUCCEED): S.SUCCEEDED,  # it ended before the wish reached it
    (S.CANCELLING, E.FAIL): S.FAILED,
}

INITIAL: Final = S.QUEUED

#: States in which a worker is bound to the job.
HELD: Final = frozenset({S.DISPATCHED, S.ACCEPTED, S.RUNNING, S.CANCELLING})

#: States that nothing leaves.
TERMINAL: Final = frozenset({S.SUCCEEDED, S.FAILED, S.LOST, S.CANCELLED})

#: States from which a job may go back to the queue, with the next attempt.
RETURNABLE: Final = frozenset(before for (before, _), after in TABLE.items() if after is S.QUEUED)

#: Where a report leads, whichever way it came. Used to tell a duplicate from a contradiction.
_GOAL: Final[dict[JobEvent, frozenset[JobState]]] = {
    E.ACCEPT: frozenset({S.ACCEPTED, S.RUNNING, *TERMINAL}),
    E.START: frozenset({S.RUNNING}),
    E.SUCCEED: frozenset({S.SUCCEEDED}),
    E.FAIL: frozenset({S.FAILED}),
    E.CONFIRM: frozenset({S.CANCELLED}),
    E.CANCEL: frozenset({S.CANCELLING, S.CANCELLED}),
    E.LOSE: frozenset({S.LOST}),
    E.DISPATCH: frozenset({S.DISPATCHED}),
    E.REJECT: frozenset(),
    E.RELEASE: frozenset(),
}


#: States in which a report that moves nothing is late, not wrong.
_LATE: Final = frozenset({S.QUEUED, S.CANCELLING, *TERMINAL})


class Verdict(StrEnum):
    """What a report is, seen from the job as it stands."""

    APPLY = "apply"  # it moves the job
    DUPLICATE = "duplicate"  # the job is already there
    STALE = "stale"  # of an older attempt, or of one that this worker does not hold
    REFUSED = "refused"  # the table has no such move: a contradiction


def next_state(state: JobState, event: JobEvent) -> JobState | None:
    """Return where `event` leads from `state`, or None when it leads nowhere."""
    return TABLE.get((state, event))


def settle(state: JobState, attempt: int, event: JobEvent, reported_attempt: int) -> Verdict:
    """Return what a worker's report of `event` about `reported_attempt` means for a job at (`state`, `attempt`).

    An attempt above the job's own cannot be: only the bridge raises it. It is refused like a contradiction.
    """
    if reported_attempt < attempt:
        return Verdict.STALE
    if reported_attempt > attempt:
        return Verdict.REFUSED
    if (state, event) in TABLE:
        return Verdict.APPLY
    if state in _GOAL[event]:
        return Verdict.DUPLICATE
    # The attempt went back to the queue, ended otherwise, or is being cancelled: what is said of its beginning now
    # is late. A cancel that overtakes a `started` is an ordinary race.
    return Verdict.STALE if state in _LATE else Verdict.REFUSED


def diagram() -> str:
    """Return the table as a Mermaid state diagram; `docs/explanation/states.md` embeds it."""
    lines = ["stateDiagram-v2", f"    [*] --> {INITIAL}"]
    arrows: dict[tuple[JobState, JobState], list[str]] = {}
    for (before, event), after in TABLE.items():
        arrows.setdefault((before, after), []).append(event.value)
    lines += [f"    {before} --> {after}: {', '.join(names)}" for (before, after), names in arrows.items()]
    lines += [f"    {state} --> [*]" for state in JobState if state in TERMINAL]
    return "\n".join(lines) + "\n"
