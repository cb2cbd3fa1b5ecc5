"""`airflow-mqtt bridge run`."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, Final

from airflow_mqtt.bridge.leadership import Bridge
from airflow_mqtt.config.bridge import BridgeSettings
from airflow_mqtt.config.printing import log_to_stderr
from airflow_mqtt.protocol.errors import AirflowMqttError, first_of

log = logging.getLogger(__name__)

#: Seconds for an orderly end. Docker waits ten, then kills.
_PATIENCE: Final = 8.0


def run(values: Mapping[str, Any]) -> int:
    """Run a bridge until SIGTERM or SIGINT; return the exit code: 0, or 1 when it must not go on."""
    settings = BridgeSettings.of(values)
    log_to_stderr(settings.log_level, "%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)
    for doubled in ("mqtt", "sqlalchemy.pool"):  # at each try, with a traceback, what we say once in a line
        logging.getLogger(doubled).setLevel(logging.CRITICAL)
    if warning := settings.broker_url.warning:
        log.warning("%s", warning)
    failed = False
    try:
        asyncio.run(_run(settings))
    except* AirflowMqttError as errors:  # from the task that met it, or from several
        print(f"airflow-mqtt bridge: {first_of(errors)}", file=sys.stderr)  # noqa: T201
        failed = True
    return 1 if failed else 0


async def _run(settings: BridgeSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        loop.call_later(_PATIENCE, _end_at_once)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.set_exception_handler(_on_stray_error)
    await Bridge(settings).run(stop)


def _end_at_once() -> None:
    """End without those who do not answer: a roll-back at a silent database cannot be cancelled. Nothing is lost."""
    log.warning("ending without a farewell, since database or broker do not answer; the lease runs out by itself")
    logging.shutdown()
    os._exit(0)


def _on_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say in one line what aiomqtt's callbacks meet when the socket they watch is closed in between; it reconnects."""
    error = context.get("exception")
    if isinstance(error, (OSError, KeyError)) and "callback" in context["message"]:
        log.warning("a connection ended in the middle of something: %r", error)
    else:
        loop.default_exception_handler(context)
