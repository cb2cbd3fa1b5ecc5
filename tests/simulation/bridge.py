"""A bridge around the real `Dispatcher`, `Intake` and gateway rules, on the memory database and the fake broker."""

from collections.abc import Callable
from typing import Any

import orjson
from broker import Broker, Client
from execution_api import Airflow
from memory import MemoryDatabase, MemoryTx, drive
from world import EPOCH_TIME, TOPICS, Simulation

from airflow_mqtt.bridge.calls import gateway, routes
from airflow_mqtt.bridge.calls.routes import Refusal
from airflow_mqtt.bridge.dispatch.outage import Listening
from airflow_mqtt.bridge.dispatcher import Dispatcher, Heard
from airflow_mqtt.bridge.mqtt.inbox import Call, Intake
from airflow_mqtt.config.bridge import SETTINGS, BridgeSettings
from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.database.errors import DeposedError
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from airflow_mqtt.protocol.messages import BridgeState, BridgeStatus, Response
from airflow_mqtt.protocol.topics import TopicKind

LOST_AFTER = 60.0

VALUES = resolve(
    SETTINGS,
    [
        Source(
            lambda setting: setting.flag,
            {
                "broker_url": "mqtt://b@broker", "database_url": "sqlite:///x", "execution_api_url": "http://a/",
                "instance": "bridge", "accept_timeout": "4", "lost_after": str(LOST_AFTER),
            },
        )
    ],
)  # fmt: skip


class SimBridge:
    """A leader. It may be killed between commit and publication, or fall asleep and wake up deposed."""

    def __init__(
        self, sim: Simulation, broker: Broker, database: MemoryDatabase, airflow: Airflow, number: int
    ) -> None:
        self.sim, self.broker, self.db, self.airflow = sim, broker, database, airflow
        self.name = f"bridge-{number}"
        database.epoch += 1
        self.epoch = database.epoch
        self.alive, self.asleep, self.gone = True, False, False
        settings = BridgeSettings.of(VALUES | {"instance": self.name})
        self.dispatcher = Dispatcher(settings, self.epoch)
        self.intake = Intake(TOPICS, 10**6)
        self.client: Client | None = None
        self.connected_since: float | None = None
        self.listening = Listening(self.clock)
        self.heard: list[Heard] = []
        self.delayed: list[Callable[[], None]] = []
        self.busy: set[tuple[str, str, str]] = set()
        self.answers: dict[tuple[str, str, str], Response] = {}
        sim.note(f"{self.name} leads with epoch {self.epoch}")
        drive(self.dispatcher.take_over(self.db.transaction(self.epoch), self.clock))
        self._tick()
        self._beat()

    @property
    def clock(self) -> float:
        return EPOCH_TIME + self.sim.now

    # --- life ---------------------------------------------------------------------------------------------

    def die(self) -> None:
        self.alive = False
        self.sim.note(f"{self.name} dies")
        if self.client is not None:
            self.client.lost = lambda: None
            self.broker.disconnect(self.client, will=True)
            self.client = None

    def sleep(self, seconds: float) -> None:
        """SIGSTOP. What it was about to do, it does when it wakes."""
        self.sim.note(f"{self.name} sleeps for {seconds:.1f} s")
        self.asleep = True
        self.sim.at(seconds, self._wake)

    def _wake(self) -> None:
        self.asleep = False
        work, self.delayed = self.delayed, []
        for action in work:
            if self.alive:
                action()

    def _awake(self, action: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.asleep:
            self.delayed.append(action)
        else:
            action()

    def _commit(self, script: Callable[[MemoryTx], Any]) -> Any:
        """Run one transaction and say its result; None when it did not commit, or nothing came after the commit."""
        try:
            tx = self.db.transaction(self.epoch)
        except DeposedError:
            self.sim.faults["deposed leader fenced"] += 1
            self.die()
            return None
        chaos = self.broker.chaos
        if chaos and self.sim.chance(0.0008, "bridge killed before commit"):
            before = self.db.snapshot()
            drive(script(tx))
            self.db.restore(before)
            self.die()
            return None
        result = drive(script(tx))
        if chaos and self.sim.chance(0.0008, "bridge killed between commit and publication"):
            self.die()
            return None
        return result

    # --- broker -------------------------------------------------------------------------------------------

    def _status(self, state: BridgeState) -> bytes:
        return BridgeStatus(state=state.value, instance=self.name, epoch=self.epoch, ts=self.clock).encode()

    def _connect(self) -> None:
        kinds = ("status", "info", "events", "request")

        def wants(topic: str) -> bool:
            levels = topic.split("/")
            return "/worker/" in topic and (levels[-1] in kinds or levels[-2] == "logs")

        client = Client(
            self.name, wants, self._receive, (TOPICS.bridge_status, self._status(BridgeState.OFFLINE)), self._lost
        )
        if self.broker.connect(client, persistent=False):
            self.client = client
            self.connected_since = self.clock
            self.listening.connect(self.clock)
            self._publish_one(TOPICS.bridge_status, self._status(BridgeState.LEADING), retain=True)

    def _lost(self) -> None:
        self.client = None
        self.connected_since = None
        self.listening.lose(self.clock)

    def _publish(self, out: list[Any]) -> None:
        for message in out:
            self._publish_one(message.topic, message.payload, retain=message.retain)

    def _publish_one(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if self.client is not None:
            self.broker.publish(self.name, topic, payload, retain=retain)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        self._awake(lambda: self._take(topic, payload, retained))

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        match self.intake.take(topic, payload, retained=retained):
            case Heard() as heard:
                self.heard.append(heard)
                if len(self.heard) == 1:
                    self.sim.at(0.01, lambda: self._awake(self._hear))
            case Call() as call:
                self._call(call)

    # --- work ---------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        batch, self.heard = self.heard, []
        now = self.clock
        out = self._commit(lambda tx: self.dispatcher.hear(tx, batch, now=now, deaf=self.listening.deaf))
        for name in {heard.worker for heard in batch}:
            if name in self.db.workers and self.db.workers[name].seen_at == now:
                self.db.heard.setdefault(name, []).append(self.sim.now)
        self._publish(out or [])

    def _tick(self) -> None:
        if not self.alive:
            return
        if self.client is None:
            self._connect()
        if self.connected_since is not None:
            now = self.clock
            self.listening.look(now)
            times = {"now": now, "deaf": self.listening.deaf, "connected_since": self.connected_since}
            result = self._commit(lambda tx: self.dispatcher.tick(tx, **times))
            if result is not None:
                self.listening.deaf -= times["deaf"]
                self._publish(result[0])
        if self.alive:
            self.sim.at(1.0, lambda: self._awake(self._tick))

    def _beat(self) -> None:
        """Heartbeats to Airflow; those it refuses cancel the job."""
        for row in list(self.db.rows.values()):
            if row["state"] == JobState.RUNNING and row["running_since"] and not row["final_state"] and self.airflow.up:
                status, _ = self.airflow.call("PUT", f"task-instances/{row['subject']}/heartbeat", None)
                if status == 409:
                    self._stop_job(row["id"])
        if self.alive:
            self.sim.at(5.0, lambda: self._awake(self._beat))

    def _stop_job(self, id_: str) -> None:
        job = self.db.job(id_)
        out = self._commit(lambda tx: self.dispatcher.cancel(tx, job, "airflow: heartbeat answered 409", self.clock))
        self._publish(out or [])

    # --- gateway: the order of `gateway.Gateway`, its rules the real ones ----------------------------------

    def _call(self, call: Call) -> None:
        key = (call.worker, call.request.journal, call.request.id)
        if key in self.answers:
            self._answer(call, self.answers[key])
        elif key not in self.busy:
            self.busy.add(key)
            self._admit(call, key)

    def _admit(self, call: Call, key: tuple[str, str, str]) -> None:
        path = routes.normalise(call.request.path)
        assert path is not None
        gate = routes.is_gate(call.request.method, path)
        job = self.db.job(call.request.job) if call.request.job in self.db.rows else None
        verdict = gateway.admit(job, call, path, gate=gate)
        if isinstance(verdict, Refusal):
            self._finish(call, key, gateway._refusal(call.request, verdict))
            return
        known = self.db.workers.get(call.worker)
        if gate and (verdict.state is JobState.DISPATCHED or not known or known.journal != call.request.journal):
            self.busy.discard(key)  # early: the worker sends it again
            return
        if gate and verdict.state is not JobState.RUNNING:
            # Between reading and writing others write: that is what compare-and-set is for.
            pause = self.sim.random.choice([0.0, 0.001, 0.3, 4.0]) if self.broker.chaos else 0.0
            self.sim.at(pause, lambda: self._awake(lambda: self._start(call, key, verdict, path)))
            return
        self._forward_soon(call, key, verdict, path)

    def _start(self, call: Call, key: tuple[str, str, str], verdict: Job, path: str) -> None:
        values = {"gate_request": call.request.id, **gateway._identity(orjson.loads(call.request.body or "{}"))}
        started = self._commit(lambda tx: tx.move(verdict, JobEvent.START, now=self.clock, by=call.worker, **values))
        if started is None:
            self.busy.discard(key)
        else:
            self._forward_soon(call, key, started, path)

    def _forward_soon(self, call: Call, key: tuple[str, str, str], job: Job, path: str) -> None:
        self.sim.at(0.02, lambda: self._awake(lambda: self._forward(call, key, job, path)))

    def _forward(self, call: Call, key: tuple[str, str, str], job: Job, path: str) -> None:
        if not self.airflow.up:
            self.sim.at(1.0, lambda: self._awake(lambda: self._forward(call, key, job, path)))
            return
        request = call.request
        status, body = self.airflow.call(request.method, path, request.body)
        if self.broker.chaos and self.sim.chance(0.002, "bridge killed after Airflow answered"):
            self.die()
            return
        final = routes.is_final_state(request.method, path)
        state = orjson.loads(request.body or "{}").get("state")
        accepted = 200 <= status < 300
        if final and accepted and self._commit(lambda tx: _noted(tx, job, state)) is None:
            return
        gate = routes.is_gate(request.method, path)
        if gate and accepted and self._commit(lambda tx: _ran(tx, job, self.clock)) is None:
            return
        self._finish(call, key, Response(id=request.id, journal=request.journal, status=status, body=body))

    def _finish(self, call: Call, key: tuple[str, str, str], response: Response) -> None:
        self.busy.discard(key)
        self.answers[key] = response
        self._answer(call, response)

    def _answer(self, call: Call, response: Response) -> None:
        self._publish_one(TOPICS.worker(call.worker, TopicKind.RESPONSE), response.encode())


async def _ran(tx: MemoryTx, job: Job, now: float) -> bool:
    await tx.set_running_since(job, now)
    return True


async def _noted(tx: MemoryTx, job: Job, state: Any) -> bool:
    await tx.set_final_state(job, str(state))
    return True
