"""A device: a worker process around the real `Core`, a disk, runners, a link, and power that may go."""

from collections import Counter, deque
from typing import Any, get_args

from broker import Broker, Client
from disk import Disk, Image, Runners
from runner import Runner
from world import EPOCH_TIME, TOPICS, Simulation

from airflow_mqtt.worker.core import Config, Core
from airflow_mqtt.worker.core import effects as fx
from airflow_mqtt.worker.core.calls import LocalCall

JOURNAL_EFFECTS = get_args(fx.JournalEffect)


class Device:
    """A worker process around the real `Core`, its journal, its runners, its link."""

    def __init__(self, sim: Simulation, broker: Broker, name: str, *, slots: int = 2) -> None:
        self.sim, self.broker, self.name, self.slots = sim, broker, name, slots
        self.labels = {"camera": "yes"} if name == "edge-0" else {}
        self.starts: Counter[str] = Counter()
        self.started_at: dict[str, list[float]] = {}
        self.ended_code: set[str] = set()
        self.promised: set[str] = set()  # jobs whose final state was answered with success to the runner
        self.power_cuts: set[str] = set()  # jobs whose runner died with the power
        self.written: list[Runner] = []  # every runner that there was, with all that it wrote
        self.went_back: set[str] = set()  # jobs of old images that were put back
        self.disks = 0
        self.boots = 1
        self.skew = sim.random.uniform(-3600, 3600)
        self._lives = 0
        self.up = False
        self.retired = False
        self.cut_until = 0.0
        self.runners: Runners = {}
        self.insert_new_disk()
        self.client: Client | None = None
        self.tokens: dict[int, Runner] = {}
        self._retry = 0.0

    # --- disk ---------------------------------------------------------------------------------------------

    def insert_new_disk(self) -> None:
        self.disks += 1
        self.disk = Disk({"journal": f"journal-{self.name}-{self.sim.random.randrange(2**30):x}"})
        self.runners.clear()
        self.images = deque([self.image()], maxlen=300)

    def image(self) -> Image:
        return Image(self.disk, self.runners)

    def put_back(self, image: Image) -> None:
        """Power is off: put another disk in, or the same as it once was."""
        self.disk, self.runners = image.copy()
        self.went_back |= set(self.disk.jobs)
        self.images = deque([self.image()], maxlen=300)

    # --- process ------------------------------------------------------------------------------------------

    @property
    def clock(self) -> float:
        """The worker's own clock: it starts anywhere."""
        return self.sim.now + 1000.0

    def start(self) -> None:
        if self.retired:
            return
        self._lives += 1
        self.up = True
        config = Config(
            name=self.name, instance=f"{self.name}-{self.disks}-{self._lives}", journal=self.disk.meta["journal"],
            boot=str(self.boots), slots=self.slots, labels=self.labels, heartbeat_interval=5.0, resend_after=5.0, log_rate=10**6,
        )  # fmt: skip
        self.core = Core(config, self.disk.load())
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
            self.lose_power()
        for runner in self.runners.values():
            if runner.alive:
                runner.hung_up()
        self.sim.at(self.sim.random.uniform(0.5, 15.0), self.start)

    def lose_power(self) -> None:
        self.boots += 1
        for runner in self.runners.values():
            if runner.alive:
                runner.kill()
                self.power_cuts.add(runner.job)

    def retire(self) -> None:
        """Be switched off for ever."""
        if self.up:
            self.crash(power=True)
        self.lose_power()
        self.retired = True

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
        self.cut_until = max(self.cut_until, self.sim.now + seconds)
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
            if any(isinstance(effect, JOURNAL_EFFECTS) for effect in effects):
                self.images.append(self.image())
            if self.broker.chaos and self.sim.chance(0.0005, "killed after the journal's commit"):
                self.crash(power=self.sim.chance(0.3))
                return
            for effect in effects:
                self._act(effect)
                if not self.up:
                    return

    def _keep(self, effect: fx.Effect) -> None:
        self.disk.keep(effect)

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
                log = bytes(runner.log) if runner else b""
                self.core.log_read(job, attempt, offset, log[offset : offset + limit], self.clock, size=len(log))
            case fx.Reconnect():
                if self.client is not None:
                    self.broker.disconnect(self.client, will=True)

    def _launch(self, run: Any) -> None:
        known = self.runners.get((run.job, run.attempt))
        if known is not None and known.alive:
            return  # the lock of the attempt: the first one runs on
        runner = Runner(self, run.job, run.attempt, run.workload["subject"])
        self.runners[run.job, run.attempt] = runner
        self.written.append(runner)

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
