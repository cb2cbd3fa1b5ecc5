"""What a worker holds of a job, and of the calls that its runner makes."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import InitVar, asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from airflow_mqtt.protocol import execution_api
from airflow_mqtt.protocol.execution_api import Does, Match, Reply
from airflow_mqtt.protocol.messages import HeldState, Request, Run


class Phase(StrEnum):
    """Where an attempt is on this worker."""

    ACCEPTED = "accepted"  # in the journal, not through the gate; its runner may be there already
    RUNNING = "running"  # through the gate
    ENDED = "ended"  # its runner is gone


HELD_STATE = {
    Phase.ACCEPTED: HeldState.ACCEPTED,
    Phase.RUNNING: HeldState.RUNNING,
    Phase.ENDED: HeldState.ENDED,
}


@dataclass(slots=True)
class Call:
    """One call of the Execution API on its way.

    `token` says who waits for its answer (None: nobody, it is stored and was answered). A stored call that the
    Execution API could not take yet is sent again under another `wire_id`, since the bridge remembers its answers.
    """

    id: str
    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    position: int = 0
    retries: int = 0
    server_errors: int = 0  # how often it was answered 500
    journal: str = ""  # in which it was stored: the bridge knows a copy by that name, whatever ours is now
    token: int | None = None
    stored: bool = False
    asked_at: float = 0.0
    sent_at: float | None = None
    not_before: float = 0.0
    sent_times: int = 0
    sent_bytes: int = 0  # as large was its message
    started: InitVar[bool] = True  # whether the job was through the gate when this was asked
    does: Does = field(init=False, default=Does.NOTHING)
    reply: Reply | None = field(init=False, default=None)  # what it is answered with when it is stored, if it can be

    def __post_init__(self, started: bool) -> None:
        match = execution_api.find(self.method, self.path)
        if isinstance(match, Match):
            route = execution_api.as_meant(match, started=started).route
            self.does, self.reply = route.does, route.stored

    def sent(self, now: float, size: int) -> None:
        """Count it as sent, as a message of `size` bytes."""
        self.sent_at = now
        self.sent_times += 1
        self.sent_bytes = size

    @property
    def size(self) -> int:
        """About how many bytes it takes to keep it."""
        return len(self.body or "") + len(self.query) + len(self.path) + 256

    @property
    def wire_id(self) -> str:
        return f"{self.id}-{self.retries}" if self.retries else self.id

    def record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": dict(self.headers),
            "body": self.body,
            "position": self.position,
            "retries": self.retries,
            "server_errors": self.server_errors,
            "journal": self.journal,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        return cls(**record, stored=True)

    def request(self, journal: str, job: str, attempt: int, **end: Any) -> Request:
        """Return what is sent; `end` says of the last call of an attempt how that ended."""
        return Request(
            id=self.wire_id,
            journal=self.journal or journal,
            job=job,
            attempt=attempt,
            method=self.method,
            path=self.path,
            query=self.query,
            headers=dict(self.headers),
            body=self.body,
            brief=self.stored,
            **end,
        )


class CallQueue:
    """The calls of one job, in order. What is asked at each turn is kept at hand: days without a link make many."""

    def __init__(self) -> None:
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._waiting: dict[str, Call] = {}
        self._sizes: dict[str, int] = {}
        self.stored_bytes = 0

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

    @property
    def head(self) -> Call | None:
        """The one that is under way, or next."""
        return next(iter(self._calls.values()), None)

    @property
    def last(self) -> Call | None:
        return next(reversed(self._calls.values()), None)

    def unsend(self) -> None:
        """Count those that are under way, which are the first, as not sent."""
        for call in self:
            if call.sent_at is None:
                return
            call.sent_at = None

    @property
    def waiting(self) -> list[Call]:
        """Those that are not stored: a runner waits for each."""
        return list(self._waiting.values())

    @property
    def stored(self) -> int:
        """How many are stored."""
        return len(self._sizes)

    def get(self, id_: str) -> Call | None:
        return self._calls.get(id_)

    def append(self, call: Call) -> None:
        self._calls[call.id] = call
        if call.stored:
            self._weigh(call)
        else:
            self._waiting[call.id] = call

    def store(self, call: Call) -> None:
        """Count `call`, which is here and waits, as stored."""
        call.stored = True
        del self._waiting[call.id]
        self._weigh(call)

    def _weigh(self, call: Call) -> None:
        self._sizes[call.id] = call.size
        self.stored_bytes += call.size

    def remove(self, call: Call) -> None:
        del self._calls[call.id]
        self._waiting.pop(call.id, None)
        self.stored_bytes -= self._sizes.pop(call.id, 0)

    def drop_waiting(self) -> None:
        for call in self.waiting:
            self.remove(call)


@dataclass(frozen=True, slots=True)
class Result:
    """How a supervisor ended: what it wrote itself. `returned` is False when it raised."""

    returned: bool
    exit_code: int | None = None
    reason: str = ""


#: No end of a log was sent before its middle.
NO_TAIL = (0, 0)


@dataclass(slots=True)
class Job:
    """One attempt. The fields down to `retries` are journaled."""

    run: Run
    queue: str
    phase: Phase = Phase.ACCEPTED
    cancel: str | None = None  # why its end was asked for
    final: str | None = None  # the last task state that its runner wrote
    refused: str = ""  # a stored write that the Execution API refused
    final_refused: bool = False  # … and it was the final state
    result: Result | None = None
    died: str = ""  # why there is no result
    log_size: int = 0  # once ended
    log_acked: int = 0
    last_seq: int = 0  # of the last event about it
    closed: bool = False  # that event is the last that there will be
    launches: int = 0
    retries: bool = False  # Airflow runs the task again if it fails

    calls: CallQueue = field(default_factory=CallQueue)
    store_full: bool = False  # and the task was told
    alive: bool = False  # a runner was started or found
    gate_sent: bool = False
    force: int = 0  # the `Force` used on its runner so far
    signal_at: float | None = None  # when more of it is due
    log_sent: int = 0
    log_tail: tuple[int, int] = NO_TAIL  # which bytes were sent before those in the middle
    log_due: float = 0.0
    log_progress: float = 0.0
    log_stalls: int = 0

    @property
    def id(self) -> str:
        return self.run.job

    @property
    def attempt(self) -> int:
        return self.run.attempt

    @property
    def stored_calls(self) -> bool:
        return self.calls.stored > 0

    def record(self) -> dict[str, Any]:
        return {
            "run": asdict(self.run),
            "queue": self.queue,
            "phase": self.phase.value,
            "cancel": self.cancel,
            "final": self.final,
            "refused": self.refused,
            "final_refused": self.final_refused,
            "result": None if self.result is None else asdict(self.result),
            "died": self.died,
            "log_size": self.log_size,
            "log_acked": self.log_acked,
            "last_seq": self.last_seq,
            "closed": self.closed,
            "launches": self.launches,
            "retries": self.retries,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        values = dict(record)
        result = values.pop("result")
        return cls(
            run=Run.from_object(values.pop("run")),
            phase=Phase(values.pop("phase")),
            result=None if result is None else Result(**result),
            log_sent=values["log_acked"],
            **values,
        )
