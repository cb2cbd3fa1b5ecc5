"""A bridge around the real `Writer`, `Gateway`, `Inbox` and their scripts, on the memory database and the fake broker."""

from collections.abc import Callable
from typing import Any

from broker import Broker, Client
from execution_api import Airflow
from memory import MemoryDatabase, MemoryLedger
from tasks import Future, run
from world import EPOCH_TIME, TOPICS, Simulation

from airflow_mqtt.bridge.calls import heartbeats
from airflow_mqtt.bridge.calls.execution_api import Answer, UnavailableError
from airflow_mqtt.bridge.calls.gate import Call
from airflow_mqtt.bridge.calls.gateway import Gateway
from airflow_mqtt.bridge.dispatch import timeouts
from airflow_mqtt.bridge.dispatch.duties import Duties
from airflow_mqtt.bridge.dispatch.reports import Heard, Reports
from airflow_mqtt.bridge.leader import save_interval, taken_over
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.inbox import Inbox, Opened
from airflow_mqtt.bridge.mqtt.outbox import Messages
from airflow_mqtt.bridge.writer import Writer
from airflow_mqtt.config.bridge import SETTINGS, BridgeSettings
from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.database.errors import DeposedError, is_transient
from airflow_mqtt.protocol.messages import PARCELS, BridgeState, BridgeStatus

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


async def _at_once(work: Callable[[], bytes]) -> bytes:
    return work()


class SimBridge:
    """A leader. It may be killed between commit and publication, or fall asleep and wake up deposed."""

    def __init__(
        self, sim: Simulation, broker: Broker, database: MemoryDatabase, airflow: Airflow, number: int
    ) -> None:
        self.sim, self.broker, self.db, self.airflow = sim, broker, database, airflow
        self.name = f"bridge-{number}"
        database.epoch += 1
        self.epoch = database.epoch
        self.alive, self.asleep = True, False
        self.settings = BridgeSettings.of(VALUES | {"instance": self.name})
        self.messages = Messages(TOPICS, 13)
        self.ledger = MemoryLedger(database, self.epoch, self.database_pause, self.fate)
        self.inbox = Inbox(TOPICS, 10**6, clock=lambda: self.sim.now)
        self.client: Client | None = None
        self.delayed: list[Callable[[], None]] = []
        self.turning = self.busy = False
        self.round_at = 0.0
        self.writer: Writer | None = None
        sim.note(f"{self.name} leads with epoch {self.epoch}")
        self._run(self._lead())

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
        self.sim.at(seconds, self._wake_up)

    def _wake_up(self) -> None:
        self.asleep = False
        work, self.delayed = self.delayed, []
        for action in work:
            if self.alive:
                action()

    def awake(self, action: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.asleep:
            self.delayed.append(action)
        else:
            action()

    def pause(self, seconds: float) -> Future:
        """What is done after so many seconds, if this bridge lives then; later, if it sleeps."""
        future = Future()
        self.sim.at(seconds, lambda: self.awake(lambda: future.set_result(None)))
        return future

    def database_pause(self) -> Future:
        """How long a statement takes. Others commit meanwhile."""
        slow = self.broker.chaos and self.sim.chance(0.05, "slow transaction")
        return self.pause(self.sim.random.uniform(0.2, 3.0) if slow else self.sim.random.uniform(0.0005, 0.005))

    def fate(self, when: str) -> Future:
        """What becomes of this bridge, or of its connection, around a commit."""
        future = Future()
        chaos = self.broker.chaos
        if (when == "before" and chaos and self.sim.chance(0.0008, "bridge killed before commit")) or (
            when == "after" and chaos and self.sim.chance(0.0008, "bridge killed between commit and publication")
        ):
            self.die()
        elif when == "after" and chaos and self.sim.chance(0.002, "answer to a commit lost"):
            future.set_exception(ConnectionError("the answer was lost"))
        else:
            future.set_result(None)
        return future

    def _run(self, work: Any, then: Callable[[], None] = lambda: None) -> None:
        def ended(error: BaseException | None) -> None:
            if isinstance(error, DeposedError):
                self.sim.faults["deposed leader fenced"] += 1
                self.die()
            elif error is not None and not is_transient(error):
                raise error
            elif error is not None:
                self.sim.at(1.0, lambda: self.awake(then))
            else:
                then()

        run(work, ended)

    async def _lead(self) -> None:
        snapshot = await self.ledger.snapshot()
        by = f"bridge:{self.name}"
        self.writer = Writer(
            self.ledger,
            Living.of(snapshot, self._rules),
            Reports(self.messages, self.epoch, by, self.settings.log_limit),
            Duties(self.messages, by, self._rules, self.settings.accept_timeout, self.settings.retention),
            taken_over(snapshot.workers, self.clock, save_interval(self.settings)),
            clock=lambda: self.clock,
            future=Future,
            publish=self._publish,
            wake=lambda: self._turn_soon(0.005),
            max_message_bytes=10**6,
            save_interval=save_interval(self.settings),
        )
        self.gateway = Gateway(
            self.writer, self, self.messages, publish=self._publish, sleep=self.pause, clock=lambda: self.sim.now,
            elsewhere=_at_once, max_message_bytes=10**6,
        )  # fmt: skip
        self._look()
        self._beat()
        self._listen_for_news()

    def _rules(self, job: Any) -> timeouts.Rules:
        settings = self.settings
        return timeouts.Rules(
            settings.accept_timeout, settings.accept_tries, settings.start_timeout, settings.lost_after_of(job.queue)
        )

    # --- broker -------------------------------------------------------------------------------------------

    def _status(self, state: BridgeState) -> bytes:
        return BridgeStatus(
            state=state.value, instance=self.name, epoch=self.epoch, ts=self.clock, features=[PARCELS]
        ).encode()

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
            self.broker.publish(self.name, TOPICS.bridge_status, self._status(BridgeState.LEADING), retain=True)
            self.writer.connect(self.clock)

    def _lost(self) -> None:
        self.client = None
        self.writer.lose(self.clock)

    def _publish(self, out: list[Any]) -> None:
        for message in out:
            if self.client is not None:
                self.broker.publish(self.name, message.topic, message.payload, retain=message.retain)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        self.awake(lambda: self._put(topic, payload, retained))

    def _put(self, topic: str, payload: bytes, retained: bool) -> None:
        self.inbox.put(topic, payload, retained=retained)
        self._turn_soon(0.01)

    # --- work: as `Leader` does it ------------------------------------------------------------------------

    def _look(self) -> None:
        self.writer.outage.look(self.clock)
        if self.client is None:
            self._connect()
        self._turn()
        if self.alive:
            self.sim.at(1.0, lambda: self.awake(self._look))

    def _listen_for_news(self) -> None:
        """`NOTIFY`, as often as makes no difference; now and then it is lost."""
        if any(row["news"] for row in self.db.rows.values()) and not self.sim.chance(0.1 if self.broker.chaos else 0.0):
            self.writer.look_for_news()
        if self.alive:
            self.sim.at(0.3, lambda: self.awake(self._listen_for_news))

    def _turn_soon(self, seconds: float) -> None:
        if not self.turning:
            self.turning = True
            self.sim.at(seconds, lambda: self.awake(self._turn))

    def _turn(self) -> None:
        self.turning = False
        if self.busy:
            return
        for raw in self.inbox.take(1000):
            self._hand_on(self.inbox.decode(raw))
            if raw.is_large:
                self.inbox.done(raw)
        if self.writer.has_work(self.clock):
            self.busy = True
            self.round_at = self.clock
            self._run(self.writer.round(), self._round_ended)

    def _round_ended(self) -> None:
        self.busy = False
        for name, worker in self.writer.living.workers.items():
            if worker.seen_at == self.round_at:
                self.db.heard.setdefault(name, []).append(self.round_at - EPOCH_TIME)
        self._turn_soon(0.005)

    def _hand_on(self, message: Any) -> None:
        match message:
            case Heard() as heard:
                self.writer.receive(heard)
            case Call() as call if work := self.gateway.take(call):
                self._run(work)
            case Opened() as parcel:
                for report in parcel.reports:
                    self.writer.receive(report)
                for work in filter(None, (self.gateway.take(*chain) for chain in parcel.chains)):
                    self._run(work)

    def _beat(self) -> None:
        """Heartbeats to Airflow; those it refuses cancel the job."""
        for job in heartbeats.wanted(self.writer.living.jobs.values()) if self.airflow.up else []:
            status, _ = self.airflow.call("PUT", f"task-instances/{job.subject}/heartbeat", None)
            if status == 409 and not self.gateway.is_ending(job.id):
                self.writer.stop_job(job, "airflow: heartbeat answered 409")
        if self.alive:
            self.sim.at(5.0, lambda: self.awake(self._beat))

    async def call(self, token: str, method: str, path: str, **values: Any) -> Answer:
        """The Execution API, as the gateway knows it."""
        await self.pause(0.02)
        if not self.airflow.up:
            raise UnavailableError("down")
        body = values["body"]
        status, text = self.airflow.call(method, path, body.decode() if body else None)
        if self.broker.chaos and self.sim.chance(0.002, "bridge killed after Airflow answered"):
            self.die()
            await Future()
        return Answer(status, {}, (text or "").encode())
