"""What a worker holds of a job, and of the calls that its runner makes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

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

    def request(self, journal: str, job: str, attempt: int) -> Request:
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
        )


@dataclass(frozen=True, slots=True)
class Result:
    """How a supervisor ended: what it wrote itself. `returned` is False when it raised."""

    returned: bool
    exit_code: int | None = None
    reason: str = ""


@dataclass(slots=True)
class Job:
    """One attempt. The fields down to `launches` are journaled."""

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

    calls: list[Call] = field(default_factory=list)
    alive: bool = False  # a runner was started or found
    gate_sent: bool = False
    force: int = 0  # the `Force` used on its runner so far
    signal_at: float | None = None  # when more of it is due
    log_sent: int = 0
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
        return any(call.stored for call in self.calls)

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
