"""What a worker reports of jobs: numbered events, its birth, and bytes of their logs."""

import base64
import binascii
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from airflow_mqtt.protocol import OLDEST_PROTOCOL, PROTOCOL_VERSION
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import checks
from airflow_mqtt.protocol.messages.checks import MAX_HELD, Maybe
from airflow_mqtt.protocol.messages.message import Message, must_be


class EventType(StrEnum):
    """What a worker reports about an attempt."""

    ACCEPTED = "accepted"  # it is in the journal
    REJECTED = "rejected"  # it is not taken; `reason` is a `RejectReason`
    STARTED = "started"  # the gate let it through and its supervisor runs
    FINISHED = "finished"  # its supervisor ended; all it wrote to the Execution API has been answered
    CANCELLED = "cancelled"  # it is gone, as was asked


class RejectReason(StrEnum):
    """Why a worker does not take an attempt."""

    FULL = "full"  # no free slots
    DRAINING = "draining"  # stopping, or in maintenance
    QUEUE = "queue"  # not one of its queues
    KIND = "kind"  # it cannot run such jobs
    EXPIRED = "expired"  # `not_after` has passed
    RUNNER = "runner"  # it cannot start what would run it: no memory, a full disk, a Task SDK that does not load


class FinishOutcome(StrEnum):
    """How an attempt's supervisor ended. It says nothing about user code: the Execution API knows that."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Event(Message):
    """One numbered report. `seq` counts from 1 in `journal`, without gaps; `log_size` is in bytes."""

    type: str = must_be(checks.one_of(EventType))
    journal: str = must_be(checks.job_id)
    seq: int = must_be(checks.position)
    job: str = must_be(checks.job_id)
    attempt: int = must_be(checks.ordinal)
    ts: float = must_be(checks.time)
    reason: str = must_be(checks.text, default="")
    outcome: str | None = must_be(Maybe(checks.one_of(FinishOutcome)), default=None)
    exit_code: int | None = must_be(Maybe(checks.int32), default=None)
    log_size: int | None = must_be(Maybe(checks.size), default=None)


def understands(protocol: int) -> bool:
    """Whether a peer of this revision is understood: a range, since devices and bridges are not updated together."""
    return OLDEST_PROTOCOL <= protocol <= PROTOCOL_VERSION


class HeldState(StrEnum):
    """What a worker holds of an attempt."""

    ACCEPTED = "accepted"  # journaled, not through the gate
    RUNNING = "running"  # through the gate
    ENDED = "ended"  # ended; the report of it is not acknowledged yet


@dataclass(frozen=True, kw_only=True)
class Held(Message):
    """One attempt that a worker holds, as `Born` lists it."""

    job: str = must_be(checks.job_id)
    attempt: int = must_be(checks.ordinal)
    state: str = must_be(checks.one_of(HeldState))


def _held_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_HELD and all(isinstance(item, dict) for item in value)


@dataclass(frozen=True, kw_only=True)
class Born(Message):
    """Sent first on every connection and to every new leader, so that both sides settle what one forgot.

    Not numbered itself: it must come before the events that wait. `first` is the lowest number that the worker
    still has, `last` the highest that it has given out (`first == last + 1` when none waits). `number` counts
    the births of a `connection`, so that one delivered late is known as such. What places jobs stands here and
    in `WorkerInfo`: that one is for people, and nobody acknowledges it.
    """

    type: str = must_be(lambda value: value == "born", said=True, default="born")
    journal: str = must_be(checks.job_id)
    first: int = must_be(checks.position)
    last: int = must_be(checks.position)
    instance: str = must_be(checks.job_id)
    connection: int = must_be(checks.position)
    number: int = must_be(checks.position)
    protocol: int = must_be(checks.ordinal, said=True, default=PROTOCOL_VERSION)
    queues: list[str] = must_be(checks.texts)
    kinds: list[str] = must_be(checks.texts)
    holds: list[dict[str, Any]] = must_be(_held_list, default_factory=list)
    features: list[str] = must_be(checks.texts, default_factory=list)
    version: str = must_be(checks.text, default="")
    labels: dict[str, str] = must_be(checks.text_map, default_factory=dict)

    def held(self) -> tuple[Held, ...]:
        """Return `holds`, decoded; `PayloadError` when one of them is malformed, or two are of the same job."""
        return self._held

    @cached_property
    def _held(self) -> tuple[Held, ...]:
        held = tuple(Held.from_object(item) for item in self.holds)
        if len({item.job for item in held}) < len(held):
            raise PayloadError("Born: field 'holds' lists a job twice")
        return held


@dataclass(frozen=True, slots=True)
class UnsupportedBirth:
    """A `Born` of a revision that this release does not understand, and all of it that is read."""

    journal: str
    protocol: int


@dataclass(frozen=True, kw_only=True)
class LogChunk(Message):
    """Bytes of a job's log from `offset` on: `text` where they are UTF-8, else `base64`.

    `left` is how many bytes more the device has behind these. `tail` marks the end of a log, sent before its middle.
    """

    attempt: int = must_be(checks.ordinal)
    offset: int = must_be(checks.size)
    text: str | None = must_be(Maybe(checks.body), default=None)
    base64: str | None = must_be(Maybe(checks.body), default=None)
    left: int = must_be(checks.size, default=0)
    tail: bool = must_be(checks.flag, default=False)

    @classmethod
    def of(cls, attempt: int, offset: int, data: bytes, *, left: int = 0, tail: bool = False) -> Self:
        more: dict[str, Any] = {"attempt": attempt, "offset": offset, "left": left, "tail": tail}
        try:
            return cls(text=data.decode(), **more)
        except UnicodeDecodeError:
            return cls(base64=base64.b64encode(data).decode(), **more)

    @property
    def data(self) -> bytes:
        """The bytes; `PayloadError` when neither field holds any or base64 is malformed."""
        if self.text is not None:
            try:
                return self.text.encode()
            except UnicodeEncodeError as error:
                raise PayloadError(f"LogChunk: field 'text' is not UTF-8: {error.reason}") from None
        try:
            return base64.b64decode(self.base64 or "", validate=True)
        except (binascii.Error, ValueError):
            raise PayloadError("LogChunk: field 'base64' is not base64") from None
