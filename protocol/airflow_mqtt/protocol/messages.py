"""The messages of protocol version 1, as frozen dataclasses.

Each field says what it may hold; `decode` holds a payload against that and raises `PayloadError` with the name
of the first field that does not fit. Fields that a reader does not know are ignored, so either side may be the
newer one. `encode` leaves out what is at its default. Times are seconds since the epoch.
"""

import base64
import binascii
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from typing import Any, ClassVar, Final, Self, TypeVar, cast

import orjson

from airflow_mqtt.protocol import OLDEST_PROTOCOL, PROTOCOL_VERSION, codec
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.topics import JOB_ID, WORKER_NAME

#: Numbers stay where a double and a signed 64-bit column agree.
MAX_INTEGER = 2**53

#: What goes into a 32-bit column.
MAX_INT32 = 2**31 - 1

#: What counts up by one may begin as high as this, and still never comes to `MAX_INTEGER`. A peer that says more is not
#: followed there: whoever did could count no further, and nobody would hear it any more.
MAX_POSITION = 2**52

#: Bytes of a log, and where in it something begins. The sum of the two stays a number of this protocol.
MAX_SIZE = 2**48

#: Seconds between two things that a peer repeats.
MAX_INTERVAL = 3600

#: How many jobs a worker may hold at once, and what a `Born` may list: as many again whose last report is not
#: acknowledged yet.
MAX_SLOTS = 1000
MAX_HELD = 2048

#: Text fields that carry names or reasons. Bodies have their own limit, `codec.MAX_DECODED_BYTES`.
MAX_TEXT = 4096
MAX_SHORT_TEXT = 256
MAX_TEXTS = 256

#: The path of a call: names of Airflow's have up to 250 characters (a key 512), each of up to 12 when percent-encoded.
MAX_PATH = 16_384

#: How many messages one `Parcel` may hold, and answers an `Ack`.
MAX_PARTS = 256

#: What a peer may announce: it takes several messages in one (`Parcel`, and `Ack.answers`).
PARCELS = "parcels"

#: What a bridge may announce: it passes on what workers send for a monitoring system (`Telemetry`).
TELEMETRY = "telemetry"

#: What the spans of a `Telemetry` may unpack to.
MAX_SPANS = 256 * 1024

#: Bytes of the end of a log that may be sent, and are stored, before its middle.
MAX_TAIL = 64 * 1024

#: What a device may say of its health: how many figures, how many of the site's own, and how long names and texts are.
MAX_FIGURES = 32
MAX_EXTRA = 16
MAX_EXTRA_NAME = 32
MAX_EXTRA_TEXT = 64

#: Characters of all names and texts of the site's own figures together: each health carries them over the link.
MAX_EXTRA_SIZE = 512

#: Figures of the site's own, on either side of zero.
MAX_FIGURE = 10**15

Check = Callable[[Any], bool]
M = TypeVar("M", bound="Message")


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and "\x00" not in value


def sanitise(value: str, length: int = MAX_TEXT) -> str:
    """Return `value`, which may be anybody's words, as text fields take it: a message that does not fit comes again."""
    return value[:length].encode(errors="replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _path(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_PATH


def _short(value: Any) -> bool:
    """Items of lists and maps: a worker's row, which holds them, is read once a second."""
    return _text(value) and len(value) <= MAX_SHORT_TEXT


def _body(value: Any) -> bool:
    return isinstance(value, str)


@dataclass(frozen=True, eq=False, slots=True)
class Whole:
    """Check of an integer from `least` to `greatest`."""

    least: int
    greatest: int

    def __call__(self, value: Any) -> bool:
        return type(value) is int and self.least <= value <= self.greatest


@dataclass(frozen=True, eq=False, slots=True)
class Real:
    """Check of a number from `least` to `greatest`."""

    least: int
    greatest: int

    def __call__(self, value: Any) -> bool:
        return type(value) in (int, float) and self.least <= value <= self.greatest


@dataclass(frozen=True, eq=False, slots=True)
class Maybe:
    """Check of what may be null, else passes `inside`."""

    inside: Check

    def __call__(self, value: Any) -> bool:
        return value is None or self.inside(value)


#: Each number has the bounds of what it means, so that none is too large for a column, for a sum, or for a deadline.
_count = Whole(0, MAX_INTEGER)
_position = Whole(0, MAX_INTEGER)
_ordinal = Whole(0, MAX_INT32)
_int32 = Whole(-MAX_INT32 - 1, MAX_INT32)
_size = Whole(0, MAX_SIZE)
_slots = Whole(0, MAX_SLOTS)
_held_count = Whole(0, MAX_HELD)
_http_status = Whole(100, 599)
_time = Real(0, 10**11)
_interval = Real(0, MAX_INTERVAL)
_percent = Real(0, 100)
_degrees = Real(-273, 10_000)
_figure = Real(-MAX_FIGURE, MAX_FIGURE)

#: The figures of a device's health that have a meaning of their own, and what each may be.
FIGURES: Final[Mapping[str, Check]] = {
    "cpu": _percent,
    "load": _figure,
    "memory_used": _size,
    "memory_total": _size,
    "disk_free": _size,
    "disk_total": _size,
    "temperature": _degrees,
    "battery": _percent,
    "uptime": _time,
    "link_in": _size,
    "link_out": _size,
    "journal": _size,
}


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_TEXTS and all(_short(item) for item in value)


def _text_map(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 64
        and all(_short(key) and _short(item) for key, item in value.items())
    )


def is_extra(name: Any, value: Any) -> bool:
    """Whether `value` may be a figure, or a short text, of the site's own."""
    if not isinstance(name, str) or len(name) > MAX_EXTRA_NAME or not _text(name):
        return False
    return _figure(value) or (_text(value) and len(value) <= MAX_EXTRA_TEXT)


def extra_size(extra: Mapping[str, Any]) -> int:
    """Return what counts against `MAX_EXTRA_SIZE`."""
    return sum(len(name) + len(str(value)) for name, value in extra.items())


def _extra(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_EXTRA
        and all(is_extra(name, item) for name, item in value.items())
        and extra_size(value) <= MAX_EXTRA_SIZE
    )


def _health(value: Any) -> bool:
    """Figures by name; one that is not known is of a newer device."""
    return (
        isinstance(value, dict)
        and len(value) <= MAX_FIGURES
        and all(
            _extra(item) if name == "extra" else FIGURES[name](item) if name in FIGURES else is_extra(name, item)
            for name, item in value.items()
        )
    )


def fitting(health: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a device's own figures has the form of `health`: a status with any other is refused."""
    return {name: value for name, value in health.items() if _health({name: value})}


def _objects(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_PARTS and all(isinstance(item, dict) for item in value)


def _matching(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _one_of(kind: type[StrEnum]) -> Check:
    values = frozenset(kind)
    return lambda value: isinstance(value, str) and value in values


def _is(check: Check, *, said: bool = False, **kwargs: Any) -> Any:
    """Declare a dataclass field whose payload value must pass `check`; a default makes it optional.

    `said`: it is sent at its default too, since that tells messages apart, or is another one in another release.
    """
    return field(metadata={"check": check, "said": said}, **kwargs)


@cache
def _fields_of(cls: Any) -> tuple[tuple[str, Any], ...]:
    """Return each field of a message with the value at which it is left out; `...` for one that never is."""
    found = []
    for spec in dataclasses.fields(cls):
        unsaid: Any = spec.default
        if spec.default_factory is not dataclasses.MISSING:
            unsaid = spec.default_factory()
        if unsaid is dataclasses.MISSING or spec.metadata["said"]:
            unsaid = ...
        found.append((spec.name, unsaid))
    return tuple(found)


_job_id = _matching(JOB_ID)
_worker_name = _matching(WORKER_NAME)


@dataclass(frozen=True, kw_only=True)
class Message:
    """Base of all messages: encoding, and decoding by the checks of the fields."""

    #: Whether people read it as it is: then it is never packed.
    is_public: ClassVar[bool] = False

    def to_object(self) -> codec.JsonObject:
        """Return what is sent: the fields that are not at their defaults."""
        values, cls = vars(self), cast("Any", type(self))
        return {name: values[name] for name, unsaid in _fields_of(cls) if values[name] != unsaid}

    def plain(self) -> bytes:
        """Return the JSON text."""
        return orjson.dumps(self.to_object())

    def encode(self) -> bytes:
        return self.plain() if self.is_public else codec.pack(self.plain())

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        return cls.from_object(codec.decode(payload))

    @classmethod
    def from_object(cls, value: codec.JsonObject) -> Self:
        known: dict[str, Any] = {}
        for spec in dataclasses.fields(cls):
            if spec.name in value:
                item = value[spec.name]
                if not spec.metadata["check"](item):
                    raise PayloadError(f"{cls.__name__}: field {spec.name!r} holds {str(item)[:80]!r}")
                known[spec.name] = item
            elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
                raise PayloadError(f"{cls.__name__}: field {spec.name!r} is missing")
        return cls(**known)

    @classmethod
    def stored(cls, value: codec.JsonObject) -> Self:
        """As `from_object`, for what another version may have stored: numbers are brought within their bounds."""
        known = numbers(cls)
        return cls.from_object({name: _clamped(item, known.get(name)) for name, item in value.items()})


def numbers(cls: type[Message]) -> dict[str, Whole | Real]:
    """Return the fields of `cls` that hold a number, with their bounds."""
    checks = {spec.name: spec.metadata["check"] for spec in dataclasses.fields(cls)}
    inside = {name: check.inside if isinstance(check, Maybe) else check for name, check in checks.items()}
    return {name: check for name, check in inside.items() if isinstance(check, (Whole, Real))}


def _clamped(value: Any, bounds: Whole | Real | None) -> Any:
    if bounds is None or type(value) not in (int, float):
        return value
    return min(max(value, bounds.least), bounds.greatest)


# --- bridge -> worker -------------------------------------------------------------------------------------


class JobKind(StrEnum):
    """What a worker must have to run a job."""

    AIRFLOW = "airflow"  # a workload of Airflow's, run with the Task SDK
    CONNECTION_TEST = "airflow-connection-test"  # a test of a connection, which the Task SDK of Airflow 3.3 has


class OrderType(StrEnum):
    """What a message on a jobs topic asks for."""

    RUN = "run"
    CANCEL = "cancel"


@dataclass(frozen=True, kw_only=True)
class Run(Message):
    """Run this job. `workload` is Airflow's own JSON (`airflow.executors.workloads`) without its token."""

    type: str = _is(lambda value: value == OrderType.RUN, said=True, default=OrderType.RUN.value)
    job: str = _is(_job_id)
    attempt: int = _is(_ordinal)
    kind: str = _is(_text)
    slots: int = _is(_slots)
    workload: dict[str, Any] = _is(_object)
    not_after: float | None = _is(Maybe(_time), default=None)
    log_interval: float = _is(_interval, default=2.0)


@dataclass(frozen=True, kw_only=True)
class Cancel(Message):
    """End this attempt of this job, whatever it does, and confirm."""

    type: str = _is(lambda value: value == OrderType.CANCEL, said=True, default=OrderType.CANCEL.value)
    job: str = _is(_job_id)
    attempt: int = _is(_ordinal)
    reason: str = _is(_text)


def decode_order(payload: bytes) -> Run | Cancel:
    """Decode a message of a jobs topic."""
    value = codec.decode(payload)
    match value.get("type"):
        case OrderType.RUN:
            return Run.from_object(value)
        case OrderType.CANCEL:
            return Cancel.from_object(value)
    raise PayloadError(f"order of unknown type {str(value.get('type'))[:80]!r}")


def _log_marks(value: Any) -> bool:
    return isinstance(value, dict) and all(_job_id(job) and _count(end) for job, end in value.items())


@dataclass(frozen=True, kw_only=True)
class Ack(Message):
    """What the bridge has committed: all events of `journal` up to `seq`; per job, log bytes up to an offset.

    `connection` and `birth` are those of the last `Born` that it heard; an older one than the worker's last says
    that this got lost, and the worker introduces itself again. `refused` says why the bridge does not take the worker
    at all, `past` that another journal has replaced this one; the rest means nothing then. `answers` are each a
    `Response`, which leaves out its journal where that is this one.
    """

    journal: str = _is(_job_id)
    seq: int = _is(_position)
    epoch: int = _is(_count)
    connection: int = _is(_position, default=0)
    birth: int = _is(_position, default=0)
    logs: dict[str, int] = _is(_log_marks, default_factory=dict)
    refused: str = _is(_text, default="")
    past: bool = _is(_flag, default=False)
    answers: list[codec.JsonObject] = _is(_objects, default_factory=list)

    def responses(self) -> tuple["Response", ...]:
        """Return `answers`, decoded; `PayloadError` when one of them is malformed."""
        return tuple(Response.from_object({"journal": self.journal, **item}) for item in self.answers)


@dataclass(frozen=True, kw_only=True)
class Desired(Message):
    """An operator's wishes for one worker, retained. None means: as the worker was started."""

    revision: int = _is(_ordinal)
    maintenance: bool = _is(_flag, default=False)
    shutdown: bool = _is(_flag, default=False)
    slots: int | None = _is(Maybe(_slots), default=None)
    queues: list[str] | None = _is(Maybe(_texts), default=None)
    comment: str = _is(_text, default="")


# --- worker -> bridge -------------------------------------------------------------------------------------


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

    type: str = _is(_one_of(EventType))
    journal: str = _is(_job_id)
    seq: int = _is(_position)
    job: str = _is(_job_id)
    attempt: int = _is(_ordinal)
    ts: float = _is(_time)
    reason: str = _is(_text, default="")
    outcome: str | None = _is(Maybe(_one_of(FinishOutcome)), default=None)
    exit_code: int | None = _is(Maybe(_int32), default=None)
    log_size: int | None = _is(Maybe(_size), default=None)


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

    job: str = _is(_job_id)
    attempt: int = _is(_ordinal)
    state: str = _is(_one_of(HeldState))


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

    type: str = _is(lambda value: value == "born", said=True, default="born")
    journal: str = _is(_job_id)
    first: int = _is(_position)
    last: int = _is(_position)
    instance: str = _is(_job_id)
    connection: int = _is(_position)
    number: int = _is(_position)
    protocol: int = _is(_ordinal, said=True, default=PROTOCOL_VERSION)
    queues: list[str] = _is(_texts)
    kinds: list[str] = _is(_texts)
    holds: list[dict[str, Any]] = _is(_held_list, default_factory=list)
    features: list[str] = _is(_texts, default_factory=list)
    version: str = _is(_text, default="")
    labels: dict[str, str] = _is(_text_map, default_factory=dict)

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


def decode_report(payload: bytes) -> "Event | Born | UnsupportedBirth | Parcel":
    """Decode a message of an events topic."""
    value = codec.decode(payload)
    if value.get("type") == PartType.PARCEL:
        parcel = Parcel.from_object(value)
        parcel.messages()
        return parcel
    if value.get("type") == "born":
        journal, protocol = value.get("journal"), value.get("protocol", PROTOCOL_VERSION)
        if _job_id(journal) and _ordinal(protocol) and not understands(protocol):
            return UnsupportedBirth(str(journal), protocol)
        born = Born.from_object(value)
        born.held()
        return born
    return Event.from_object(value)


class ReportedState(StrEnum):
    """The `state` of a worker's status."""

    STARTING = "starting"
    IDLE = "idle"
    RUNNING = "running"
    TERMINATING = "terminating"
    OFFLINE = "offline"


class OfflineReason(StrEnum):
    """Why a status says offline."""

    STOPPED = "stopped"  # a clean stop
    LOST = "lost"  # the will


@dataclass(frozen=True, kw_only=True)
class WorkerStatus(Message):
    """A worker's retained heartbeat, and its will. Flat, so that any dashboard can chart it.

    `own_maintenance`: the device has taken itself out of service, and `reason` says why.
    `health` goes with a heartbeat now and then; a status without it says nothing about it.
    """

    is_public = True

    state: str = _is(_one_of(ReportedState))
    reason: str = _is(_text, default="")
    connection: int = _is(_position)
    instance: str = _is(_job_id)
    ts: float = _is(_time)
    interval: float = _is(_interval, default=30.0)
    slots: int = _is(_slots)
    free: int = _is(_slots)
    running: int = _is(_held_count)
    maintenance: bool = _is(_flag, default=False)
    own_maintenance: bool = _is(_flag, default=False)
    revision: int = _is(_ordinal, default=0)
    health: dict[str, Any] = _is(_health, default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WorkerInfo(Message):
    """What a worker is, said once a connection."""

    is_public = True

    version: str = _is(_text)
    protocol: int = _is(_ordinal, said=True, default=PROTOCOL_VERSION)
    instance: str = _is(_job_id)
    queues: list[str] = _is(_texts)
    kinds: list[str] = _is(_texts)
    slots: int = _is(_slots)
    labels: dict[str, str] = _is(_text_map, default_factory=dict)
    platform: dict[str, str] = _is(_text_map, default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Probe(Message):
    """Is a worker of this name alive? A living one answers by publishing its status. See `Identity` in the docs."""

    instance: str = _is(_job_id)


@dataclass(frozen=True, kw_only=True)
class LogChunk(Message):
    """Bytes of a job's log from `offset` on: `text` where they are UTF-8, else `base64`.

    `left` is how many bytes more the device has behind these. `tail` marks the end of a log, sent before its middle.
    """

    attempt: int = _is(_ordinal)
    offset: int = _is(_size)
    text: str | None = _is(Maybe(_body), default=None)
    base64: str | None = _is(Maybe(_body), default=None)
    left: int = _is(_size, default=0)
    tail: bool = _is(_flag, default=False)

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


@dataclass(frozen=True, kw_only=True)
class Telemetry(Message):
    """What tasks of a worker have for a monitoring system of the site: lines of StatsD, and spans.

    `spans` are messages of OTLP (`ExportTraceServiceRequest`), packed as a payload is, in base64. Nobody acknowledges
    any of it.
    """

    lines: list[str] = _is(_texts, default_factory=list)
    spans: str = _is(_body, default="")

    @classmethod
    def of(cls, lines: list[str], spans: bytes) -> Self:
        return cls(lines=lines, spans=base64.b64encode(codec.pack(spans)).decode())

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return len(self.spans) + sum(map(len, self.lines))

    @property
    def otlp(self) -> bytes:
        """The spans; `PayloadError` when they are not base64, or unpack to too much."""
        try:
            packed = base64.b64decode(self.spans, validate=True)
        except (binascii.Error, ValueError):
            raise PayloadError("Telemetry: field 'spans' is not base64") from None
        return codec.unpack(packed, max_bytes=MAX_SPANS)


# --- Execution API calls ----------------------------------------------------------------------------------


class Method(StrEnum):
    """The HTTP methods of the Execution API."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


@dataclass(frozen=True, kw_only=True)
class Request(Message):
    """One call of the Execution API on behalf of an attempt.

    `path` is relative to the API's root (`task-instances/…/run`), `query` as in a URL, `body` the JSON text.
    `headers` are the few that matter: `content-type`, `airflow-api-version`, and those of a trace that is recorded
    (`trace_context`). Of a success that is to be `brief` only the status is told. A final state that `ends` the attempt
    is its last call, and says in place of an event `finished` that the supervisor ended in order, with `exit_code`.
    """

    id: str = _is(_job_id)
    journal: str = _is(_job_id)
    job: str = _is(_job_id)
    attempt: int = _is(_ordinal)
    method: str = _is(_one_of(Method))
    path: str = _is(_path)
    query: str = _is(_body, default="")
    headers: dict[str, str] = _is(_text_map, default_factory=dict)
    body: str | None = _is(Maybe(_body), default=None)
    brief: bool = _is(_flag, default=False)
    ends: bool = _is(_flag, default=False)
    exit_code: int | None = _is(Maybe(_int32), default=None)


@dataclass(frozen=True, kw_only=True)
class Response(Message):
    """The answer to one request; `status` is an HTTP status. `ended`: what the request `ends` has ended."""

    id: str = _is(_job_id)
    journal: str = _is(_job_id)
    status: int = _is(_http_status)
    headers: dict[str, str] = _is(_text_map, default_factory=dict)
    body: str | None = _is(Maybe(_body), default=None)
    ended: bool = _is(_flag, default=False)


# --- several messages in one ------------------------------------------------------------------------------


class PartType(StrEnum):
    """What a part of a parcel is, where it is no event."""

    PARCEL = "parcel"  # the parcel itself
    LOG = "log"
    REQUEST = "request"


@dataclass(frozen=True, kw_only=True)
class LogPart(LogChunk):
    """A chunk of log in a parcel, where no topic names its job."""

    job: str = _is(_job_id)


Part = Event | LogPart | Request

#: What a part leaves out where the part before says the same; `journal` also where the parcel does.
_REPEATED = ("journal", "job", "attempt")


@dataclass(frozen=True, kw_only=True)
class Parcel(Message):
    """Several messages of a worker, in their order."""

    type: str = _is(lambda value: value == PartType.PARCEL, said=True, default=PartType.PARCEL.value)
    journal: str = _is(_job_id)
    parts: list[codec.JsonObject] = _is(_objects)

    @classmethod
    def of(cls, journal: str, parts: Iterable[Part]) -> Self:
        return cls(journal=journal, parts=list(_shortened(journal, parts)))

    def messages(self) -> tuple[Part, ...]:
        """Return `parts`, decoded; `PayloadError` when one of them is malformed."""
        return self._messages

    @cached_property
    def _messages(self) -> tuple[Part, ...]:
        known: codec.JsonObject = {"journal": self.journal}
        found: list[Part] = []
        for part in self.parts:
            whole = {**known, **part}
            known = {name: whole[name] for name in _REPEATED if name in whole}
            match whole.get("type"):
                case PartType.LOG:
                    found.append(LogPart.from_object(whole))
                case PartType.REQUEST:
                    found.append(Request.from_object(whole))
                case _:
                    found.append(Event.from_object(whole))
        return tuple(found)


def _shortened(journal: str, parts: Iterable[Part]) -> Iterable[codec.JsonObject]:
    known: codec.JsonObject = {"journal": journal}
    for part in parts:
        whole = part.to_object()
        if isinstance(part, LogPart):
            whole["type"] = PartType.LOG.value
        elif isinstance(part, Request):
            whole["type"] = PartType.REQUEST.value
        yield {name: value for name, value in whole.items() if name not in _REPEATED or known.get(name) != value}
        known |= {name: whole[name] for name in _REPEATED if name in whole}


# --- bridge -> anyone -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JobStatus(Message):
    """Where a job is; published at each transition, not retained."""

    is_public = True

    state: str = _is(_text)
    attempt: int = _is(_ordinal)
    worker: str | None = _is(Maybe(_worker_name), default=None)
    queue: str = _is(_text)
    reason: str = _is(_text, default="")
    dag_id: str = _is(_text, default="")
    run_id: str = _is(_text, default="")
    task_id: str = _is(_text, default="")
    map_index: int = _is(_int32, default=-1)
    try_number: int = _is(_ordinal, default=0)
    ts: float = _is(_time)


@dataclass(frozen=True, kw_only=True)
class QueueStatus(Message):
    """The figures of one queue, retained. `oldest_age` is in seconds; `note` says what an operator should know."""

    is_public = True

    queued: int = _is(_count)
    running: int = _is(_count)
    oldest_age: float = _is(_time)
    workers_online: int = _is(_count)
    free_slots: int = _is(_count)
    note: str = _is(_text, default="")
    ts: float = _is(_time)


class BridgeState(StrEnum):
    """The `state` of the bridge's status."""

    LEADING = "leading"
    OFFLINE = "offline"


@dataclass(frozen=True, kw_only=True)
class BridgeStatus(Message):
    """Which bridge leads, retained, and its will. A worker that sees a higher `epoch` introduces itself again."""

    is_public = True

    state: str = _is(_one_of(BridgeState))
    instance: str = _is(_job_id)
    epoch: int = _is(_count)
    ts: float = _is(_time)
    protocol: int = _is(_ordinal, said=True, default=PROTOCOL_VERSION)
    version: str = _is(_text, default="")
    features: list[str] = _is(_texts, default_factory=list)
