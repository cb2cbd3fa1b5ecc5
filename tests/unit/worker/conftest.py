"""A worker's core with its journal and a memory of what it said, and nothing else."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_mqtt.protocol.messages import (
    Ack,
    Born,
    BridgeStatus,
    Cancel,
    Desired,
    Event,
    Probe,
    Request,
    Response,
    Run,
    WorkerInfo,
    WorkerStatus,
    decode_report,
)
from airflow_mqtt.protocol.topics import Topic, TopicKind, Topics
from airflow_mqtt.worker.core import Config, Core, Restored
from airflow_mqtt.worker.core.calls import LocalCall
from airflow_mqtt.worker.core.effects import (
    Answer,
    AppendLog,
    DropCall,
    DropEvents,
    DropJob,
    Effect,
    Launch,
    Publish,
    ReadLog,
    RemoveFiles,
    SaveCall,
    SaveEvent,
    SaveJob,
    SaveLogMark,
    SaveMeta,
    Say,
    Signal,
    Stop,
)
from airflow_mqtt.worker.core.jobs import Result
from log_schema import check

TOPICS = Topics()
NAME = "edge-1"
CONFIG = Config(
    name=NAME, instance="instance-1", journal="journal-1", boot="boot-1", queues=("default", "gpu"), slots=2
)
RETURNED = Result(returned=True, exit_code=0)


class Device:
    """Drives a core as the loop does, and keeps what it would have stored and published."""

    def __init__(self, **changes: Any) -> None:
        self.config = replace(CONFIG, **changes)
        self.now = 1000.0
        self.meta: dict[str, str] = {"boot": "boot-1"}
        self.jobs: dict[str, dict] = {}
        self.log_marks: dict[str, int] = {}
        self.events: dict[int, bytes] = {}
        self.calls: dict[str, tuple[str, int, dict]] = {}
        self.done: list[Effect] = []
        self.logs: dict[str, bytes] = {}
        self.tokens = itertools.count(1)
        self.core = Core(self.config, Restored(meta={"boot": "boot-1"}))
        self.settle()
        self.bridge_seq = 0

    # --- effects ------------------------------------------------------------------------------------------

    def settle(self) -> None:
        while effects := self.core.take():
            for effect in effects:
                self._store(effect)
            for effect in effects:
                self._act(effect)

    def _store(self, effect: Effect) -> None:
        match effect:
            case SaveMeta(key, value):
                self.meta[key] = value
            case SaveJob(job, record):
                self.jobs[job] = json.loads(json.dumps(record))
            case DropJob(job):
                self.jobs.pop(job, None)
                self.log_marks.pop(job, None)
            case SaveLogMark(job, acked):
                self.log_marks[job] = acked
            case SaveEvent(seq, payload):
                self.events[seq] = payload
            case DropEvents(upto):
                self.events = {seq: payload for seq, payload in self.events.items() if seq > upto}
                self.meta["acked"] = str(upto)
            case SaveCall(call, job, position, record):
                self.calls[call] = (job, position, json.loads(json.dumps(record)))
            case DropCall(call):
                self.calls.pop(call, None)

    def _act(self, effect: Effect) -> None:
        self.done.append(effect)
        if isinstance(effect, AppendLog):
            check(effect.line)
            self.logs[effect.job] = self.logs.get(effect.job, b"") + effect.line
        if isinstance(effect, ReadLog):
            log = self.logs.get(effect.job, b"")
            data = log[effect.offset : effect.offset + effect.limit]
            self.core.log_read(effect.job, effect.attempt, effect.offset, data, self.now, size=len(log))

    def crash(self, alive: tuple[str, ...] = (), results: dict[str, Result] | None = None, **changes: Any) -> None:
        """Lose the process; build a new core from the journal, as `Loop.recover` does."""
        calls = [(job, record) for job, _, record in sorted(self.calls.values(), key=lambda item: item[1])]
        kept = {"jobs": list(self.jobs.values()), "events": dict(self.events), "log_marks": dict(self.log_marks)}
        restored = Restored(meta=self.meta, calls=calls, **kept)
        changes = {"journal": self.meta.get("journal", self.config.journal), **changes}
        self.config = replace(self.config, instance=self.config.instance + "x", **changes)
        self.core = Core(self.config, restored)
        for job in list(self.core.state.jobs):
            result = (results or {}).get(job)
            size = len(self.logs.get(job, b""))
            self.core.found(job, alive=job in alive, result=result, log_size=size, now=self.now)
        self.settle()

    @property
    def journal(self) -> str:
        return self.core.state.config.journal

    # --- what happens -------------------------------------------------------------------------------------

    def connect(self, *, heard: bool = True) -> "Device":
        """Connect; the bridge acknowledges the introduction if it has `heard` it."""
        self.core.connecting(self.now)
        self.core.connected(self.now)
        self.settle()
        if heard:
            self.ack(self.core.state.outbox.acked)
        return self

    def disconnect(self) -> None:
        self.core.disconnected(self.now)
        self.settle()

    def wait(self, seconds: float) -> None:
        """Let time pass, waking when the core wants to, as a loop does."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, max(self.core.deadline(self.now), self.now + 0.01))
            self.core.tick(self.now)
            self.settle()

    def message(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        self.core.message(topic, payload, self.now, retained=retained)
        self.settle()

    def run(self, job: str, attempt: int = 1, queue: str = "default", **more: Any) -> None:
        fields = {"kind": "airflow", "slots": 1, "workload": {"type": "ExecuteTask"}, **more}
        self.message(TOPICS.jobs(queue, NAME), Run(job=job, attempt=attempt, **fields).encode())

    def cancel(self, job: str, attempt: int = 1, reason: str = "airflow: cleared") -> None:
        self.message(TOPICS.jobs("default", NAME), Cancel(job=job, attempt=attempt, reason=reason).encode())

    def ack(self, seq: int | None = None, **logs: int) -> None:
        seq = self.core.state.outbox.last if seq is None else seq
        birth = {"connection": self.core.state.connection, "birth": self.core.state.births}
        self.message(topic(TopicKind.ACK), Ack(journal=self.journal, seq=seq, epoch=1, logs=logs, **birth).encode())

    def desire(self, revision: int, **wishes: Any) -> None:
        self.message(topic(TopicKind.DESIRED), Desired(revision=revision, **wishes).encode(), retained=True)

    def lead(self, epoch: int, *, retained: bool = False) -> None:
        status = BridgeStatus(state="leading", instance="bridge-1", epoch=epoch, ts=self.now)
        self.message(TOPICS.bridge_status, status.encode(), retained=retained)

    def call(
        self,
        job: str,
        method: str,
        path: str,
        body: str | None = None,
        *,
        attempt: int = 1,
        id: str = "",  # noqa: A002
        **more: Any,
    ) -> str:
        token = next(self.tokens)
        name = id or f"call-{token}"
        call = LocalCall(token=token, id=name, job=job, attempt=attempt, method=method, path=path, body=body, **more)
        self.core.call(call, self.now)
        self.settle()
        return name

    def ask(self, *arguments: Any, **options: Any) -> int | None:
        """Make a call and return the status of its answer, if it has one already."""
        name = self.call(*arguments, **options)
        return self.answers().get(name)

    def respond(self, call: str, status: int = 200, body: str | None = "{}") -> None:
        response = Response(id=call, journal=self.journal, status=status, body=body)
        self.message(topic(TopicKind.RESPONSE), response.encode())

    def end(self, job: str, result: Result | None = RETURNED, attempt: int = 1) -> None:
        self.core.ended(job, attempt, result, len(self.logs.get(job, b"")), self.now)
        self.settle()

    def signal(self) -> None:
        self.core.signal(self.now)
        self.settle()

    def start(self, job: str, **more: Any) -> None:
        """Bring a job through the gate."""
        self.run(job, **more)
        self.respond(self.call(job, "PATCH", f"task-instances/{job}/run", "{}"))

    # --- what was said ------------------------------------------------------------------------------------

    def sent(self, kind: TopicKind) -> list[Any]:
        found = []
        for effect in self.done:
            if isinstance(effect, Publish):
                parsed: Topic = TOPICS.parse(effect.topic)
                if parsed.kind is kind:
                    found.append(_DECODERS[kind](effect.payload))
        return found

    def reports(self) -> list[Event]:
        return [report for report in self.sent(TopicKind.EVENTS) if isinstance(report, Event)]

    def births(self) -> list[Born]:
        return [report for report in self.sent(TopicKind.EVENTS) if isinstance(report, Born)]

    def said(self, job: str) -> list[str]:
        return [event.type for event in self.reports() if event.job == job]

    def requests(self) -> list[Request]:
        return self.sent(TopicKind.REQUEST)

    def statuses(self) -> list[WorkerStatus]:
        return self.sent(TopicKind.STATUS)

    def of(self, kind: type) -> list[Any]:
        return [effect for effect in self.done if isinstance(effect, kind)]

    def answers(self) -> dict[str, int]:
        return {answer.id: answer.status for answer in self.of(Answer)}

    def forget(self) -> None:
        self.done.clear()


def topic(kind: TopicKind) -> str:
    return TOPICS.worker(NAME, kind)


def _chunk(payload: bytes) -> Any:
    from airflow_mqtt.protocol.messages import LogChunk

    return LogChunk.decode(payload)


_DECODERS = {
    TopicKind.EVENTS: decode_report,
    TopicKind.REQUEST: Request.decode,
    TopicKind.STATUS: WorkerStatus.decode,
    TopicKind.INFO: WorkerInfo.decode,
    TopicKind.LOGS: _chunk,
    TopicKind.PROBE: Probe.decode,
}

__all__ = ["Launch", "RemoveFiles", "Say", "Signal", "Stop"]


@pytest.fixture
def device() -> Device:
    """A connected worker with two slots."""
    return Device().connect()


@pytest.fixture
def device_of():
    """Makes a worker with other settings, not connected."""
    return Device
