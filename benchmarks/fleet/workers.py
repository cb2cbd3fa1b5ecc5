"""Workers without devices: they speak the protocol over one connection, and their tasks end at once.

Each accepts what it is given, passes the start gate, says success, and reports the end. It keeps what was not
acknowledged and sends it again, as a worker does, so that it can live through a takeover.
"""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.messages import Born, Event, EventType, FinishOutcome, HeldState, Request, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind, Topics
from fleet.jobs import queue_name

#: Seconds between two heartbeats of a worker: the default of `heartbeat_interval`.
INTERVAL: Final = 30.0

#: Seconds without an answer after which something is sent again, and between two births.
_RESEND: Final = 30.0
_BIRTH_PAUSE: Final = 2.0

_HEADERS: Final = {"content-type": "application/json", "airflow-api-version": "2026-06-30"}
_RUN: Final = {
    "state": "running", "hostname": "device", "unixname": "edge", "pid": 1, "start_date": "2026-01-01T00:00:00Z",
}  # fmt: skip
_SUCCESS: Final = {
    "state": "success", "end_date": "2026-01-01T00:00:01Z", "task_outlets": [], "outlet_events": [],
}  # fmt: skip


@dataclass(slots=True)
class Sent:
    """What waits for an acknowledgement or an answer."""

    at: float
    payload: bytes
    then: Callable[[int], None] | None = None


@dataclass(slots=True)
class Worker:
    """One simulated worker. `held` has the jobs that it runs, with the attempt of each."""

    name: str
    queue: str
    slots: int
    journal: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    seq: int = 0
    births: int = 0
    born_at: float = 0.0
    heard: bool = False
    held: dict[str, int] = field(default_factory=dict)
    outbox: dict[int, Sent] = field(default_factory=dict)
    calls: dict[str, Sent] = field(default_factory=dict)


class Fleet:
    """`workers` of them with so many `slots`, spread over `queues`, on one connection to the broker at `port`.

    `account` is a user name and password that may speak for all of them; None where anybody may.

    While `holding` is true, jobs that have started do not end. `accepted_at` is when a device took a job last.
    """

    def __init__(
        self, port: int, *, workers: int, slots: int, queues: int, account: tuple[str, str] | None = None
    ) -> None:
        names = [f"w{number}" for number in range(workers)]
        self.workers = {name: Worker(name, queue_name(i, queues), slots) for i, name in enumerate(names)}
        self.holding = False
        self.ended = 0
        self.running = 0
        self.refused = 0
        self.accepted_at = 0.0
        self.epoch = 0
        self._topics = Topics("airflow")
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._beating: threading.Thread | None = None
        self._led = threading.Event()  # by a new bridge, to which all introduce themselves
        self._introducing: threading.Thread | None = None
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "fleet", protocol=mqtt.MQTTv311)
        self._client.max_inflight_messages_set(0)  # no bound, or each PUBACK looks through all that wait
        self._client.max_queued_messages_set(0)
        if account:
            self._client.username_pw_set(*account)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        base = self._topics.base
        topics = ("queue/+/jobs/+", "worker/+/response", "worker/+/ack", "bridge/status")
        self._client.subscribe([(f"{base}/{topic}", 1) for topic in topics])
        if not self._ready.wait(30):
            raise TimeoutError("the broker does not answer the fleet")

    def close(self) -> None:
        self._stop.set()
        self._led.set()
        for thread in (self._beating, self._introducing):
            if thread is not None:
                thread.join(10)
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def unacknowledged(self) -> int:
        """Events that the bridge has not acknowledged yet."""
        return sum(len(worker.outbox) for worker in self.workers.values())

    @property
    def heard(self) -> int:
        """Workers whose last birth the bridge has acknowledged."""
        return sum(worker.heard for worker in self.workers.values())

    # --- what workers say ---------------------------------------------------------------------------------

    def connect(self) -> None:
        """Have all workers introduce themselves, and heartbeat from now on."""
        for worker in self.workers.values():
            with self._lock:
                self._introduce(worker)
        self._beating = threading.Thread(target=self._beat, name="heartbeats", daemon=True)
        self._beating.start()
        self._introducing = threading.Thread(target=self._introduce_all, name="births", daemon=True)
        self._introducing.start()

    def _beat(self) -> None:
        """Spread the heartbeats of all workers over the interval."""
        while not self._stop.is_set():
            began = time.monotonic()
            for number, worker in enumerate(self.workers.values(), start=1):
                with self._lock:
                    self._say_status(worker)
                    self._send_again(worker)
                due = began + INTERVAL * number / len(self.workers)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return

    def _introduce_all(self) -> None:
        """Have all introduce themselves to each leader. Orders are heard meanwhile: each device has its own time."""
        while self._led.wait() and not self._stop.is_set():
            self._led.clear()
            for worker in self.workers.values():
                with self._lock:
                    self._introduce(worker)

    def _say_status(self, worker: Worker) -> None:
        running = len(worker.held)
        status = WorkerStatus(
            state="running" if running else "idle", connection=1, instance=f"i-{worker.name}", ts=time.time(),
            interval=INTERVAL, slots=worker.slots, free=worker.slots - running, running=running,
        )  # fmt: skip
        self._publish(worker, TopicKind.STATUS, status.encode(), retain=True)

    def _introduce(self, worker: Worker) -> None:
        worker.births += 1
        worker.born_at = time.monotonic()
        worker.heard = False
        holds = [
            {"job": job, "attempt": attempt, "state": HeldState.RUNNING.value} for job, attempt in worker.held.items()
        ]
        born = Born(
            journal=worker.journal, first=min(worker.outbox, default=worker.seq + 1), last=worker.seq,
            instance=f"i-{worker.name}", connection=1, number=worker.births, queues=[worker.queue], kinds=["airflow"],
            holds=holds,
        )  # fmt: skip
        self._publish(worker, TopicKind.EVENTS, born.encode())
        self._say_status(worker)
        for sent in worker.outbox.values():
            self._publish(worker, TopicKind.EVENTS, sent.payload)
        for sent in worker.calls.values():
            self._publish(worker, TopicKind.REQUEST, sent.payload)

    def _send_again(self, worker: Worker) -> None:
        now = time.monotonic()
        if not worker.heard and now - worker.born_at >= _RESEND:
            self._introduce(worker)
        for kind, waiting in ((TopicKind.EVENTS, worker.outbox), (TopicKind.REQUEST, worker.calls)):
            for sent in [*waiting.values()]:
                if now - sent.at >= _RESEND:
                    sent.at = now
                    self._publish(worker, kind, sent.payload)

    def _report(self, worker: Worker, kind: EventType, job: str, attempt: int, **values: Any) -> None:
        worker.seq += 1
        event = Event(
            type=kind.value, journal=worker.journal, seq=worker.seq, job=job, attempt=attempt, ts=time.time(), **values
        )
        payload = event.encode()
        worker.outbox[worker.seq] = Sent(time.monotonic(), payload)
        self._publish(worker, TopicKind.EVENTS, payload)

    def _call(self, worker: Worker, job: str, path: str, body: object, then: Callable[[int], None]) -> None:
        request = Request(
            id=uuid.uuid4().hex[:16], journal=worker.journal, job=job, attempt=worker.held[job], method="PATCH",
            path=path, headers=_HEADERS, body=orjson.dumps(body).decode(),
        )  # fmt: skip
        payload = request.encode()
        worker.calls[request.id] = Sent(time.monotonic(), payload, then)
        self._publish(worker, TopicKind.REQUEST, payload)

    def _publish(self, worker: Worker, kind: TopicKind, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(self._topics.worker(worker.name, kind), payload, 1, retain)

    # --- what workers hear --------------------------------------------------------------------------------

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        levels = message.topic.split("/")
        if not message.payload:
            return
        said: dict[str, Any] = orjson.loads(codec.unpack(bytes(message.payload)))
        with self._lock:
            if levels[2] == "bridge":
                self._hear_bridge(said)
            elif worker := self.workers.get(levels[5] if levels[2] == "queue" else levels[3]):
                self._hear(worker, levels, said)  # else it is of somebody else's worker, on the same broker

    def _hear(self, worker: Worker, levels: list[str], said: dict[str, Any]) -> None:
        if levels[2] == "queue":
            self._take_order(worker, said)
        elif levels[4] == "ack":
            self._take_ack(worker, said)
        else:
            self._take_answer(worker, said)

    def _hear_bridge(self, said: dict[str, Any]) -> None:
        if said["state"] != "leading" or said["epoch"] <= self.epoch:
            return
        self.epoch = said["epoch"]
        if self._introducing is not None:
            for worker in self.workers.values():
                worker.heard = False
            self._led.set()

    def _take_ack(self, worker: Worker, said: dict[str, Any]) -> None:
        if said["journal"] != worker.journal or said["epoch"] < self.epoch:
            return
        for seq in [seq for seq in worker.outbox if seq <= said["seq"]]:
            del worker.outbox[seq]
        if said["connection"] == 1 and said["birth"] == worker.births:
            worker.heard = True
        elif time.monotonic() - worker.born_at > _BIRTH_PAUSE:
            self._introduce(worker)

    def _take_answer(self, worker: Worker, said: dict[str, Any]) -> None:
        sent = worker.calls.pop(said["id"], None)
        if sent is not None and sent.then is not None:
            sent.then(said["status"])

    def _take_order(self, worker: Worker, said: dict[str, Any]) -> None:
        job, attempt = said["job"], said["attempt"]
        if said["type"] != "run":
            if worker.held.pop(job, None) is not None:
                self._report(worker, EventType.CANCELLED, job, attempt)
            return
        if job in worker.held:
            return
        worker.held[job] = attempt
        subject = said["workload"]["ti"]["id"]
        self.accepted_at = time.time()
        self._report(worker, EventType.ACCEPTED, job, attempt)
        path = f"task-instances/{subject}"
        self._call(worker, job, f"{path}/run", _RUN, lambda status: self._started(worker, job, path, status))

    def _started(self, worker: Worker, job: str, path: str, status: int) -> None:
        attempt = worker.held.get(job)
        if attempt is None or self._is_refused(worker, job, status):
            return
        self._report(worker, EventType.STARTED, job, attempt)
        self.running += 1
        if not self.holding:
            self._call(worker, job, f"{path}/state", _SUCCESS, lambda status: self._done(worker, job, status))

    def _done(self, worker: Worker, job: str, status: int) -> None:
        attempt = worker.held.get(job)
        if attempt is None or self._is_refused(worker, job, status):
            return
        del worker.held[job]
        self.running -= 1
        self.ended += 1
        self._report(
            worker, EventType.FINISHED, job, attempt, outcome=FinishOutcome.SUCCEEDED.value, exit_code=0, log_size=0
        )

    def _is_refused(self, worker: Worker, job: str, status: int) -> bool:
        if status < 300:
            return False
        self.refused += 1
        del worker.held[job]
        return True
