"""The real links of bridge and worker, each in a thread of its own, so that a test can use them like plain clients.

with BridgeEnd(broker.url("bridge"), "5") as bridge, WorkerEnd(broker.url("edge-1"), "edge-1", "5") as worker:
    bridge.publish(order); worker.wait(order.topic, order.payload)
"""

# aiomqtt goes first: it imports all of paho, of which the worker's link else leaves out what a device needs not.
import asyncio  # isort: skip
import aiomqtt  # noqa: F401  # isort: skip

import os
import queue
import selectors
import tempfile
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from airflow_mqtt.bridge.mqtt.link import Link as BridgeLink
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.config.bridge import SETTINGS as BRIDGE_SETTINGS
from airflow_mqtt.config.bridge import BridgeSettings
from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.protocol.messages import BridgeStatus, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind, Topics
from airflow_mqtt.worker.core import Config, Core
from airflow_mqtt.worker.health import Health, Readings
from airflow_mqtt.worker.journal import Journal
from airflow_mqtt.worker.local_api import LocalApi
from airflow_mqtt.worker.loop import Loop
from airflow_mqtt.worker.mqtt.link import Link as WorkerLink
from airflow_mqtt.worker.mqtt.link import LinkEvent
from airflow_mqtt.worker.mqtt.probe import Outcome, Verdict
from airflow_mqtt.worker.runners import Runners
from airflow_mqtt.worker.settings import SETTINGS as WORKER_SETTINGS
from airflow_mqtt.worker.settings import WorkerSettings
from demo.processes import wait_for

#: Seconds. Only a bound: a NATS cluster on a busy machine elects a leader for each of many subscriptions.
PATIENCE = 180.0

TOPICS = Topics()

Message = tuple[str, bytes, bool]


def _resolved(settings: Any, given: dict[str, Any]) -> dict[str, Any]:
    return resolve(settings, [Source(lambda one: one.flag, {name: str(value) for name, value in given.items()})])


class End(ABC):
    """One end of the wire, in a thread of its own. `received` holds (topic, payload, retained) in the order of arrival."""

    _thread: threading.Thread

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.ups = 0  # connections made
        self.downs = 0  # connections lost, or not made

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in list(self.received) if name == topic]

    def wait(self, topic: str, payload: bytes | None = None, timeout: float = PATIENCE) -> Message:
        """Wait until `topic` (with `payload`, where given) has arrived."""

        def there() -> Message | None:
            fitting = (m for m in list(self.received) if m[0] == topic and payload in (None, m[1]))
            return next(fitting, None)

        try:
            return wait_for(there, what=f"a message on {topic}", timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; arrived: {[name for name, _, _ in self.received][-20:]}") from None

    def wait_up(self, count: int = 1, timeout: float = PATIENCE) -> None:
        wait_for(lambda: self.ups >= count, what=f"connection {count}", timeout=timeout)

    def start(self) -> Self:
        self._thread.start()
        return self

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_up()
        except TimeoutError:
            self.__exit__()
            raise
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...


class BridgeEnd(End):
    """The bridge's link. As the bridge does, it says that it leads as soon as it is connected, and hears its echo."""

    def __init__(self, url: str, version: str, *, epoch: int = 1, instance: str = "") -> None:
        super().__init__()
        self.instance = instance or f"test-{uuid.uuid4().hex[:8]}"
        self.epoch = epoch
        given = {"broker_url": url, "mqtt_version": version, "instance": self.instance}
        needed = {"database_url": "sqlite:////dev/null", "execution_api_url": "http://127.0.0.1:1/"}
        self.link = BridgeLink(
            BridgeSettings.of(_resolved(BRIDGE_SETTINGS, given | needed)), TOPICS, will=self.status("offline")
        )
        self.deaf = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="bridge's link", daemon=True)

    def status(self, state: str) -> Outgoing:
        status = BridgeStatus(state=state, instance=self.instance, epoch=self.epoch, ts=0.0)
        return Outgoing(TOPICS.bridge_status, status.encode(), retain=True)

    @property
    def v5(self) -> bool:
        return self.link._v5

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(60)

    def _run(self) -> None:
        self._task = self._loop.create_task(self.link.run(self._receive, self._connected, self._lost))
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        if TOPICS.parse(topic).kind is TopicKind.BRIDGE_ECHO:
            self.link.echoed()
        self.received.append((topic, payload, retained))

    def _connected(self) -> None:
        self.link.send([self.status("leading")])
        self.ups += 1

    def _lost(self) -> None:
        self.downs += 1

    def publish(self, *messages: Outgoing, timeout: float = 60) -> None:
        asyncio.run_coroutine_threadsafe(self.link.publish(list(messages)), self._loop).result(timeout)

    def unsubscribe(self, *filters: str) -> None:
        """Make the broker forget these subscriptions, of which the link knows nothing."""
        asyncio.run_coroutine_threadsafe(self.link._client.unsubscribe(list(filters)), self._loop).result(20)


class _Threaded(End):
    """Something with a selector that turns round in a thread. `do` runs a function there."""

    def __init__(self) -> None:
        super().__init__()
        self._commands: queue.Queue[tuple[Callable[[], Any], queue.Queue[Any]]] = queue.Queue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker's link", daemon=True)

    @abstractmethod
    def _run(self) -> None: ...

    def _obey(self) -> None:
        while not self._commands.empty():
            command, answer = self._commands.get()
            answer.put(command())

    def do(self, command: Callable[[], Any]) -> Any:
        answer: queue.Queue[Any] = queue.Queue()
        self._commands.put((command, answer))
        return answer.get(timeout=PATIENCE)

    def end(self, command: Callable[[], Any]) -> None:
        """Run `command` as the last thing."""

        def last() -> None:
            self._stopping.set()
            command()

        if self._thread.is_alive():
            self.do(last)
            self._thread.join(60)


class WorkerEnd(_Threaded):
    """The worker's link."""

    def __init__(self, url: str, name: str, version: str, **settings: Any) -> None:
        super().__init__()
        self.name = name
        self.connection = 0
        self.taken_over = False
        self._selector = selectors.DefaultSelector()
        given = {"broker_url": url, "name": name, "mqtt_version": version, "state_dir": "/nonexistent", **settings}
        configured = WorkerSettings.of(_resolved(WORKER_SETTINGS, given))
        self.link = WorkerLink(configured, TOPICS.of_worker(name), self._selector, self._begin)

    def topic(self, kind: TopicKind) -> str:
        return TOPICS.worker(self.name, kind)

    def status(self, state: str, reason: str = "") -> bytes:
        status = WorkerStatus(
            state=state,
            reason=reason,
            connection=self.connection,
            instance=self.name,
            ts=0.0,
            slots=1,
            free=1,
            running=0,
        )
        return status.encode()

    def _begin(self) -> tuple[str, bytes]:
        self.connection += 1
        return self.topic(TopicKind.STATUS), self.status("offline", "lost")

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._obey()
            now = time.monotonic()
            if self._stopping.is_set():
                return
            if self.link.due(now):
                self.link.connect(now)
            for key, mask in self._selector.select(0.01):
                key.data(mask)
            self.link.service(time.monotonic())
            messages, events = self.link.take()
            self.received += [(message.topic, message.payload, message.retained) for message in messages]
            self.ups += events.count(LinkEvent.UP)
            self.downs += events.count(LinkEvent.DOWN)
            self.taken_over = self.taken_over or LinkEvent.TAKEN_OVER in events

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.do(lambda: self.link.publish(topic, payload, retain=retain))

    def vanish(self) -> None:
        """Go without a word, as a power cut does."""
        self.end(self.link.drop)

    def __exit__(self, *_: object) -> None:
        self.end(self.link.disconnect)


class LivingWorker(_Threaded):
    """The worker's link with its core and its journal: everything of a worker but its process."""

    def __init__(self, url: str, name: str, version: str, **settings: Any) -> None:
        super().__init__()
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="amqtt-")
        state = Path(self._folder.name)
        (state / "jobs").mkdir()
        given = {"broker_url": url, "name": name, "mqtt_version": version, "state_dir": state, **settings}
        self._settings = WorkerSettings.of(_resolved(WORKER_SETTINGS, given))

    def _run(self) -> None:
        state = self._settings.state_dir
        with Journal(state / "journal.sqlite") as journal, selectors.DefaultSelector() as selector:
            restored = journal.load()
            core = Core(self._config(restored.meta["journal"]), restored)
            runners = Runners(state, self._settings.python, 300, selector, max_call_bytes=65536)
            local_api = LocalApi(state / "worker.sock", selector, admits=runners.keys.fit, max_bytes=2**20)
            self.link = WorkerLink(
                self._settings, TOPICS.of_worker(self.name), selector, lambda: loop.begin_connection()
            )
            health = Health(Readings(state / "journal.sqlite"), lambda: self.link.traffic, None, 0.0)
            loop = Loop(core, journal, self.link, local_api, runners, selector, self._probe, health)
            loop.recover()
            loop._perform()
            was_up = False
            while not self._stopping.is_set():
                loop._round()
                self.ups += self.link.up and not was_up
                was_up = self.link.up
                self._obey()
            local_api.close()
            runners.close()

    def _probe(self, _now: float) -> Any:
        """Nobody else has the name."""
        return SimpleNamespace(service=lambda _now: Outcome(Verdict.FREE), deadline=lambda now: now)

    def _config(self, journal: str) -> Config:
        return Config(
            name=self.name, instance=os.urandom(8).hex(), journal=journal, queues=("default",), slots=1,
            kinds=("airflow",), labels={}, platform={}, version="0", root="airflow",
            heartbeat_interval=self._settings.heartbeat_interval, drain_timeout=1, kill_grace=1, log_rate=65536,
            max_message_bytes=self._settings.max_message_bytes,
        )  # fmt: skip

    def unsubscribe_all(self) -> None:
        self.do(lambda: self.link._connection.client.unsubscribe(TOPICS.of_worker(self.name)))

    def __exit__(self, *_: object) -> None:
        self.end(lambda: self.link.disconnect())
        self._folder.cleanup()
