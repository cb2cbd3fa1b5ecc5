"""While a connection to the broker is under way, the worker does all else: it has one thread, and tasks that wait."""

import selectors
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.protocol.messages import Run
from airflow_mqtt.protocol.topics import Topics
from airflow_mqtt.worker import loop as loops
from airflow_mqtt.worker.core import Config, Core
from airflow_mqtt.worker.health import Health, Readings
from airflow_mqtt.worker.journal import Journal
from airflow_mqtt.worker.local_api import LocalApi
from airflow_mqtt.worker.loop import Loop
from airflow_mqtt.worker.mqtt import connection as connections
from airflow_mqtt.worker.mqtt.connection import Phase
from airflow_mqtt.worker.mqtt.link import Link
from airflow_mqtt.worker.mqtt.probe import Probe
from airflow_mqtt.worker.runner.transport import BASE_URL, WorkerTransport
from airflow_mqtt.worker.runners import Runners
from airflow_mqtt.worker.settings import SETTINGS, WorkerSettings
from servers import wait_for
from worker_bench import workload

NAME = "edge-1"
JOB = str(uuid.uuid4())


class Worker:
    """The parts of a worker with one job that runs, and a runner of it that we play; `turn` is a round of its loop."""

    def __init__(self, state_dir: Path, url: str, stack: ExitStack) -> None:
        flags = {"broker_url": url, "name": NAME, "state_dir": str(state_dir)}
        settings = WorkerSettings.of(resolve(SETTINGS, [Source(lambda setting: setting.flag, flags)]))
        (state_dir / "jobs").mkdir(parents=True)
        selector = stack.enter_context(selectors.DefaultSelector())
        self.journal = stack.enter_context(Journal(state_dir / "journal.sqlite"))
        config = Config(
            name=NAME, instance="a", journal=self.journal.load().meta["journal"], queues=("default",), slots=1,
            kinds=("airflow",), labels={}, platform={}, version="0", root="airflow", heartbeat_interval=30,
            drain_timeout=1, kill_grace=1, log_rate=65536, max_message_bytes=65536,
        )  # fmt: skip
        self.core = Core(config)
        self.runners = Runners(state_dir, settings.python, 300, selector, max_call_bytes=65536)
        stack.callback(self.runners.close)
        local_api = LocalApi(state_dir / "worker.sock", selector, admits=self.runners.keys.fit, max_bytes=2**20)
        stack.callback(local_api.close)
        self.link = Link(settings, Topics().of_worker(NAME), selector, lambda: self.loop.begin_connection())
        stack.callback(self.link.drop)
        self.loop = Loop(
            self.core, self.journal, self.link, local_api, self.runners, selector,
            lambda now: Probe(settings, selector, frozenset({"a"}), "a", now, v5=True),
            Health(Readings(state_dir / "journal.sqlite"), lambda: self.link.traffic, None, 0.0),
        )  # fmt: skip
        stack.callback(lambda: self.loop._probe is None or self.loop._probe.drop())
        self._runner_plays(state_dir)

    def _runner_plays(self, state_dir: Path) -> None:
        self.workload = workload("quick")
        self.runners.launch = lambda run: self.runners.files(run.job, run.attempt).directory.mkdir(parents=True)
        order = Run(job=JOB, attempt=1, kind="airflow", slots=1, workload=self.workload)
        self.core.message(Topics().jobs("default", NAME), order.encode(), 0.0, retained=False)
        self.turn()
        key = self.runners.keys.give(JOB, 1)
        self.client = httpx.Client(base_url=BASE_URL, transport=WorkerTransport(state_dir, JOB, 1, key=key), timeout=60)

    def turn(self) -> None:
        self.loop._perform()
        self.loop._round()
        self.loop._perform()

    def ask(self, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
        """Make the runner's call in a thread, and turn the loop until it is answered."""
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(self.client.request(method, path, json=body)))
        asking.start()
        while asking.is_alive():
            self.turn()
        return answers[0]

    def under_way(self) -> bool:
        probe = self.loop._probe
        return probe is not None and probe._connection.phase is not Phase.ENDED

    def answers_a_runner(self) -> None:
        """Heartbeats and a final state; the latter is in the journal when it is answered."""
        task = f"task-instances/{self.workload['ti']['id']}"
        assert self.ask("PUT", f"{task}/heartbeat", {"hostname": "here", "pid": 1}).status_code == 204
        ended = {"state": "success", "end_date": "2026-01-01T00:00:00Z"}
        assert self.ask("PATCH", f"{task}/state", ended).status_code == 204
        kept = repr(self.journal.load().calls)
        assert JOB in kept
        assert f"{task}/state" in kept


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(loops, "LONGEST_SLEEP", 0.05)  # a turn ends although nothing happens
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def swallows_syns(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of a listener whose backlog is full: it neither takes nor refuses a connection."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT", 60)
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    for _ in range(8):
        filling = stack.enter_context(socket.socket())
        filling.setblocking(False)
        filling.connect_ex(address)
    with socket.socket() as one_more:
        one_more.settimeout(0.3)
        with pytest.raises(TimeoutError):
            one_more.connect(address)
    return address[1]


def test_a_runner_is_answered_while_no_syn_is(tmp_path: Path, swallows_syns: int, stack: ExitStack) -> None:
    worker = Worker(tmp_path / "state", f"mqtt://127.0.0.1:{swallows_syns}", stack)
    wait_for(lambda: worker.turn() or worker.under_way(), what="an attempt")
    probe = worker.loop._probe
    worker.answers_a_runner()
    assert worker.loop._probe is probe
    assert probe._connection.phase is Phase.DIALING
    worker.loop._must_probe = False  # as after a short outage
    probe.drop()
    worker.loop._probe = None
    wait_for(lambda: worker.turn() or worker.link.phase is Phase.DIALING, what="an attempt of the link")
    attempt = worker.link._connection
    task = f"task-instances/{worker.workload['ti']['id']}"
    assert worker.ask("PUT", f"{task}/heartbeat", {"hostname": "here", "pid": 1}).status_code == 204
    assert worker.link._connection is attempt
    assert worker.link.phase is Phase.DIALING


def test_a_runner_is_answered_while_the_resolver_hangs(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = threading.Event(), threading.Event()
    stack.callback(go.set)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (asked.set(), go.wait(60), [])[2])
    worker = Worker(tmp_path / "state", "mqtt://broker.somewhere", stack)
    wait_for(lambda: worker.turn() or asked.is_set(), what="a question to the resolver")
    worker.answers_a_runner()
    assert worker.under_way()
    assert not go.is_set()


def test_a_runner_is_answered_while_the_broker_says_nothing(tmp_path: Path, stack: ExitStack) -> None:
    """In the middle of the probe: up to 21 seconds."""
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    worker = Worker(tmp_path / "state", f"mqtt://127.0.0.1:{silent.getsockname()[1]}", stack)
    greeted = lambda: worker.under_way() and worker.loop._probe._connection.phase is Phase.GREETING  # noqa: E731
    wait_for(lambda: worker.turn() or greeted(), what="CONNECT")
    worker.answers_a_runner()
    assert greeted()
