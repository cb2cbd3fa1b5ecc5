"""What the leader says of itself in the lease's row, for the pages of operators: see `database.bridges`. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from airflow_mqtt.bridge.tally import Tally
from airflow_mqtt.protocol.jobs import JobEvent

#: Events by which a running job ends.
_ENDS = frozenset({JobEvent.SUCCEED.value, JobEvent.FAIL.value, JobEvent.LOSE.value, JobEvent.CONFIRM.value})


@dataclass(frozen=True, slots=True)
class Counts:
    """What has been counted up to `at`; `cpu` are seconds of this process."""

    at: float
    cpu: float
    started: int
    ended: int
    calls: int
    messages: int

    @classmethod
    def of(cls, tally: Tally, *, at: float, cpu: float, messages: int) -> "Counts":
        events = tally.events.items()
        started = sum(count for (_, event), count in events if event == JobEvent.START.value)
        ended = sum(count for (_, event), count in events if event in _ENDS)
        return cls(at, cpu, started, ended, tally.calls.total(), messages)


def rates(before: Counts, after: Counts) -> dict[str, float]:
    """Return what happened between the two: by the minute, and of the processor's time how much of one core."""
    seconds = max(after.at - before.at, 0.001)
    counted = {
        "jobs_started": after.started - before.started,
        "jobs_ended": after.ended - before.ended,
        "calls": after.calls - before.calls,
        "messages": after.messages - before.messages,
    }
    by_minute = {f"{name}_per_minute": round(60 * count / seconds, 1) for name, count in counted.items()}
    return {**by_minute, "cpu": round((after.cpu - before.cpu) / seconds, 3)}


def refusals(tally: Tally, dropped: Mapping[str, int]) -> dict[str, int]:
    """Return what was refused since this leader took over, by why; messages that were dropped among it."""
    return {**tally.refused, **{f"message: {why}": count for why, count in dropped.items()}}
