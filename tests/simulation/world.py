"""The world of a simulation: time, a broker that misbehaves, Airflow, devices with runners. All from one seed."""

import heapq
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_mqtt.protocol.topics import Topics
from airflow_mqtt.worker.core import Config, Core, Restored
from airflow_mqtt.worker.core import effects as fx
from airflow_mqtt.worker.core.calls import LocalCall
from airflow_mqtt.worker.core.jobs import Result

TOPICS = Topics()
EPOCH_TIME = 1_700_000_000.0


class Simulation:
    """Time and chance. Events are callables; two runs with one seed are the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.faults: Counter[str] = Counter()
        self.trace: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + max(0.0, delay), self._number, action))

    def run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> None:
        while self._events and self._events[0][0] <= end and not done():
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = max(self.now, end) if not done() else self.now

    def chance(self, probability: float, fault: str = "") -> bool:
        hit = self.random.random() < probability
        if hit and fault:
            self.faults[fault] += 1
        return hit

    def note(self, text: str) -> None:
        self.trace.append(f"{self.now:9.3f} {text}")


# --- broker -----------------------------------------------------------------------------------------------


@dataclass
class Client:
    """A connection to the broker. `persistent` ones have a session that outlives it."""

    name: str
    filters: Callable[[str], bool]
    receive: Callable[[str, bytes, bool], None]
    will: tuple[str, bytes]
    lost: Callable[[], None]
    alive: bool = True


@dataclass
class Broker:
    """Delivers late, twice, out of order, or not at all, while `chaos` is on."""

    sim: Simulation
    chaos: bool = True
    up: bool = True
    retained: dict[str, bytes] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    sessions: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    last_delivery: dict[tuple[str, str], float] = field(default_factory=dict)

    def connect(self, client: Client, *, persistent: bool) -> bool:
        if not self.up:
            return False
        before = self.clients.get(client.name)
        if before is not None:
            self.disconnect(before, will=not persistent)
        self.clients[client.name] = client
        for topic, payload in list(self.retained.items()):
            if client.filters(topic):
                self._deliver(client, topic, payload, retained=True)
        for topic, payload in self.sessions.pop(client.name, []):
            self._deliver(client, topic, payload, retained=False)
        if persistent:
            self.sessions[client.name] = []
        return True

    def disconnect(self, client: Client, *, will: bool) -> None:
        """End a connection. The will comes at once, late, or (`will` false) never."""
        if not client.alive:
            return
        client.alive = False
        if self.clients.get(client.name) is client:
            del self.clients[client.name]
        client.lost()
        if will:
            late = self.chaos and self.sim.chance(0.3, "late will")
            delay = self.sim.random.uniform(0.0, 30.0) if late else 0.05
            self.sim.at(delay, lambda: self.publish("", *client.will, retain=True))

    def publish(self, sender: str, topic: str, payload: bytes, *, retain: bool) -> None:
        if not self.up:
            return
        if retain:
            self.retained[topic] = payload
        if sender and self.chaos and self.sim.chance(0.04, "dropped"):
            return
        for client in list(self.clients.values()):
            if client.filters(topic):
                self._deliver(client, topic, payload, retained=False)
        for name, queue in self.sessions.items():
            if name not in self.clients and topic.endswith(f"/jobs/{name}") and len(queue) < 50:
                queue.append((topic, payload))

    def _deliver(self, client: Client, topic: str, payload: bytes, *, retained: bool) -> None:
        copies = 2 if self.chaos and self.sim.chance(0.05, "doubled") else 1
        for _ in range(copies):
            delay = self.sim.random.uniform(0.002, 0.05)
            if self.chaos and self.sim.chance(0.05, "delayed"):
                delay += self.sim.random.expovariate(0.5)
            arrival = self.sim.now + delay
            lane = (client.name, topic)
            if not (self.chaos and self.sim.chance(0.05, "reordered")):
                arrival = max(arrival, self.last_delivery.get(lane, 0.0) + 1e-6)
                self.last_delivery[lane] = arrival
            self.sim.at(arrival - self.sim.now, lambda: self._arrive(client, topic, payload, retained))

    def _arrive(self, client: Client, topic: str, payload: bytes, retained: bool) -> None:
        if client.alive:
            client.receive(topic, payload, retained)

    def restart(self, *, forget: bool) -> None:
        """Die and come back, with or without what was stored."""
        self.sim.note(f"broker dies{' and forgets' if forget else ''}")
        self.sim.faults["broker killed, store lost" if forget else "broker killed"] += 1
        clients = list(self.clients.values())
        self.up = False
        for client in clients:
            self.disconnect(client, will=False)
        if forget:
            self.retained.clear()
            self.sessions.clear()
        self.sim.at(self.sim.random.uniform(0.5, 10.0), self._rise)

    def _rise(self) -> None:
        self.up = True


# --- Airflow ----------------------------------------------------------------------------------------------


@dataclass
class Airflow:
    """The Execution API, as far as it keeps states of task instances."""

    states: dict[str, str] = field(default_factory=dict)
    pids: dict[str, Any] = field(default_factory=dict)
    up: bool = True

    def call(self, method: str, path: str, body: str | None) -> tuple[int, str | None]:
        subject, action = path.split("/")[1], path.rsplit("/", 1)[-1]
        value = json.loads(body or "{}")
        state = self.states.get(subject)
        if action == "run":
            if state == "running" and self.pids.get(subject) == value.get("pid"):
                return 200, "{}"
            if state != "queued":
                return 409, json.dumps({"detail": {"previous_state": state}})
            self.states[subject], self.pids[subject] = "running", value.get("pid")
            return 200, "{}"
        if action == "state":
            if state == value["state"]:
                return 200, None
            if state != "running":
                return 409, json.dumps({"detail": {"previous_state": state}})
            self.states[subject] = value["state"]
            return 204, None
        if action == "heartbeat":
            return (204, None) if state == "running" else (409, None)
        return 201, "{}"


# --- devices ----------------------------------------------------------------------------------------------


class Runner:
    """A supervisor with its task, as a script. It outlives the worker process, not its device's power."""

    def __init__(self, device: "Device", job: str, attempt: int, subject: str) -> None:
        self.device, self.job, self.attempt, self.subject = device, job, attempt, subject
        self.sim = device.sim
        self.pid = self.sim.random.randrange(1, 2**30)
        self.alive = True
        self.result: Result | None = None
        self.log = bytearray()
        self.started = False
        #: What it takes to end it before its time: nothing (it hears the 410 of its heartbeat), or a `Force`.
        self.obeys = self.sim.random.choices((0, fx.Force.TERM, fx.Force.KILL_TASK, fx.Force.KILL), (17, 1, 1, 1))[0]
        self._number = 0
        self._then: Callable[[int], None] | None = None
        self._pending: LocalCall | None = None
        self.sim.at(0.2, self._gate)

    def _ask(self, method: str, action: str, body: dict[str, Any], then: Callable[[int], None]) -> None:
        self._number += 1
        self._then = then
        self._pending = LocalCall(
            token=0, id=f"{self.pid:x}-{self._number}", job=self.job, attempt=self.attempt, method=method,
            path=f"task-instances/{self.subject}/{action}", body=json.dumps(body),
        )  # fmt: skip
        self._send()

    def _send(self) -> None:
        """Ask the worker, and again while it is not there: the transport insists."""
        if not self.alive or self._pending is None:
            return
        if not self.device.submit(self, self._pending):
            self.sim.at(0.5, self._send)

    def hung_up(self) -> None:
        self.sim.at(0.5, self._send)

    def answered(self, call_id: str, status: int) -> None:
        if self.alive and self._pending is not None and self._pending.id == call_id and self._then:
            then, self._then, self._pending = self._then, None, None
            then(status)

    def _gate(self) -> None:
        if self.alive:
            self._ask("PATCH", "run", {"hostname": "pi", "unixname": "u", "pid": self.pid}, self._through)

    def _through(self, status: int) -> None:
        if status >= 300:
            self.end(Result(returned=False, reason=f"the gate answered {status}"))
            return
        self.started = True
        self.device.starts[self.job] += 1
        self.sim.note(f"{self.device.name}: user code of {self.job} attempt {self.attempt} starts")
        self.log.extend(b"hello from %s\n" % self.job.encode())
        self._ask("PUT", "rtif", {}, self._work)

    def _work(self, status: int) -> None:
        self.finish_at = self.sim.now + self.sim.random.choice(
            [0.1, 1.0, 5.0, 20.0] if not self.obeys else [20.0, 60.0]
        )
        self._beat()

    def _beat(self) -> None:
        if not self.alive:
            return
        self.log.extend(b"still here %f\n" % self.sim.now)
        if self.sim.now >= self.finish_at:
            self.log.extend(b"bye\n")
            self.device.ended_code.add(self.job)
            self._ask("PATCH", "state", {"state": "success", "end_date": "x"}, self._ended)
            return
        status = self.device.heartbeat(self)
        if status == 410 and not self.obeys:
            self.log.extend(b"killed\n")
            self.end(Result(returned=True, exit_code=-15))
            return
        self.sim.at(1.0, self._beat)

    def _ended(self, status: int) -> None:
        if status < 300:
            self.device.promised.add(self.job)
        self.end(Result(returned=True, exit_code=0))

    def end(self, result: Result | None) -> None:
        if not self.alive:
            return
        self.alive = False
        self.result = result
        self.sim.at(0.05, lambda: self.device.runner_ended(self))

    def signal(self, force: fx.Force) -> None:
        """Be made to end. Its supervisor lives to say so, unless it is killed too."""
        if self.alive and force >= self.obeys:
            self.sim.faults[f"task ended by {force.name}"] += 1
            self.log.extend(b"ended by %s\n" % force.name.encode())
            self.end(None if force is fx.Force.KILL else Result(returned=True, exit_code=-15))

    def kill(self) -> None:
        """SIGKILL, or the power is gone: nothing is written down."""
        self.alive = False


class Device:
    """A worker process around the real `Core`, its journal, its runners, its link."""

    def __init__(self, sim: Simulation, broker: Broker, name: str, *, slots: int = 2, journal: str = "") -> None:
        self.sim, self.broker, self.name, self.slots = sim, broker, name, slots
        self.starts: Counter[str] = Counter()
        self.ended_code: set[str] = set()
        self.promised: set[str] = set()  # jobs whose final state was answered with success to the runner
        self.power_cuts: set[str] = set()  # jobs whose runner died with the power
        self.journals = 0
        self.skew = sim.random.uniform(-3600, 3600)
        self._lives = 0
        self.process = 0
        self.up = False
        self.cut_until = 0.0
        self.new_journal()
        self.runners: dict[tuple[str, int], Runner] = {}
        self.client: Client | None = None
        self.tokens: dict[int, Runner] = {}
        self._retry = 0.0

    def new_journal(self) -> None:
        self.journals += 1
        self.journal_name = f"journal-{self.name}-{self.journals}"
        self.meta: dict[str, str] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: dict[int, bytes] = {}
        self.calls: dict[str, tuple[str, int, dict[str, Any]]] = {}

    # --- process ------------------------------------------------------------------------------------------

    @property
    def clock(self) -> float:
        """The worker's own clock: it starts anywhere."""
        return self.sim.now + 1000.0

    def start(self) -> None:
        self._lives += 1
        self.up = True
        config = Config(
            name=self.name, instance=f"{self.name}-{self._lives}", journal=self.journal_name, slots=self.slots,
            heartbeat_interval=5.0, resend_after=5.0, log_rate=10**6,
        )  # fmt: skip
        calls = sorted(self.calls.values(), key=lambda item: item[1])
        restored = Restored(
            meta=dict(self.meta),
            jobs=[json.loads(json.dumps(record)) for record in self.jobs.values()],
            events=dict(sorted(self.events.items())),
            calls=[(job, json.loads(json.dumps(record))) for job, _, record in calls],
        )
        self.core = Core(config, restored)
        self.core.set_clock(EPOCH_TIME + self.skew)
        for job in list(self.core.state.jobs.values()):
            runner = self.runners.get((job.id, job.attempt))
            alive = runner is not None and runner.alive
            result = runner.result if runner is not None else None
            size = len(runner.log) if runner is not None else 0
            self.core.found(job.id, alive=alive, result=result, log_size=size, now=self.clock)
        self._perform()
        self._tick(self._lives)

    def crash(self, *, power: bool) -> None:
        """Die. With the power everything on the device dies but what is on its disk."""
        self.sim.faults["power cut" if power else "worker killed"] += 1
        self.sim.note(f"{self.name}: {'power cut' if power else 'worker killed'}")
        self.up = False
        self._lives += 1
        self._drop_link(will=True)
        if power:
            for runner in self.runners.values():
                if runner.alive:
                    runner.kill()
                    self.power_cuts.add(runner.job)
        for runner in self.runners.values():
            if runner.alive:
                runner.hung_up()
        self.sim.at(self.sim.random.uniform(0.5, 15.0), self.start)

    def _tick(self, life: int) -> None:
        if not self.up or life != self._lives:
            return
        if self.client is None and self.sim.now >= self._retry and self.sim.now >= self.cut_until:
            self._connect()
        self.core.tick(self.clock)
        self._perform()
        if self.up and life == self._lives:
            self.sim.at(min(1.0, max(0.05, self.core.deadline(self.clock) - self.clock)), lambda: self._tick(life))

    # --- link ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        topic, payload = self.core.connecting(self.clock)
        self._perform()
        if not self.up:
            return
        wanted = set(TOPICS.of_worker(self.name)) - {TOPICS.jobs_of(self.name)}
        suffix = f"/jobs/{self.name}"
        client = Client(
            self.name, lambda name: name in wanted or name.endswith(suffix), self._receive, (topic, payload), self._lost
        )
        self.client = client
        if not self.broker.connect(client, persistent=True):
            self.client = None
            self._retry = self.sim.now + self.sim.random.uniform(0.5, 3.0)
            return
        self.core.connected(self.clock)
        self._perform()

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        if self.up:
            self.core.message(topic, payload, self.clock, retained=retained)
            self._perform()

    def _lost(self) -> None:
        self.client = None
        self._retry = self.sim.now + self.sim.random.uniform(0.2, 3.0)
        if self.up:
            self.core.disconnected(self.clock)
            self._perform()

    def _drop_link(self, *, will: bool) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.lost = lambda: None
            self.broker.disconnect(client, will=will)

    def cut(self, seconds: float) -> None:
        """The link is gone for a while; the broker notices by the keepalive and publishes the will."""
        self.sim.note(f"{self.name}: link cut for {seconds:.1f} s")
        self.sim.faults["link cut"] += 1
        self.cut_until = self.sim.now + seconds
        if self.client is not None:
            self.broker.disconnect(self.client, will=True)

    # --- effects ------------------------------------------------------------------------------------------

    def _perform(self) -> None:
        while effects := self.core.take():
            if self.broker.chaos and self.sim.chance(0.0005, "killed before the journal's commit"):
                self.crash(power=self.sim.chance(0.3))
                return
            for effect in effects:
                self._keep(effect)
            if self.broker.chaos and self.sim.chance(0.0005, "killed after the journal's commit"):
                self.crash(power=self.sim.chance(0.3))
                return
            for effect in effects:
                self._act(effect)
                if not self.up:
                    return

    def _keep(self, effect: fx.Effect) -> None:
        match effect:
            case fx.SaveMeta(key, value):
                self.meta[key] = value
            case fx.SaveJob(job, record):
                self.jobs[job] = json.loads(json.dumps(record))
            case fx.DropJob(job):
                self.jobs.pop(job, None)
            case fx.SaveEvent(seq, payload):
                self.events[seq] = payload
            case fx.DropEvents(upto):
                self.events = {seq: payload for seq, payload in self.events.items() if seq > upto}
                self.meta["acked"] = str(upto)
            case fx.SaveCall(call, job, position, record):
                self.calls[call] = (job, position, json.loads(json.dumps(record)))
            case fx.DropCall(call):
                self.calls.pop(call, None)

    def _act(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Publish(topic, payload, retain):
                if self.client is not None:
                    self.broker.publish(self.name, topic, payload, retain=retain)
            case fx.Answer(token, call_id, status, _, _):
                runner = self.tokens.pop(token, None)
                if runner is not None:
                    self.sim.at(0.01, lambda: runner.answered(call_id, status))
            case fx.Launch(run):
                self._launch(run)
            case fx.Signal(job, attempt, force):
                if (job, attempt) in self.runners:
                    self.runners[job, attempt].signal(force)
            case fx.AppendLog(job, attempt, line):
                if (job, attempt) in self.runners:
                    self.runners[job, attempt].log.extend(line)
            case fx.ReadLog(job, attempt, offset, limit):
                runner = self.runners.get((job, attempt))
                data = bytes(runner.log[offset : offset + limit]) if runner else b""
                self.core.log_read(job, attempt, offset, data, self.clock)
            case fx.Reconnect():
                if self.client is not None:
                    self.broker.disconnect(self.client, will=True)

    def _launch(self, run: Any) -> None:
        known = self.runners.get((run.job, run.attempt))
        if known is not None and known.alive:
            return  # the lock of the attempt: the first one runs on
        self.runners[run.job, run.attempt] = Runner(self, run.job, run.attempt, run.workload["subject"])

    # --- runners ------------------------------------------------------------------------------------------

    def submit(self, runner: Runner, call: LocalCall) -> bool:
        if not self.up:
            return False
        token = self.sim.random.randrange(1, 2**60)
        self.tokens[token] = runner
        fields = {name: getattr(call, name) for name in call.__dataclass_fields__}
        self.core.call(LocalCall(**(fields | {"token": token})), self.clock)
        self._perform()
        return True

    def heartbeat(self, runner: Runner) -> int:
        """A heartbeat: answered by the worker, or by the transport itself when the worker is not there."""
        if not self.up:
            return 204
        job = self.core.state.jobs.get(runner.job)
        if job is None or job.attempt != runner.attempt or job.cancel is not None:
            return 410
        return 204

    def runner_ended(self, runner: Runner) -> None:
        if self.up:
            self.core.ended(runner.job, runner.attempt, runner.result, len(runner.log), self.clock)
            self._perform()
