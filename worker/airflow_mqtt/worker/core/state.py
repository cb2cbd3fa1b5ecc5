"""The state of a worker's core, and the small things that every part of it does."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Desired, Event, EventType, LogPart, Run, sanitise
from airflow_mqtt.protocol.packets import PacketLimit
from airflow_mqtt.protocol.topics import TopicKind, Topics
from airflow_mqtt.worker import task_log
from airflow_mqtt.worker.core.effects import AppendLog, Effect, SaveEvent, SaveJob, Say
from airflow_mqtt.worker.core.jobs import Job, Phase
from airflow_mqtt.worker.core.outbox import Outbox
from airflow_mqtt.worker.core.rules import Condition, Rules

if TYPE_CHECKING:
    from airflow_mqtt.worker.core.trial import Trial

#: How many ended attempts are remembered, so that a late copy of their `run` is known as such.
REMEMBERED = 1024

NEVER = float("inf")

#: Seconds for which what nobody waits for is held back, so that it goes with something else: see `core.parcels`.
GATHER = 1.0

#: Events that nobody waits for.
_PATIENT = frozenset({EventType.ACCEPTED, EventType.STARTED})


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a worker was started with. Durations are in seconds."""

    name: str
    instance: str
    journal: str
    broker: str = ""  # where it is; what was learnt of one holds for that one
    boot: str = ""  # names what a disk cannot go back in: this power-on, and the journal's file; empty: not known
    queues: tuple[str, ...] = ("default",)
    slots: int = 1
    kinds: tuple[str, ...] = ("airflow",)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    root: str = "airflow"
    heartbeat_interval: float = 30.0
    drain_timeout: float = 60.0
    kill_grace: float = 10.0
    flush_timeout: float = 10.0
    resend_after: float = 30.0
    log_rate: int = 65536
    max_message_bytes: int = 1024 * 1024 - 4096
    store_limit: int = 16 * 1024 * 1024  # bytes of stored calls, of one job
    disk_reserve: int = 0  # bytes that must be free for a job to be taken
    rules: Rules = Rules()  # by which it takes itself out of service
    health_interval: float = 0.0  # between two statuses that tell the device's health; 0: none does


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a journal holds, as `journal.Journal.load` reads it."""

    meta: Mapping[str, str] = field(default_factory=dict)
    jobs: Sequence[Mapping[str, Any]] = ()
    events: Mapping[int, bytes] = field(default_factory=dict)
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()  # (job, record), in order
    log_marks: Mapping[str, int] = field(default_factory=dict)  # job -> bytes of its log that are acknowledged


class Stage(IntEnum):
    """How far a drain is."""

    NONE = 0
    WAIT = 1  # takes no jobs, lets those run that do
    TERM = 2  # asked them to end
    KILL = 3  # ended them
    FLUSH = 4  # nothing runs; reports and logs go out
    STOPPED = 5


@dataclass(slots=True)
class State:
    """All of it. The functions of the modules beside this one work on it; effects gather in `out`."""

    config: Config
    topics: Topics
    jobs: dict[str, Job] = field(default_factory=dict)
    outbox: Outbox = field(default_factory=Outbox)
    out: list[Effect] = field(default_factory=list)
    clock_offset: float = 0.0  # wall clock less the clock that `now` is of
    connected: bool = False
    connection: int = 0
    connections_seen: int = 0  # the next one is above it: of another line of time
    births: int = 0
    born_at: float = 0.0
    born_heard: bool = False  # the last introduction is acknowledged
    unwelcome: str = ""  # why the bridge does not take this worker
    epoch: int = 0
    gathers: bool = False  # the bridge takes several messages in one
    relays: bool = False  # the bridge passes on what tasks have for a monitoring system
    send_at: float = NEVER  # when what waits for the bridge is sent
    chunks: list[LogPart] = field(default_factory=list)  # of logs, which go with that
    reading: int = 0  # chunks that were asked for and are not read yet
    positions: int = 0  # of stored calls
    desired: Desired = field(default_factory=lambda: Desired(revision=0))
    shutdown_done: int = -1  # the revision of the last wish for shutdown that was followed
    stage: Stage = Stage.NONE
    stage_until: float = 0.0
    status_due: float = 0.0
    status_said: tuple[Any, ...] = ()
    status_news: float = NEVER  # when something new is said of it
    health: Mapping[str, Any] = field(default_factory=dict)  # figures of the device, as the shell said last
    health_due: float = 0.0  # from then on the next status tells them
    held: dict[Condition, str] = field(default_factory=dict)  # of its rules, and why
    by_hand: str = ""  # the comment of maintenance that was set on the device; empty: none is
    heard_at: float = 0.0  # when something arrived last
    asked_at: float = 0.0  # when we asked ourselves something last, to hear that we receive
    echoed_at: float = 0.0  # when something that we asked ourselves came back last
    ack_at: float = 0.0  # when an acknowledgement of our journal came last
    unheard_births: int = 0  # how often we have introduced ourselves since one was acknowledged
    limit: PacketLimit | None = None  # what the link knows of it
    trial: "Trial | None" = None
    passed: int = 0  # the largest of our messages to ourselves that came back on this connection
    learnt_limit: int | None = None  # of packets, as it is in the journal
    learnt_at: float = 0.0
    payload_limit: int | None = None  # of the broker, in bytes, as far as it is known
    disk_free: int | None = None  # in bytes, as the shell said last
    under_way: int = 0  # messages that the broker has not acknowledged, as the shell said last
    log_budget: float = 0.0
    log_budget_at: float = 0.0
    gone: dict[str, int] = field(default_factory=dict)  # job -> attempt that ended here
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # job -> attempt rejected, and why
    dropped: dict[str, int] = field(default_factory=dict)  # kind of message -> how many were no use

    @property
    def slots(self) -> int:
        return self.config.slots if self.desired.slots is None else self.desired.slots

    @property
    def queues(self) -> tuple[str, ...]:
        return self.config.queues if self.desired.queues is None else tuple(self.desired.queues)

    @property
    def maintenance(self) -> bool:
        """Whether no jobs are taken: an operator wishes it, a rule holds, or it was set on the device."""
        return self.desired.maintenance or bool(self.held) or bool(self.by_hand)

    @property
    def max_message_bytes(self) -> int:
        """The largest payload that has a way to the bridge."""
        limit = self.config.max_message_bytes
        return limit if self.payload_limit is None else min(limit, self.payload_limit)

    @property
    def used(self) -> int:
        return sum(job.run.slots for job in self.jobs.values() if job.phase is not Phase.ENDED)

    def topic(self, kind: TopicKind) -> str:
        return self.topics.worker(self.config.name, kind)


def say(state: State, level: str, text: str) -> None:
    state.out.append(Say(level, text))


def wall(state: State, now: float) -> float:
    """Return the time of day; never negative, whatever a device believes before it has asked anybody."""
    return max(0.0, round(now + state.clock_offset, 3))


def save(state: State, job: Job) -> None:
    state.out.append(SaveJob(job.id, job.record()))


def report(
    state: State, kind: EventType, run: Run | tuple[str, int], now: float, *, reason: str = "", **details: Any
) -> int:
    """Number an event, keep it, send it if there is a link; return its number."""
    job, attempt = (run.job, run.attempt) if isinstance(run, Run) else run
    event = Event(
        type=kind,
        journal=state.config.journal,
        seq=state.outbox.last + 1,
        job=job,
        attempt=attempt,
        ts=wall(state, now),
        reason=sanitise(reason),
        **details,
    )
    payload = shortened(state, _fitting(state, event))
    state.outbox.add(payload)
    state.out.append(SaveEvent(event.seq, payload))
    plan(state, now, patient=kind in _PATIENT)
    return event.seq


def _fitting(state: State, event: Event) -> Event:
    """Return `event` as the bridge takes it: one that it refuses is never acknowledged, and all behind it wait."""
    try:
        return Event.from_object(asdict(event))
    except PayloadError as error:
        say(state, "error", f"job {event.job}: its report says less than it should: {error}")
        return replace(event, ts=0.0, exit_code=None, log_size=None)


def plan(state: State, now: float, *, patient: bool = False) -> None:
    """Have what waits for the bridge sent, at once or (`patient`) within `GATHER`."""
    if state.connected:
        state.send_at = min(state.send_at, now + GATHER if patient and state.gathers else now)


def shortened(state: State, event: Event) -> bytes:
    """Return the payload of `event`, with as much of its reason as has a way: else it would hold up all behind it."""
    payload = event.encode()
    while len(payload) > state.max_message_bytes and event.reason:
        event = replace(event, reason=event.reason[: len(event.reason) // 2])
        payload = event.encode()
    return payload


def note(state: State, job: Job, now: float, text: str, level: str = "error") -> None:
    """Say something in the task's log."""
    line = task_log.line(wall(state, now), level, text, "airflow_mqtt.worker")
    state.out.append(AppendLog(job.id, job.attempt, line))
    if job.phase is Phase.ENDED:
        job.log_size += len(line)
        save(state, job)


def remember(memory: dict[str, Any], job: str, value: Any) -> None:
    """Keep `value` for `job`, forgetting the oldest when there are many."""
    memory.pop(job, None)
    memory[job] = value
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]
