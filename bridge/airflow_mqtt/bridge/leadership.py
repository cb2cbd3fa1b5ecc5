"""The bridge as a whole: stand by, lead, hand over."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from airflow_mqtt.bridge import lease, standby
from airflow_mqtt.bridge.cancellation import pause, raise_if_cancelled
from airflow_mqtt.bridge.leader import Leader
from airflow_mqtt.bridge.lease import Lease
from airflow_mqtt.bridge.mqtt.losses import ThrownOffError
from airflow_mqtt.bridge.telemetry.monitoring import Monitoring
from airflow_mqtt.bridge.upkeep import metrics_endpoint
from airflow_mqtt.bridge.upkeep.health_file import HealthFile
from airflow_mqtt.bridge.upkeep.metrics import Seen
from airflow_mqtt.config.bridge import BridgeSettings
from airflow_mqtt.config.version import VERSION
from airflow_mqtt.database import postgres_url
from airflow_mqtt.database.bridges import SAID_EVERY, Word
from airflow_mqtt.database.engine import Database, make_engine
from airflow_mqtt.database.errors import DeposedError, brief, raise_unless_transient
from airflow_mqtt.protocol.errors import first_of

log = logging.getLogger(__name__)

#: Seconds before a database that does not answer is asked again.
_RETRY: Final = 1.0

#: Seconds for each of the last words, to a broker or a database that may not listen: who stops a bridge kills it soon.
_FAREWELL: Final = 2.0

#: Seconds for which the leader's loop may stand still before its lease is given up: then it leads nothing.
_STANDSTILL: Final = 30.0


class Bridge:
    """One bridge process. Any number may run; one leads."""

    def __init__(self, settings: BridgeSettings) -> None:
        self._settings = settings
        self._engine = make_engine(settings.database_url, instance=settings.instance, idle_limit=settings.lease_ttl)
        self._database = Database(self._engine, settings.team_name)
        self._health_file = HealthFile(settings.health_file)
        self._monitoring = Monitoring.of(settings)
        self._leading: tuple[LeaseKeeper, Leader] | None = None
        self._said_at = float("-inf")  # that we stand by
        self._rests_until = 0.0  # on the monotonic clock: until then another bridge may take the lease before us

    async def run(self, stop: asyncio.Event) -> None:
        """Stand by and lead until `stop` is set.

        Raises `RefusedError` when the tables are not there, or nobody can listen on `metrics_address`.
        """
        _tell_of_options(self._settings)
        try:
            async with metrics_endpoint.serving(self._settings.metrics_address, self._seen):
                await self._until_answered(self._database.check, stop)
                while not stop.is_set():
                    held = await self._stand_by(stop)
                    if held is not None:
                        await self._lead(held, stop)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._engine.dispose()

    def _seen(self) -> Seen:
        """What there is to be seen of this bridge now."""
        settings = self._settings
        seen = Seen(settings.instance, VERSION, settings.team_name, settings.metrics_workers)
        if self._leading is None:
            return seen
        keeper, leader = self._leading
        return replace(seen, epoch=self._database.epoch, renewed_ago=keeper.renewed_ago, led=leader.led())

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
                    raise_unless_transient(error)
                    log.warning("the database does not answer, trying again: %s", brief(error))
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
                self._health_file.touch()
                now = time.monotonic()
                watch = lease.look(watch, seen, now)
                if now >= self._rests_until and lease.may_take(watch, settings.lease_ttl, now):
                    held = await lease.take(self._database, seen, settings.instance, socket.gethostname())
                    if held is not None:
                        return held
                elif seen.holder:
                    if not announced:
                        log.info("standing by: bridge %s leads with epoch %d", seen.holder, seen.epoch)
                        announced = True
                    await self._say_standing_by(now)
            except Exception as error:
                raise_unless_transient(error)
                watch = None
                log.warning("the database does not answer: %s", brief(error))
            await pause(stop, lease.next_look(watch, settings.lease_ttl, time.monotonic()))
        await self._tell(standby.leave(self._database, settings.instance))
        return None

    async def _say_standing_by(self, now: float) -> None:
        if now - self._said_at >= SAID_EVERY:
            self._said_at = now
            await self._tell(standby.say(self._database, self._settings.instance, socket.gethostname()))

    @staticmethod
    async def _tell(work: Coroutine[Any, Any, None]) -> None:
        """Write what is only for people: it holds up nothing, and is not tried again."""
        try:
            async with asyncio.timeout(_FAREWELL):
                await work
        except Exception as error:
            raise_unless_transient(error)

    async def _lead(self, held: Lease, stop: asyncio.Event) -> None:
        log.info("leading with epoch %d as %s", held.epoch, self._settings.instance)
        self._database.epoch = held.epoch
        keeper = LeaseKeeper(self._settings, held)
        leader = Leader(
            self._settings,
            self._database,
            held.epoch,
            self._health_file,
            self._monitoring,
            renewed=keeper.note_renewed,
            say=keeper.say,
        )
        keeper.watch(lambda: leader.alive_at)
        self._leading = keeper, leader
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(keeper.run(), name="keep the lease")
                leading = group.create_task(leader.run(), name="lead")
                await stop.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_FAREWELL):
                        await leader.say_goodbye()
                leading.cancel()
                keeping.cancel()
        except* ThrownOffError as thrown:
            log.warning("no longer leading: %s", first_of(thrown))
            await self._give_back(held)
            self._rests_until = time.monotonic() + 3 * self._settings.lease_ttl
        except* DeposedError as deposed:
            log.warning("no longer leading: %s", first_of(deposed))
        else:
            await self._give_back(held)
        finally:
            self._leading = None

    async def _give_back(self, held: Lease) -> None:
        try:
            async with asyncio.timeout(_FAREWELL):
                await lease.give_back(self._database, held)
            log.info("stopped leading")
        except Exception as error:
            raise_unless_transient(error)
            log.warning(
                "stopped leading; the lease runs out by itself, since the database does not answer: %s", brief(error)
            )


def _tell_of_options(settings: BridgeSettings) -> None:
    """Say once which options of libpq in a URL of PostgreSQL are not kept."""
    for name, url in (("database_url", settings.database_url), ("listen_url", settings.listen_url)):
        if url is not None and not url.startswith("sqlite"):
            target = postgres_url.parse(url)
            for note in target.notes:
                log.info("%s: %s", name, note)
            for warning in target.warnings:
                log.warning("%s: %s", name, warning)


class LeaseKeeper:
    """Renews the lease, in a thread and over a connection of its own: no work of the bridge can hold it up.

    It gives up when the lease is another's, when it could not be renewed for its whole life, or when the leader's loop
    stands still.
    """

    def __init__(self, settings: BridgeSettings, held: Lease) -> None:
        self._settings = settings
        self._ttl = settings.lease_ttl
        self._held = held
        self._renewed = time.monotonic()
        self._word: Word | None = None
        self._alive_at: Callable[[], float] = time.monotonic
        self._stopping = threading.Event()

    def watch(self, alive_at: Callable[[], float]) -> None:
        """Give up when `alive_at`, on the monotonic clock, is long ago."""
        self._alive_at = alive_at

    @property
    def renewed_ago(self) -> float:
        """Seconds since the lease was renewed."""
        return time.monotonic() - self._renewed

    def note_renewed(self) -> None:
        """A batch of the leader has renewed the lease on its way. From any thread."""
        self._renewed = time.monotonic()

    def say(self, word: Word) -> None:
        """Have the leader's word written with the next renewal. From any thread."""
        self._word = word

    async def run(self) -> None:
        """Keep the lease until cancelled. Raises `DeposedError`, or what a person must mend."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def end(error: BaseException) -> None:
            if not ended.done():
                ended.set_exception(error)

        def work() -> None:
            try:
                asyncio.run(self._keep())
            except BaseException as error:
                with suppress(RuntimeError):  # the loop has ended, and with it who would hear this
                    loop.call_soon_threadsafe(end, error)

        threading.Thread(target=work, name="keep the lease", daemon=True).start()
        try:
            await ended
        finally:
            self._stopping.set()

    async def _keep(self) -> None:
        settings = self._settings
        engine = make_engine(settings.database_url, instance=settings.instance, idle_limit=self._ttl)
        database = Database(engine, settings.team_name)
        try:
            while not await asyncio.to_thread(self._stopping.wait, self._ttl / 4):
                await self._renew(database)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await engine.dispose()

    async def _renew(self, database: Database) -> None:
        if time.monotonic() - self._alive_at() > max(_STANDSTILL, 3 * self._ttl):
            raise DeposedError("the lease is given up, since the bridge's own loop stands still")
        word, self._word = self._word, None
        try:
            async with asyncio.timeout(self._ttl):
                ours = await lease.renew(database, self._held, word)
            raise_if_cancelled()
        except Exception as error:
            raise_if_cancelled()
            raise_unless_transient(error)
            if time.monotonic() - self._renewed > self._ttl:
                raise DeposedError(f"the lease could not be renewed: {brief(error)}") from None
            return
        if not ours:
            raise DeposedError("another bridge has taken the lease")
        self._renewed = time.monotonic()
