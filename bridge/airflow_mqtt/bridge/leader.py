"""The bridge as a whole: stand by, lead, hand over."""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from airflow_mqtt.bridge import lease
from airflow_mqtt.bridge.calls import heartbeats
from airflow_mqtt.bridge.calls.execution_api import ExecutionApi
from airflow_mqtt.bridge.calls.gateway import Gateway
from airflow_mqtt.bridge.cancellation import pause, raise_if_cancelled
from airflow_mqtt.bridge.dispatch.outage import Listening
from airflow_mqtt.bridge.dispatcher import Dispatcher, Heard
from airflow_mqtt.bridge.lease import Lease
from airflow_mqtt.bridge.mqtt.inbox import Backlog, Call, Echo, Intake, Other
from airflow_mqtt.bridge.mqtt.link import Link
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.bridge.store import SqlTx
from airflow_mqtt.bridge.upkeep import queue_status, wakeup
from airflow_mqtt.bridge.upkeep.health_file import Pulse
from airflow_mqtt.bridge.upkeep.retention import Retention
from airflow_mqtt.config.bridge import BridgeSettings
from airflow_mqtt.config.version import VERSION
from airflow_mqtt.database.engine import Database, make_engine
from airflow_mqtt.database.errors import DeposedError, is_transient, refusal
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol.errors import AirflowMqttError, RefusedError
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import BridgeState, BridgeStatus, Event, QueueStatus
from airflow_mqtt.protocol.topics import Topics

log = logging.getLogger(__name__)

#: Seconds between two looks at what time has done, when nothing else wakes us.
_TICK: Final = 1.0

#: Messages that are applied in one transaction.
_BATCH: Final = 500

#: Seconds before a failed piece of work is tried again.
_RETRY: Final = 1.0

#: Seconds for each of the last words, to a broker or a database that may not listen: who stops a bridge kills it soon.
_FAREWELL: Final = 2.0


class Bridge:
    """One bridge process. Any number may run; one leads."""

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        self._engine = make_engine(settings.database_url, instance=settings.instance, idle_limit=settings.lease_ttl)
        self._database = Database(self._engine, settings.team_name)
        self._pulse = Pulse(settings.health_file)

    async def run(self, stop: asyncio.Event) -> None:
        """Stand by and lead until `stop` is set. Raises `RefusedError` when the tables are not there."""
        try:
            await self._until_answered(self._database.check, stop)
            while not stop.is_set():
                held = await self._stand_by(stop)
                if held is not None:
                    await self._lead(held, stop)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._engine.dispose()

    async def _until_answered(self, check: Callable[[], Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
        """Return once `check` has passed, or `stop` is set, in the middle of a check too: one may wait for long."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                checked = asyncio.create_task(check())
                checked.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else may look
                try:
                    await asyncio.wait([checked, stopped], return_when=asyncio.FIRST_COMPLETED)
                    if checked.done():
                        return checked.result()
                except Exception as error:
                    _raise_unless_transient(error)
                    log.warning("the database does not answer, trying again: %s", _brief(error))
                    await pause(stop, _RETRY)
                finally:
                    checked.cancel()
        finally:
            stopped.cancel()

    async def _stand_by(self, stop: asyncio.Event) -> Lease | None:
        """Wait for the lease and take it; None when `stop` is set first."""
        settings = self._settings
        watch: lease.Watch | None = None
        announced = False
        while not stop.is_set():
            try:
                seen = await lease.read(self._database)
                self._pulse.beat()
                now = time.monotonic()
                watch = lease.look(watch, seen, now)
                if lease.may_take(watch, settings.lease_ttl, now):
                    held = await lease.take(self._database, seen, settings.instance, socket.gethostname())
                    if held is not None:
                        return held
                elif not announced:
                    log.info("standing by: bridge %s leads with epoch %d", seen.holder, seen.epoch)
                    announced = True
            except Exception as error:
                _raise_unless_transient(error)
                watch = None
                log.warning("the database does not answer: %s", _brief(error))
            await pause(stop, settings.lease_ttl / 6)
        return None

    async def _lead(self, held: Lease, stop: asyncio.Event) -> None:
        log.info("leading with epoch %d as %s", held.epoch, self._settings.instance)
        self._database.epoch = held.epoch
        leader = Leader(self._settings, self._database, held.epoch, self._pulse)
        keeper = LeaseKeeper(self._settings, self._database, held)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(keeper.run(), name="keep the lease")
                leading = group.create_task(leader.run(), name="lead")
                await stop.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_FAREWELL):
                        await leader.say_goodbye()
                leading.cancel()
                keeper.stop()
        except* DeposedError as deposed:
            log.warning("no longer leading: %s", deposed.exceptions[0])
        else:
            await self._give_back(held)

    async def _give_back(self, held: Lease) -> None:
        try:
            async with asyncio.timeout(_FAREWELL):
                await lease.give_back(self._database, held)
            log.info("stopped leading")
        except Exception as error:
            _raise_unless_transient(error)
            log.warning(
                "stopped leading; the lease runs out by itself, since the database does not answer: %s", _brief(error)
            )


class LeaseKeeper:
    """Renews the lease; gives up when it is another's, or when it could not be renewed for its whole life."""

    def __init__(self, settings: BridgeSettings, database: Database, held: Lease) -> None:
        self._ttl = settings.lease_ttl
        self._database = database
        self._stopping = asyncio.Event()
        self._held = held

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        renewed = time.monotonic()
        while not self._stopping.is_set():
            await pause(self._stopping, self._ttl / 4)
            try:
                async with asyncio.timeout(self._ttl):
                    ours = await lease.renew(self._database, self._held)
                raise_if_cancelled()
            except Exception as error:
                raise_if_cancelled()
                _raise_unless_transient(error)
                if time.monotonic() - renewed > self._ttl:
                    raise DeposedError(f"the lease could not be renewed: {_brief(error)}") from None
                continue
            if not ours:
                raise DeposedError("another bridge has taken the lease")
            renewed = time.monotonic()


class Leader:
    """What the leading bridge does, as tasks of one group."""

    def __init__(self, settings: BridgeSettings, database: Database, epoch: int, pulse: Pulse) -> None:
        self._settings = settings
        self._database = database
        self._epoch = epoch
        self._pulse = pulse
        self._topics = Topics(settings.root)
        self._intake = Intake(self._topics, settings.max_message_bytes)
        self._dispatcher = Dispatcher(settings, epoch)
        dropped = self._intake.dropped
        self._link = Link(settings, self._topics, will=self._status(BridgeState.OFFLINE), dropped=dropped)
        self._backlog = Backlog(dropped)
        self._api = ExecutionApi(settings.execution_api_url, database, time.time)
        self._gateway = Gateway(
            database,
            self._api,
            topics=self._topics,
            publish=self._publish_one,
            clock=time.time,
            max_message_bytes=settings.max_message_bytes,
        )
        self._retention = Retention(database, settings.retention)
        self._connected_since: float | None = None
        self._listening = Listening(time.time())
        self._work = asyncio.Event()  # messages wait
        self._wake = asyncio.Event()  # rows or slots may have changed
        self._published: dict[str, QueueStatus] = {}
        self._group: asyncio.TaskGroup | None = None
        self._leaving = False

    async def run(self) -> None:
        settings = self._settings
        try:
            while not await self._guarded(self._take_over()):  # noqa: ASYNC110  a database is waited for, and no event
                await asyncio.sleep(_RETRY)
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(
                    wakeup.watch(settings.database_url, settings.team_name, self._wake.set), name="wake up"
                )
                group.create_task(self._link.run(self._receive, self._connected, self._disconnected), name="broker")
                group.create_task(self._listen(), name="listen")
                group.create_task(self._hear(), name="apply messages")
                group.create_task(self._tick(), name="place and sweep")
                group.create_task(self._every(settings.task_heartbeat_interval, self._beat), name="heartbeats")
                group.create_task(self._every(settings.status_interval, self._figures), name="figures")
                group.create_task(self._forget(), name="retention")
        finally:
            await self._api.close()

    async def say_goodbye(self) -> None:
        self._leaving = True
        await self._link.publish([self._status(BridgeState.OFFLINE)])

    # --- broker -------------------------------------------------------------------------------------------

    async def _connected(self) -> None:
        self._connected_since = time.time()
        self._listening.connect(self._connected_since)
        self._published.clear()
        await self._link.publish([self._status(BridgeState.LEADING)])
        self._wake.set()

    def _disconnected(self) -> None:
        self._connected_since = None
        self._listening.lose(time.time())

    def _status(self, state: BridgeState) -> Outgoing:
        status = BridgeStatus(
            state=state.value,
            instance=self._settings.instance,
            epoch=self._epoch,
            ts=time.time(),
            version=VERSION,
        )
        return Outgoing(self._topics.bridge_status, status.encode(), retain=True)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        match self._intake.take(topic, payload, retained=retained):
            case Heard() as heard:
                self._backlog.add(heard)
                self._work.set()
            case Call() as call if work := self._gateway.take(call):
                self._spawn(work, "request")
            case Echo():
                self._link.echoed()
            case Other(status) if self._is_untrue(status):
                self._spawn(self._link.publish([self._status(BridgeState.LEADING)]), "status")

    def _is_untrue(self, status: BridgeStatus) -> bool:
        """Whether a will came late that everybody reads: of the bridge before us, or of a connection before ours."""
        if status.instance != self._settings.instance:
            return status.epoch <= self._epoch
        return status.state != BridgeState.LEADING.value and not self._leaving

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
                log.warning("the database does not answer, trying again: %s", _brief(error))
            else:
                log.exception("unexpected error; going on")
            return False

    async def _publish_one(self, message: Outgoing) -> None:
        await self._link.publish([message])

    # --- work ---------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        """Apply what has arrived, all that waits in one transaction."""
        while True:
            await self._work.wait()
            self._work.clear()
            while batch := self._backlog.take(_BATCH):
                # Kept while the database is away: the workers would send it again only after `resend_after`.
                while True:
                    if await self._guarded(self._apply_all(batch)):
                        break
                    await asyncio.sleep(_RETRY)

    async def _apply_all(self, batch: list[Heard]) -> None:
        """Apply `batch`; when that fails for what one message holds, all but that one."""
        try:
            await self._apply(batch)
        except Exception as error:
            if isinstance(error, AirflowMqttError) or is_transient(error) or refusal(error):
                raise
            if len(batch) == 1:
                log.exception("a message of worker %s could not be applied, and is dropped", batch[0].worker)
                return
            log.warning(
                "%d messages could not be applied together, applying each by itself: %s", len(batch), _brief(error)
            )
            for heard in batch:
                await self._apply_all([heard])

    async def _apply(self, batch: list[Heard]) -> None:
        async with self._database.write() as connection:
            now = time.time()  # once the lock is ours: nothing in the database is newer
            tx = SqlTx(connection, self._settings.team_name)
            out = await self._dispatcher.hear(tx, batch, now=now, deaf=self._listening.deaf)
        if self._dispatcher.stirred or any(isinstance(heard.message, Event) for heard in batch):
            self._wake.set()  # slots may be free, which a heartbeat alone does not change
        await self._link.publish(out)

    async def _take_over(self) -> None:
        """Before anybody is heard."""
        async with self._database.write() as connection:
            now = time.time()
            await self._dispatcher.take_over(SqlTx(connection, self._settings.team_name), now)
        self._listening = Listening(now)

    async def _listen(self) -> None:
        """Look at the clock, however long a tick takes: a slow database is not deafness."""
        while True:
            self._listening.look(time.time())
            await asyncio.sleep(_TICK)

    async def _tick(self) -> None:
        while True:
            self._wake.clear()
            more = False
            if self._connected_since is not None:
                more = await self._tick_once(self._connected_since)
            self._pulse.beat()
            if not more:
                await pause(self._wake, _TICK)

    async def _tick_once(self, connected_since: float) -> bool:
        more = False

        async def tick() -> None:
            nonlocal more
            async with self._database.write() as connection:
                now = time.time()
                tx = SqlTx(connection, self._settings.team_name)
                self._listening.look(now)
                deaf = self._listening.deaf
                out, more = await self._dispatcher.tick(tx, now=now, deaf=deaf, connected_since=connected_since)
            self._listening.deaf -= deaf
            await self._link.publish(out)

        if not await self._guarded(tick()):
            await asyncio.sleep(_RETRY)
        return more

    async def _every(self, interval: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            started = time.monotonic()
            await self._guarded(work())
            await asyncio.sleep(max(0.1, interval - (time.monotonic() - started)))

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(self._retention.pause)
            await self._guarded(self._retention.step(time.time()))

    async def _beat(self) -> None:
        await heartbeats.beat(self._database, self._api, self._stop_job)

    async def _stop_job(self, job: Job, reason: str) -> None:
        """Airflow wants `job` ended, unless it is ending by itself just now."""
        if self._gateway.is_ending(job.id):
            return
        async with self._database.write() as connection:
            tx = SqlTx(connection, self._settings.team_name)
            current = (await tx.jobs([job.id])).get(job.id)
            if current is None or current.state is not JobState.RUNNING or current.final_state is not None:
                return
            out = await self._dispatcher.cancel(tx, current, reason, time.time())
        await self._link.publish(out)

    async def _figures(self) -> None:
        self._intake.say_dropped()
        now = time.time()
        async with self._database.read() as connection:
            tx = SqlTx(connection, self._settings.team_name)
            statuses = queue_status.queue_statuses(
                await tx.queue_figures(), await tx.workers(), await tx.used_slots(), now
            )
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
        if await self._link.publish(messages):
            self._published = {
                queue: status for queue, status in self._published.items() if queue not in gone
            } | changed


def _without_time(status: QueueStatus) -> QueueStatus:
    return replace(status, ts=0.0)


def _raise_unless_transient(error: Exception) -> None:
    """Raise `error`, or what it says to a person, unless it may pass by itself."""
    if refused := refusal(error):
        raise refused from None
    if not is_transient(error):
        raise error


def _brief(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
