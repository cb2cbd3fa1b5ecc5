"""What the runner of one kind of work says of an attempt."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. `reason` is there when there is more to say than the exit code."""

    exit_code: int | None
    reason: str = ""
