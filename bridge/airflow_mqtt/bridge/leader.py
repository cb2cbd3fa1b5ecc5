"""What the leading bridge does, as tasks of one group around the one writer."""

import asyncio
import gc
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from sqlalchemy.engine import make_url

from airflow_mqtt.bridge.alarm import Alarm
from airflow_mqtt.bridge.calls import heartbeats
from airflow_mqtt.bridge.calls.execution_api import ExecutionApi
from airflow_mqtt.bridge.calls.gate import Call
from airflow_mqtt.bridge.calls.gateway import Gateway
from airflow_mqtt.bridge.cancellation import raise_if_cancelled
from airflow_mqtt.bridge.dispatch import timeouts
from airflow_mqtt.bridge.dispatch.duties import Duties
from airflow_mqtt.bridge.dispatch.outage import Outage
from airflow_mqtt.bridge.dispatch.reports import Heard, Reports
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.inbox import Calm, Echo, Inbox, Message, Opened, Other, Raw, Relayed, Stale
from airflow_mqtt.bridge.mqtt.link import Link
from airflow_mqtt.bridge.mqtt.outbox import Messages, Outgoing
from airflow_mqtt.bridge.telemetry import job_spans
from airflow_mqtt.bridge.telemetry.monitoring import Monitoring
from airflow_mqtt.bridge.upkeep import home_assistant, queue_status, wakeup
from airflow_mqtt.bridge.upkeep.health_file import HealthFile
from airflow_mqtt.bridge.upkeep.metrics import Led, Vocabulary
from airflow_mqtt.bridge.upkeep.retention import Retention
from airflow_mqtt.bridge.upkeep.word import Counts, rates, refusals
from airflow_mqtt.bridge.writer import BATCH, SAVE_INTERVAL, Writer
from airflow_mqtt.config.bridge import BridgeSettings
from airflow_mqtt.config.version import VERSION
from airflow_mqtt.database.access import ONCE_LISTED
from airflow_mqtt.database.bridges import SAID_EVERY, Word
from airflow_mqtt.database.engine import Database
from airflow_mqtt.database.errors import DeposedError, brief, is_transient, raise_unless_transient, refusal
from airflow_mqtt.database.ledger import Ledger, Snapshot
from airflow_mqtt.database.postgres import PostgresLedger
from airflow_mqtt.database.records import Job, Worker
from airflow_mqtt.database.sqlite import SqliteLedger
from airflow_mqtt.protocol.errors import RefusedError
from airflow_mqtt.protocol.messages import PARCELS, TELEMETRY, BridgeState, BridgeStatus, QueueStatus
from airflow_mqtt.protocol.topics import Topics

log = logging.getLogger(__name__)

#: Seconds between two looks at the clock.
_LOOK: Final = 1.0

#: Seconds before a failed piece of work is tried again.
_RETRY: Final = 1.0

#: Rounds of the writer that may follow each other at once, and seconds in which one more may. A lone job goes through
#: without a pause; under load a round takes in what came in 10 ms, for the price of one transaction.
_BURST: Final = 20
_ROUND_INTERVAL: Final = 0.01

#: Seconds in which statuses are gathered, if nothing else is to be done: each by itself would take a round, and a
#: quiet fleet says nothing else.
_GATHERED: Final = 0.25

#: Topics that are remembered to be cleared. What is more, the next connection shows again.
_STALE: Final = 10_000

#: Allocations between two looks for garbage, and such looks between two at older objects. What is in memory for long is
#: most of it, and there are no cycles in it: to look through a large fleet at Python's own pace costs a quarter of all.
_GARBAGE: Final = (20_000, 50, 100)


class Pace:
    """Lets `_BURST` rounds through at once, and then one each `_ROUND_INTERVAL`."""

    def __init__(self, now: float) -> None:
        self._tokens = float(_BURST)
        self._at = now

    def wait(self, now: float) -> float:
        """Take a turn; return for how many seconds to wait before it."""
        self._tokens = min(_BURST, self._tokens + (now - self._at) / _ROUND_INTERVAL) - 1
        self._at = now
        return max(0.0, -self._tokens * _ROUND_INTERVAL)


class Leader:
    """The leader with one `epoch`. `alive_at` is when its loop turned last, on the monotonic clock."""

    def __init__(
        self,
        settings: BridgeSettings,
        database: Database,
        epoch: int,
        health_file: HealthFile,
        monitoring: Monitoring | None = None,
        *,
        renewed: Callable[[], None],
        say: Callable[[Word], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._epoch = epoch
        self._health_file = health_file
        self._monitoring = monitoring
        self._topics = Topics(settings.root)
        self._messages = Messages(self._topics, int(settings.accept_timeout * settings.accept_tries) + 1)
        self._inbox = Inbox(self._topics, settings.max_message_bytes, clock=time.monotonic)
        self._relay = None if monitoring is None else monitoring.relay(self._inbox.dropped)
        will = self._status(BridgeState.OFFLINE)
        self._link = Link(settings, self._topics, will=will, dropped=self._inbox.dropped, telemetry=settings.relays)
        self._ledger = _ledger(settings, epoch, renewed)
        self._say = say
        self._since = time.time()
        self._counted = Counts(time.monotonic(), time.process_time(), 0, 0, 0, 0)
        self._vocabulary = Vocabulary()
        self._retention = Retention(database, settings.retention)
        self._wake = Alarm()
        self._published: dict[str, QueueStatus] = {}
        self._announcer = home_assistant.Announcer(settings.home_assistant, self._topics)
        self._stale: dict[str, None] = {}  # topics on which the broker has retained what it should not
        self._group: asyncio.TaskGroup | None = None
        self._leaving = False
        self._beaten_until = -math.inf
        self.alive_at = time.monotonic()
        self._writer: Writer | None = None
        self._gateway: Gateway | None = None

    async def run(self) -> None:
        """Lead until cancelled. Raises `DeposedError`, and `RefusedError` when a person must mend the database."""
        api = ExecutionApi(self._settings.execution_api_url)
        gc.set_threshold(*_GARBAGE)  # before all is read: at Python's own pace it is looked through while it grows
        try:
            self._writer = self._make_writer(await self._take_over())
            self._gateway = Gateway(
                self._writer,
                api,
                self._messages,
                publish=self._link.send,
                sleep=asyncio.sleep,
                clock=time.monotonic,
                elsewhere=asyncio.to_thread,
                spans=None if self._monitoring is None else self._monitoring.calls,
                max_message_bytes=self._settings.max_message_bytes,
            )
            await self._lead(self._writer, self._gateway, api)
        finally:
            await api.close()
            await self._ledger.close()

    async def _lead(self, writer: Writer, gateway: Gateway, api: ExecutionApi) -> None:
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._watch(writer.look_for_news), name="wake up")
            group.create_task(self._link.run(self._receive, self._connected, self._disconnected), name="broker")
            group.create_task(self._look(writer.outage), name="look at the clock")
            group.create_task(self._write(writer), name="write")
            look_for_due = settings.task_heartbeat_interval / heartbeats.LOOKS
            beat = self._every(look_for_due, lambda: self._beat(writer, gateway, api, look_for_due))
            group.create_task(beat, name="heartbeats")
            tell = self._every(settings.status_interval, lambda: self._tell_queues(writer.living))
            group.create_task(tell, name="status of queues")
            tell_of_us = self._every(SAID_EVERY, lambda: self._tell_of_us(writer))
            group.create_task(tell_of_us, name="word of the leader")
            group.create_task(self._forget(), name="retention")
            if self._monitoring is not None and self._monitoring.exporter is not None:
                exporter = self._monitoring.exporter
                group.create_task(exporter.run(), name="send spans")
                jobs = job_spans.JobSpans(self._database, exporter.add, time.time())
                look = self._every(job_spans.INTERVAL, lambda: jobs.look(time.time()))
                group.create_task(look, name="spans of jobs")

    async def say_goodbye(self) -> None:
        """Say that nobody leads, and write what is not written yet: the next leader counts silence from it."""
        self._leaving = True
        if self._writer is not None:
            await self._writer.save_now()
        await self._link.publish([self._status(BridgeState.OFFLINE)])

    async def _take_over(self) -> Snapshot:
        """Read the living, before anybody is heard."""
        while True:
            try:
                return await self._ledger.snapshot()
            except Exception as error:
                raise_if_cancelled()
                raise_unless_transient(error)
                log.warning("the database does not answer, trying again: %s", brief(error))
            await asyncio.sleep(_RETRY)

    def led(self) -> Led | None:
        """Return what there is to be seen now; None before the takeover is done."""
        writer = self._writer
        if writer is None:
            return None
        living = writer.living
        return Led(
            vocabulary=self._vocabulary,
            tally=writer.tally.copy(),
            queues=queue_status.queue_statuses(living, time.time()),
            jobs=list(living.jobs.values()),
            workers=list(living.workers.values()),
            used=living.used.copy(),
            connected=writer.connected,
            writer_queue=len(writer),
            acks_pending=len(living.acks),
            calls_pending=living.calling.total(),
            publications_pending=self._link.under_way,
            workers_refused=len(living.refused),
            workers_not_allowed=len(living.unallowed),
            received=self._inbox.received.copy(),
            received_bytes=self._inbox.received_bytes,
            sent=self._link.sent,
            sent_bytes=self._link.sent_bytes,
            dropped=self._inbox.dropped.copy(),
            lines_left_out=living.lines.left_out,
        )

    def _make_writer(self, snapshot: Snapshot) -> Writer:
        settings, now = self._settings, time.time()
        by = f"bridge:{settings.instance}"
        writer = Writer(
            self._ledger,
            Living.of(snapshot, self._rules, allow=settings.allow, least=settings.least_worker_version),
            Reports(self._messages, self._epoch, by, settings.log_limit),
            Duties(self._messages, by, self._rules, settings.accept_timeout, settings.retention),
            taken_over(snapshot.workers, now, save_interval(settings)),
            clock=time.time,
            future=asyncio.get_running_loop().create_future,
            publish=self._link.send,
            wake=self._wake.ring,
            max_message_bytes=settings.max_message_bytes,
            save_interval=save_interval(settings),
        )
        gc.freeze()
        living = writer.living
        log.info(
            "took over %d workers, %d jobs that they hold, and %d that wait",
            len(living.workers), len(living.jobs), len(living.waiting),
        )  # fmt: skip
        if settings.allow == ONCE_LISTED and not snapshot.access.listed:
            log.info("every worker may serve every queue, until `airflow mqtt allow` lists who may")
        return writer

    def _rules(self, job: Job) -> timeouts.Rules:
        settings = self._settings
        return timeouts.Rules(
            settings.accept_timeout, settings.accept_tries, settings.start_timeout, settings.lost_after_of(job.queue)
        )

    # --- broker -------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        """Lead. The PUBACK of that comes behind all that is retained, which with a large fleet takes seconds."""
        assert self._writer is not None
        self._published.clear()
        self._announcer.connect()
        self._keep_limit()
        self._link.send([self._status(BridgeState.LEADING)])
        self._clear()
        self._writer.connect(time.time())

    def _keep_limit(self) -> None:
        """Send no message that the broker does not take: see `protocol.packets`."""
        own, brokers = self._settings.max_message_bytes, self._link.limit.payload
        limit = own if brokers is None else min(own, brokers)
        assert self._writer is not None
        assert self._gateway is not None
        if limit != self._writer.max_message_bytes:
            log.warning("the broker takes packets of %s bytes; max_message_bytes is %d", self._link.limit.packet, own)
            self._writer.max_message_bytes = self._gateway.max_message_bytes = limit

    def _disconnected(self) -> None:
        assert self._writer is not None
        self._writer.lose(time.time())

    def _status(self, state: BridgeState) -> Outgoing:
        status = BridgeStatus(
            state=state.value,
            instance=self._settings.instance,
            epoch=self._epoch,
            ts=time.time(),
            version=VERSION,
            features=[PARCELS, *([TELEMETRY] if self._settings.relays else [])],
        )
        return Outgoing(self._topics.bridge_status, status.encode(), retain=True)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        match self._inbox.put(topic, payload, retained=retained):
            case Echo():
                self._link.echoed()
            case Other(status):
                if self._is_untrue(status):
                    self._link.send([self._status(BridgeState.LEADING)])
            case Stale(name):
                self._clear(name)
            case Calm():
                self._wake.ring_within(_GATHERED)
            case None:
                self._wake.ring()

    def _clear(self, *topics: str) -> None:
        """Have the broker forget what it retains there. It sends that before it has answered our subscription."""
        if len(self._stale) < _STALE:
            self._stale.update(dict.fromkeys(topics))
        if self._link.send([Outgoing(name, b"", retain=True) for name in self._stale]):
            self._stale.clear()

    def _is_untrue(self, status: BridgeStatus) -> bool:
        """Whether a will came late that everybody reads: of the bridge before us, or of a connection before ours."""
        if status.instance != self._settings.instance:
            return status.epoch <= self._epoch
        return status.state != BridgeState.LEADING.value and not self._leaving

    def _feed(self, writer: Writer) -> None:
        """Decode what has arrived, as much as the next round takes."""
        for raw in self._inbox.take(BATCH - len(writer)):
            if raw.is_large:
                self._spawn(self._decode_elsewhere(raw), "decode")
            else:
                self._hand_on(self._inbox.decode(raw))

    async def _decode_elsewhere(self, raw: Raw) -> None:
        try:
            self._hand_on(await asyncio.to_thread(self._inbox.decode, raw))
        finally:
            self._inbox.done(raw)
            self._wake.ring()

    def _hand_on(self, message: Message | None) -> None:
        assert self._writer is not None
        match message:
            case Heard() as heard:
                self._writer.receive(heard)
            case Call() as call:
                self._answer(call)
            case Opened() as parcel:
                for report in parcel.reports:
                    self._writer.receive(report)
                for chain in parcel.chains:
                    self._answer(*chain)
            case Relayed(worker, telemetry) if self._relay is not None:
                self._relay.take(worker, telemetry)

    def _answer(self, *calls: Call) -> None:
        assert self._gateway is not None
        work = self._gateway.take(*calls)
        if work is not None:
            self._spawn(work, "request")

    def _spawn(self, work: Coroutine[Any, Any, object], name: str) -> None:
        assert self._group is not None
        guarded = self._guarded(work)
        try:
            self._group.create_task(guarded, name=name)
        except RuntimeError:  # the group is ending, and this came in before the reader has heard of that
            guarded.close()
            work.close()

    async def _guarded(self, work: Awaitable[object]) -> bool:
        """Await `work` and return whether it succeeded. A lost lease gets past this, and what a person must mend."""
        try:
            await work
            raise_if_cancelled()
            return True
        except (DeposedError, RefusedError):
            raise
        except Exception as error:
            raise_if_cancelled()
            if refused := refusal(error):
                raise refused from None
            if is_transient(error):
                log.warning("the database does not answer, trying again: %s", brief(error))
            else:
                log.exception("unexpected error; going on")
            return False

    # --- work ---------------------------------------------------------------------------------------------

    async def _write(self, writer: Writer) -> None:
        pace = Pace(time.monotonic())
        while True:
            self._wake.clear()
            self._feed(writer)
            now = time.time()
            if writer.has_work(now):
                await asyncio.sleep(pace.wait(time.monotonic()))
                self._feed(writer)
                if not await self._guarded(writer.round()):
                    await asyncio.sleep(_RETRY)
            else:
                until = min(writer.next_deadline - now, self._inbox.rests_until - time.monotonic(), _LOOK)
                await self._wake.wait(max(0.001, until))
            self.alive_at = time.monotonic()
            self._health_file.touch()

    async def _watch(self, wake: Callable[[], None]) -> None:
        if isinstance(self._ledger, SqliteLedger):
            await wakeup.watch_sqlite(self._ledger.changed, wake)
        else:
            settings = self._settings
            await wakeup.watch_postgres(settings.listen_url or settings.database_url, settings.team_name, wake)

    async def _look(self, outage: Outage) -> None:
        """Look at the clock, however long a round takes: a slow database is no outage."""
        while True:
            outage.look(time.time())
            self._keep_limit()
            await asyncio.sleep(_LOOK)

    async def _every(self, interval: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            started = time.monotonic()
            await self._guarded(work())
            await asyncio.sleep(max(0.1, interval - (time.monotonic() - started)))

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(self._retention.pause)
            await self._guarded(self._retention.step(time.time()))

    async def _beat(self, writer: Writer, gateway: Gateway, api: ExecutionApi, ahead: float) -> None:
        """Heartbeat the tasks that are due before the next look, `ahead` seconds from now."""
        until = time.time() + ahead
        after, self._beaten_until = min(self._beaten_until, until), until
        interval = self._settings.task_heartbeat_interval
        jobs = heartbeats.due(writer.living.jobs.values(), interval, after=after, until=until)

        async def stop(job: Job, reason: str) -> None:
            if not gateway.is_ending(job.id):
                await writer.stop_job(job, reason)

        await heartbeats.beat(jobs, api, stop)

    async def _tell_of_us(self, writer: Writer) -> None:
        """Have our word written with the lease, when that is renewed next."""
        tally, before = writer.tally, self._counted
        messages = self._inbox.received.total() + self._link.sent
        self._counted = after = Counts.of(tally, at=time.monotonic(), cpu=time.process_time(), messages=messages)
        figures = {**rates(before, after), "writer_queue": len(writer), "acks_pending": len(writer.living.acks)}
        refused = refusals(tally, self._inbox.dropped)
        self._say(Word(self._epoch, VERSION, self._since, time.time(), refused, figures))

    async def _tell_queues(self, living: Living) -> None:
        self._inbox.say_dropped()
        living.lines.say_left_out()
        if self._settings.home_assistant:
            self._announce(living)
        statuses = queue_status.queue_statuses(living, time.time())
        gone = self._published.keys() - statuses.keys()
        changed = {
            queue: status
            for queue, status in statuses.items()
            if queue not in self._published or _without_time(status) != _without_time(self._published[queue])
        }
        payloads = dict.fromkeys(gone, b"") | {queue: status.encode() for queue, status in changed.items()}
        messages = [
            Outgoing(self._topics.queue_status(queue), payload, retain=True) for queue, payload in payloads.items()
        ]
        if self._link.send(messages):
            self._published = {
                queue: status for queue, status in self._published.items() if queue not in gone
            } | changed

    def _announce(self, living: Living) -> None:
        due = self._announcer.due(living.workers)
        if self._link.send([one.message for one in due]):
            self._announcer.done(due)


def save_interval(settings: BridgeSettings) -> float:
    """Return for how many seconds a heartbeat may be in memory alone: a new leader excuses as many."""
    shortest = min((settings.lost_after, *settings.queue_lost_after.values()))
    return min(SAVE_INTERVAL, shortest / 8)


def taken_over(workers: list[Worker], now: float, unsaved: float) -> Outage:
    """Return what a new leader excuses: since the bridge before it heard anybody, nobody could be heard.

    By a clock that is behind that bridge's, this is less than nothing: else all would be heard in the future, and lost
    later by as much. `unsaved` is for how many seconds it may have heard a worker without writing it down.
    """
    last = max((worker.seen_at for worker in workers if worker.seen_at > 0), default=now)
    return Outage(now, unheard=now - last + unsaved)


def _ledger(settings: BridgeSettings, epoch: int, renewed: Callable[[], None]) -> Ledger | SqliteLedger:
    url = make_url(settings.database_url)
    if url.drivername.startswith("sqlite"):
        return SqliteLedger(str(url.database), settings.team_name, epoch, renewed=renewed)
    return PostgresLedger(
        settings.database_url, settings.team_name, epoch, instance=settings.instance, idle_limit=settings.lease_ttl
    )


def _without_time(status: QueueStatus) -> QueueStatus:
    return replace(status, ts=0.0)
