"""What a core wants done, as values.

The shell commits all `Save…` and `Drop…` effects of one round in one transaction before it performs any other of
that round: what has been said to anybody is in the journal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from airflow_mqtt.protocol.messages import Run

# --- to the journal ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaveMeta:
    """Keep one named value."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class SaveJob:
    """Keep a job; `record` is JSON-able and holds all that `Job.from_record` needs."""

    job: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DropJob:
    """Forget a job."""

    job: str


@dataclass(frozen=True, slots=True)
class SaveEvent:
    """Keep an event until it is acknowledged."""

    seq: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class DropEvents:
    """Forget all events up to and with `upto`."""

    upto: int


@dataclass(frozen=True, slots=True)
class SaveCall:
    """Keep a write that was answered to the runner before the bridge had it."""

    id: str
    job: str
    position: int
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DropCall:
    """Forget a stored write: the bridge has answered it, or its job is gone."""

    id: str


@dataclass(frozen=True, slots=True)
class SaveLogMark:
    """Keep how many bytes of a job's log are acknowledged, without the rest of the job: logs have many."""

    job: str
    acked: int


JournalEffect = SaveMeta | SaveJob | DropJob | SaveLogMark | SaveEvent | DropEvents | SaveCall | DropCall

# --- to the world -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publish:
    """Send this to the broker, QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Give this connection up and make another."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a runner's call. `token` is what the shell gave with the call."""

    token: int
    id: str
    status: int
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a runner for this attempt."""

    run: Run


class Force(IntEnum):
    """How hard a runner is made to end."""

    TERM = 1  # ask its supervisor, which passes it on: `on_kill` runs, and the task may go on all the same
    KILL_TASK = 2  # kill the task's processes; its supervisor lives to tell Airflow
    KILL = 3  # kill them all


@dataclass(frozen=True, slots=True)
class Signal:
    """Make the runner of an attempt end."""

    job: str
    attempt: int
    force: Force


@dataclass(frozen=True, slots=True)
class AppendLog:
    """Append this line to the task's log."""

    job: str
    attempt: int
    line: bytes


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read up to `limit` bytes of a task's log at `offset`; give them, and its size, to `Core.log_read`."""

    job: str
    attempt: int
    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class RemoveFiles:
    """Delete the directory of an attempt."""

    job: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Say:
    """Write a line to the worker's own log. `level` is a name of the standard library's `logging`."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Publish `farewell` on `topic` (retained), and end once the broker has it."""

    topic: str
    farewell: bytes


WorldEffect = Publish | Reconnect | Answer | Launch | Signal | AppendLog | ReadLog | RemoveFiles | Say | Stop
Effect = JournalEffect | WorldEffect
