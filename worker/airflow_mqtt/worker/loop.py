"""The worker's loop: one thread, one selector. Gather what happened, tell the core, commit, then act."""

import contextlib
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from typing import get_args

from airflow_mqtt.protocol.errors import NameInUseError
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core import Core
from airflow_mqtt.worker.core.effects import (
    Answer,
    AppendLog,
    Effect,
    JournalEffect,
    Launch,
    Publish,
    ReadLog,
    Reconnect,
    RemoveFiles,
    Say,
    Signal,
    Stop,
)
from airflow_mqtt.worker.health import Health
from airflow_mqtt.worker.journal import Journal
from airflow_mqtt.worker.local_api import LocalApi
from airflow_mqtt.worker.mqtt.link import Link, LinkEvent
from airflow_mqtt.worker.mqtt.probe import Outcome, Probe, Verdict
from airflow_mqtt.worker.relay import Relay
from airflow_mqtt.worker.runners import Runners

log = logging.getLogger(__name__)

JOURNAL_EFFECTS = get_args(JournalEffect)

#: Seconds. Each wake-up costs a device more than what is done in it: nothing is looked at before its time.
LONGEST_SLEEP = 30.0
GOODBYE_TIMEOUT = 5.0
IN_USE = "the name {name!r} is in use by another living worker; give this one another --name, or stop that one"


class Loop:
    """Owns the parts and moves things between them. No decision is made here."""

    def __init__(  # noqa: PLR0917
        self,
        core: Core,
        journal: Journal,
        link: Link,
        local_api: LocalApi,
        runners: Runners,
        selector: selectors.BaseSelector,
        begin_probe: Callable[[float], Probe],
        health: Health,
        relay: Relay | None = None,
    ) -> None:
        self._core = core
        self._journal = journal
        self._link = link
        self._local_api = local_api
        self._runners = runners
        self._selector = selector
        self._health = health
        self._begin_probe = begin_probe
        self._relay = relay
        self._probe: Probe | None = None  # while it is under way, the link waits
        self._must_probe = True
        self._was_up = False
        self._log_lost = False
        self._signals = 0
        self._stop: Stop | None = None

    # --- running ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop. `NameInUseError` when a living worker has the name at the start."""
        with self._signals_wake():
            self._perform()  # what followed from the start
            while self._stop is None:
                self._round()
        self._say_goodbye(self._stop)

    def recover(self) -> None:
        """Find out what became of the journaled jobs while no worker ran."""
        now = time.monotonic()
        self._core.set_clock(time.time() - now)
        held = [(job.id, job.attempt) for job in self._core.state.jobs.values()]
        self._runners.sweep(set(held))
        for job, attempt in held:
            with contextlib.suppress(OSError):
                self._runners.files(job, attempt).restore_log(self._core.state.jobs[job].log_acked)
            living, result, log_size = self._runners.find(job, attempt)
            self._core.found(job, alive=living, result=result, log_size=log_size, now=now)

    def _round(self) -> None:
        now = time.monotonic()
        for key, mask in self._selector.select(self._timeout(now)):
            key.data(mask)
        now = time.monotonic()
        self._core.set_clock(time.time() - now)
        self._link_round(now)
        self._hear_signals(now)
        self._hear_runners(now)
        self._look_at_device(now)
        self._core.tick(now, self._runners.disk_free(), self._link.under_way)
        self._perform()
        self._relay_telemetry(now)
        if self._core.state.jobs:  # else nobody waits, and the packet that this takes is saved
            self._link.acknowledge()

    def _timeout(self, now: float) -> float:
        network = self._link if self._probe is None else self._probe
        due = min(self._core.deadline(now), network.deadline(now), self._runners.deadline(now))
        due = min(due, self._health.deadline())
        if self._relay is not None and self._relays:
            due = min(due, self._relay.gathered.due)
        return min(LONGEST_SLEEP, max(0.0, due - now))

    def _perform(self) -> None:
        """Commit what must not be forgotten, then do the rest; doing may bring new effects."""
        while effects := self._core.take():
            self._journal.write([effect for effect in effects if isinstance(effect, JOURNAL_EFFECTS)])
            for effect in effects:
                if not isinstance(effect, JOURNAL_EFFECTS):
                    self._act(effect)
            self._link.service(time.monotonic())

    def _act(self, effect: Effect) -> None:  # noqa: C901  one line for each kind
        now = time.monotonic()
        match effect:
            case Publish(topic, payload, retain):
                self._link.publish(topic, payload, retain=retain)
            case Answer():
                self._local_api.answer(effect)
            case Launch(run):
                self._runners.launch(run)
            case Signal(job, attempt, force):
                self._runners.signal(job, attempt, force)
            case AppendLog(job, attempt, line):
                self._append_log(job, attempt, line)
            case ReadLog(job, attempt, offset, limit):
                files = self._runners.files(job, attempt)
                self._core.log_read(job, attempt, offset, files.read_log(offset, limit), now, size=files.log_size())
            case RemoveFiles(job, attempt):
                self._runners.remove(job, attempt)
            case Say(level, text):
                log.log(getattr(logging, level.upper()), "%s", text)
            case Reconnect(reason):
                self._must_probe = True  # what seems wrong may be another worker of the name
                self._link.reconnect(reason, now)
            case Stop():
                self._stop = effect

    @property
    def _relays(self) -> bool:
        """Whether there is somebody who passes on what tasks have for a monitoring system."""
        return self._link.up and self._core.state.relays

    def _relay_telemetry(self, now: float) -> None:
        payload = self._relay.take(now) if self._relay is not None and self._relays else None
        if payload is not None:
            self._link.publish(self._core.state.topic(TopicKind.TELEMETRY), payload, qos=0)

    def _append_log(self, job: str, attempt: int, line: bytes) -> None:
        """Write a line of ours into a task's log. A disk that is full costs the line, not the worker."""
        try:
            self._runners.files(job, attempt).append_log(line)
        except OSError as error:
            if not self._log_lost:
                log.warning("nothing can be added to the log of job %s (said once for all): %s", job, error)
            self._log_lost = True

    # --- what happened ------------------------------------------------------------------------------------

    def _link_round(self, now: float) -> None:
        if self._probe is not None:
            self._probe_round(self._probe, now)
        elif self._link.due(now):
            self._connect(now)
        self._link.service(now)
        self._core.limited(self._link.limit, now)
        messages, events = self._link.take()
        # Messages that came before the end of a connection are of that connection, and go first.
        for message in messages:
            self._message(message.topic, message.payload, now, retained=message.retained)
        for event in events:
            self._link_event(event, now)

    def _link_event(self, event: LinkEvent, now: float) -> None:
        if event is LinkEvent.UP:
            self._was_up = True
            self._core.connected(now)
        elif event is LinkEvent.DOWN:
            self._core.disconnected(now)
            self._must_probe = self._must_probe or self._link.short_lived
        else:
            log.warning("another client came with this worker's client id; asking whether it is a worker of the name")
            self._must_probe = True

    def _message(self, topic: str, payload: bytes, now: float, *, retained: bool) -> None:
        try:
            self._core.message(topic, payload, now, retained=retained)
        except Exception:
            # Whatever a message does to it, the worker goes on: it may have tasks that nobody else can end.
            log.exception("a message on %r could not be handled", topic[:200])

    def _connect(self, now: float) -> None:
        if self._must_probe or self._link.was_away(now):
            self._probe = self._begin_probe(now)
        else:
            self._link.connect(now)

    def _probe_round(self, probe: Probe, now: float) -> None:
        outcome = probe.service(now)
        if outcome is not None:
            self._probe = None
            self._probed(outcome, now)

    def _probed(self, outcome: Outcome, now: float) -> None:
        if outcome.verdict is Verdict.FREE:
            self._must_probe = False
            self._link.connect(now)
        elif outcome.verdict is Verdict.TAKEN:
            self._name_in_use(now)
        else:
            if outcome.verdict is Verdict.UNANSWERED:
                self._link.try_other_version()
            self._link.failed(outcome.why, now)

    def _name_in_use(self, now: float) -> None:
        """End, if we have only just come. One that had the name waits for the other to go: it has tasks to report."""
        text = IN_USE.format(name=self._core.state.config.name)
        if not self._was_up:
            raise NameInUseError(text)
        self._link.failed(text, now)

    def begin_connection(self) -> tuple[str, bytes]:
        """Number a connection and keep the number; return its will."""
        will = self._core.connecting(time.monotonic())
        self._perform()
        return will

    def _hear_runners(self, now: float) -> None:
        calls, closed = self._local_api.take()
        for token in closed:
            self._core.hung_up(token)
        for call in calls:
            self._core.call(call, now)
        for command in self._local_api.take_commands():
            self._core.command(command, now, link=self._link.said)
        self._runners.tick(now)
        for ended in self._runners.take():
            self._core.ended(ended.job, ended.attempt, ended.result, ended.log_size, now)

    def _look_at_device(self, now: float) -> None:
        figures = self._health.look(now)
        if figures is not None:
            self._core.figures(figures, now)

    # --- signals and the end ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals_wake(self) -> Iterator[None]:
        wake, alarm = os.pipe()
        for descriptor in (wake, alarm):
            os.set_blocking(descriptor, False)
        self._selector.register(wake, selectors.EVENT_READ, lambda _mask: _empty(wake))
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._on_signal)
        yield
        signal.set_wakeup_fd(-1)
        self._selector.unregister(wake)
        os.close(wake)
        os.close(alarm)

    def _on_signal(self, *_: object) -> None:
        self._signals += 1

    def _hear_signals(self, now: float) -> None:
        while self._signals:
            self._signals -= 1
            self._core.signal(now)

    def _say_goodbye(self, stop: Stop) -> None:
        """The will is dropped with a DISCONNECT, so the farewell must be at the broker before it."""
        if self._probe is not None:
            self._probe.drop()
        self._link.say_goodbye(stop.topic, stop.farewell)
        until = time.monotonic() + GOODBYE_TIMEOUT
        while not self._link.goodbye_heard and time.monotonic() < until:
            self._link.service(time.monotonic())
            for key, mask in self._selector.select(0.2):
                key.data(mask)
        self._link.disconnect()


def _empty(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)
