"""`airflow-mqtt worker run`: put the parts together and run them."""

import errno
import fcntl
import logging
import os
import platform
import selectors
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_mqtt.config.printing import log_to_stderr
from airflow_mqtt.protocol.errors import NameInUseError, PayloadError, RefusedError, SettingError, StorageError
from airflow_mqtt.protocol.messages import JobKind
from airflow_mqtt.protocol.topics import Topics
from airflow_mqtt.worker import processes
from airflow_mqtt.worker.core import Config, Core, limits, rules
from airflow_mqtt.worker.core.state import Restored
from airflow_mqtt.worker.frames import largest_call
from airflow_mqtt.worker.health import PERIOD, Health, Readings
from airflow_mqtt.worker.health_function import HealthFunction
from airflow_mqtt.worker.journal import Journal, broken
from airflow_mqtt.worker.local_api import LocalApi
from airflow_mqtt.worker.loop import Loop
from airflow_mqtt.worker.mqtt.link import Link
from airflow_mqtt.worker.mqtt.probe import Probe
from airflow_mqtt.worker.packages import installed_version
from airflow_mqtt.worker.relay import Relay
from airflow_mqtt.worker.runners import Runners
from airflow_mqtt.worker.settings import SETTINGS, WorkerSettings

log = logging.getLogger(__name__)

EXIT_REFUSED = 1
EXIT_NAME_IN_USE = 3
EXIT_STORAGE = 74  # EX_IOERR of sysexits.h

JOURNAL = "journal.sqlite"

#: From which release on the Task SDK has what runs them.
_SDK_OF = {JobKind.AIRFLOW: (), JobKind.CONNECTION_TEST: (1, 3)}

#: With which tasks say figures, and spans.
_TELEMETRY_LIBRARIES = ("statsd", "opentelemetry-exporter-otlp-proto-http")

#: Of the largest calls, how many have room on the local socket at a time.
ROOM_OF_CALLS = 2

#: What a state directory may hold although it has no journal: it was removed, or not made before the disk was full.
OURS = frozenset({"jobs", "lock", "worker.sock", "host.log", "lost+found", f"{JOURNAL}-wal", f"{JOURNAL}-shm"})

#: Errors of a disk that are not a mistake in the settings, and may be over at the next start.
_MAY_PASS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


def run(values: dict[str, Any]) -> int:
    """Run a worker with `values` (of `config.settings.resolve`); return the exit code.

    `SettingError` for what the settings together do not allow; 1 when the worker must not run or go on, 3 when its name
    is in use, 74 (EX_IOERR) when its disk fails. Runners go on, whatever it is.
    """
    settings = WorkerSettings.of(values)
    _keep_secrets()
    log_to_stderr(settings.log_level, "%(asctime)s %(levelname)s %(message)s")
    try:
        with _own(settings.state_dir):
            _work(settings)
    except NameInUseError as error:
        log.error("%s", error)
        return EXIT_NAME_IN_USE
    except RefusedError as error:
        log.error("%s", error)
        return EXIT_REFUSED
    except (StorageError, OSError) as error:
        log.debug("the worker ends here", exc_info=True)
        log.error("%s", _disk_failed(settings.state_dir, error))
        return EXIT_STORAGE
    return 0


def _keep_secrets() -> None:
    """Keep from tasks, which run as the same user, what this process knows; the password it has read by now."""
    processes.close_memory()
    for setting in SETTINGS:
        if setting.secret:
            os.environ.pop(setting.env, None)


def _disk_failed(state_dir: Path, error: Exception) -> str:
    try:
        free = f"{shutil.disk_usage(state_dir).free // 1024} KiB are free there"
    except OSError as unknown:
        free = str(unknown)
    return (
        f"the state directory {state_dir} cannot be used: {error}; {free}. The worker ends;"
        " tasks that run go on, and are found again at the next start"
    )


def _own(state_dir: Path) -> Any:
    """Return the open lock of the state directory, which is made where it is missing."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        foreign = {entry.name for entry in state_dir.iterdir()} - OURS
        if foreign and not (state_dir / JOURNAL).exists():
            raise SettingError(
                f"state_dir: {state_dir} holds other things ({min(foreign)}) and no journal of a worker;"
                " give --state-dir a directory that is empty or does not exist"
            )
        _refuse_links(state_dir)
        (state_dir / "jobs").mkdir(exist_ok=True, mode=0o700)
        lock = os.fdopen(os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")
    except OSError as error:
        if error.errno in _MAY_PASS:
            raise
        raise SettingError(f"state_dir: {state_dir} cannot be used ({error.strerror})") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RefusedError(f"another worker runs on {state_dir}; stop it, or give this one --state-dir") from None
    except OSError as error:
        lock.close()
        raise SettingError(
            f"state_dir: {state_dir} cannot be locked ({error.strerror}); give --state-dir a directory on a local disk"
        ) from None
    return lock


def _refuse_links(state_dir: Path) -> None:
    """Refuse what leads elsewhere: in a directory that was somebody else's, we would empty what it leads to."""
    for name in sorted(OURS | {JOURNAL}):
        if (state_dir / name).is_symlink():
            raise SettingError(
                f"state_dir: {state_dir / name} is a symbolic link; remove it, or give --state-dir another directory"
            )


def _listen(state_dir: Path, selector: selectors.BaseSelector, runners: Runners, max_call_bytes: int) -> LocalApi:
    try:
        return LocalApi(
            state_dir / "worker.sock", selector, admits=runners.keys.fit, max_bytes=ROOM_OF_CALLS * max_call_bytes
        )
    except OSError as error:
        if error.errno in _MAY_PASS:
            raise
        raise SettingError(
            f"state_dir: no socket can be made in {state_dir} ({error.strerror}); give --state-dir a directory on a"
            " local disk"
        ) from None


def _recalled(config: Config, restored: Restored, journal: Path) -> Core:
    try:
        return Core(config, restored)
    except (PayloadError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise broken(journal, f"a row is not understood: {type(error).__name__} {error}") from None


def _work(settings: WorkerSettings) -> None:
    with Journal(settings.state_dir / JOURNAL) as journal, selectors.DefaultSelector() as selector:
        restored = journal.load()
        config = _config(settings, restored.meta["journal"], _boot(settings.state_dir / JOURNAL))
        core = _recalled(config, restored, settings.state_dir / JOURNAL)
        max_call_bytes = largest_call(settings.max_message_bytes)
        relay = Relay(selector) if settings.relay_telemetry else None
        runners = Runners(
            settings.state_dir,
            settings.python,
            settings.runner_idle_timeout,
            selector,
            max_call_bytes=max_call_bytes,
            keep_warm=settings.warm == "start" and bool(config.kinds),
            warm_dags_memory=settings.warm_dags_memory if settings.warm_dags else 0,
            environment=None if relay is None else _telemetry_settings(settings, relay),
        )
        local_api = _listen(settings.state_dir, selector, runners, max_call_bytes)
        ours = frozenset({config.instance, restored.meta.get("instance", config.instance)})
        filters = Topics(settings.root).of_worker(settings.name)
        limit = limits.restored(restored.meta, config.broker, time.time())
        link = Link(
            settings,
            filters,
            selector,
            lambda: loop.begin_connection(),  # noqa: PLW0108  made below
            limit=limit,
            secret=restored.meta["client"],
        )
        health = _health(settings, selector, lambda: link.traffic)
        loop = Loop(
            core,
            journal,
            link,
            local_api,
            runners,
            selector,
            lambda now: Probe(settings, selector, ours, config.instance, now, v5=link.v5),
            health,
            relay,
        )
        _warn_of_account(settings)
        if warning := settings.broker_url.warning:
            log.warning("%s", warning)
        log.info("worker %s starts: queues %s, %d slots", settings.name, ",".join(settings.queues), settings.slots)
        try:
            loop.recover()
            loop.run()
        finally:
            link.drop()
            local_api.close()
            health.close()
            runners.close()
            if relay is not None:
                relay.close()


def _telemetry_settings(settings: WorkerSettings, relay: Relay) -> dict[str, str]:
    """Return the settings with which tasks say figures and spans to `relay`, as far as they can.

    Another interpreter than ours is taken to have the libraries.
    """
    lines, spans = (
        settings.python != sys.executable or installed_version(name) is not None for name in _TELEMETRY_LIBRARIES
    )
    if not (lines and spans):
        missing = " and ".join(
            name for name, there in zip(_TELEMETRY_LIBRARIES, (lines, spans), strict=True) if not there
        )
        log.warning("relay_telemetry: %s not installed beside the Task SDK; pip install 'airflow-mqtt[otel]'", missing)
    return relay.environment(lines=lines, spans=spans)


def _health(
    settings: WorkerSettings, selector: selectors.BaseSelector, traffic: Callable[[], tuple[int, int] | None]
) -> Health:
    interval = settings.health_interval
    function = None
    if settings.health_function:
        function = HealthFunction(settings.health_function, settings.python, interval or PERIOD, selector)
    judged = bool(settings.maintenance_when)
    return Health(Readings(settings.state_dir / JOURNAL), traffic, function, interval, judged=judged)


def _warn_of_account(settings: WorkerSettings) -> None:
    """Say that the account is not the name; only that, since not every broker has the rules of `mosquitto/acl`."""
    account, name = settings.broker_url.username, settings.name
    if account and account != name:
        log.warning(
            "the account %r of broker_url is not the worker's name %r: the broker's rules bind topics to the name;"
            " give --name or broker_url the other's name, unless your broker has other rules",
            account,
            name,
        )


def _boot(journal: Path) -> str:
    """Name this power-on and the journal's file; empty where the system has no name for it (it is not Linux)."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{journal.stat().st_ino}"
    except OSError:
        return ""


def _config(settings: WorkerSettings, journal: str, boot: str) -> Config:
    return Config(
        name=settings.name,
        instance=os.urandom(8).hex(),
        journal=journal,
        boot=boot,
        broker=f"{settings.broker_url.host}:{settings.broker_url.port}",
        queues=settings.queues,
        slots=settings.slots,
        kinds=_kinds(settings),
        labels=settings.labels,
        platform=_platform(),
        version=installed_version("airflow-mqtt") or "",
        root=settings.root,
        heartbeat_interval=settings.heartbeat_interval,
        drain_timeout=settings.drain_timeout,
        kill_grace=settings.kill_grace,
        log_rate=settings.log_rate,
        max_message_bytes=settings.max_message_bytes,
        store_limit=settings.store_limit,
        disk_reserve=settings.disk_reserve,
        rules=rules.of(settings.maintenance_when, settings.maintenance_until),
        health_interval=settings.health_interval,
    )


def _kinds(settings: WorkerSettings) -> tuple[str, ...]:
    """Return what this worker can run. Another interpreter than ours is taken at its owner's word."""
    if settings.python != sys.executable:
        return tuple(kind.value for kind in JobKind)
    version = installed_version("apache-airflow-task-sdk")
    if version is None:
        log.warning("apache-airflow-task-sdk is not installed beside the worker: it can run no tasks of Airflow")
        return ()
    return tuple(kind.value for kind in JobKind if _release(version) >= _SDK_OF[kind])


def _release(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version, as far as there are some."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _platform() -> dict[str, str]:
    return {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()}
