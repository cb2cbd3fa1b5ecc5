"""`airflow-mqtt worker run`: put the parts together and run them."""

import fcntl
import logging
import os
import platform
import selectors
import sys
from pathlib import Path
from typing import Any

from airflow_mqtt.protocol.errors import RefusedError, SettingError
from airflow_mqtt.protocol.messages import JobKind
from airflow_mqtt.protocol.topics import Topics
from airflow_mqtt.worker.core import Config, Core
from airflow_mqtt.worker.journal import Journal
from airflow_mqtt.worker.link import Link
from airflow_mqtt.worker.local_api import LocalApi
from airflow_mqtt.worker.loop import Loop
from airflow_mqtt.worker.packages import installed_version
from airflow_mqtt.worker.probe import name_is_taken
from airflow_mqtt.worker.runners import Runners
from airflow_mqtt.worker.settings import WorkerSettings

log = logging.getLogger(__name__)


def run(values: dict[str, Any]) -> int:
    """Run a worker with `values` (of `protocol.settings.resolve`); return the exit code.

    `SettingError` for what the settings together do not allow; 1 when the worker must not run or go on.
    """
    settings = WorkerSettings.of(values)
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        with _own(settings.state_dir):
            _work(settings)
    except RefusedError as error:
        log.error("%s", error)
        return 1
    return 0


def _own(state_dir: Path) -> Any:
    """Return the open lock of the state directory, which is made where it is missing."""
    try:
        (state_dir / "jobs").mkdir(parents=True, exist_ok=True, mode=0o700)
        state_dir.chmod(0o700)
        lock = (state_dir / "lock").open("w")
    except OSError as error:
        raise SettingError(f"state_dir: {state_dir} cannot be used ({error.strerror})") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RefusedError(f"another worker runs on {state_dir}; stop it, or give this one --state-dir") from None
    return lock


def _work(settings: WorkerSettings) -> None:
    with Journal(settings.state_dir / "journal.sqlite") as journal, selectors.DefaultSelector() as selector:
        restored = journal.load()
        config = _config(settings, restored.meta["journal"], _boot(settings.state_dir / "journal.sqlite"))
        core = Core(config, restored)
        runners = Runners(settings.state_dir, settings.python, settings.runner_idle_timeout, selector)
        local_api = LocalApi(settings.state_dir / "worker.sock", selector)
        ours = frozenset({config.instance, restored.meta.get("instance", config.instance)})
        filters = Topics(settings.root).of_worker(settings.name)
        link = Link(settings, filters, selector, lambda: loop.begin_connection())  # noqa: PLW0108  made below
        loop = Loop(
            core,
            journal,
            link,
            local_api,
            runners,
            selector,
            lambda: name_is_taken(settings, ours, config.instance, v5=link.v5),
        )
        log.info("worker %s starts: queues %s, %d slots", settings.name, ",".join(settings.queues), settings.slots)
        try:
            loop.recover()
            loop.run()
        finally:
            link.drop()
            local_api.close()
            runners.close()


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
    )


def _kinds(settings: WorkerSettings) -> tuple[str, ...]:
    """Return what this worker can run. Another interpreter than ours is taken at its owner's word."""
    if settings.python == sys.executable and installed_version("apache-airflow-task-sdk") is None:
        log.warning("apache-airflow-task-sdk is not installed beside the worker: it can run no tasks of Airflow")
        return ()
    return (JobKind.AIRFLOW.value,)


def _platform() -> dict[str, str]:
    return {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()}
