"""Is a worker of this name alive? Asked with a connection of its own, before ours could take its session over.

`docs/reference/protocol.md`, "Identity": the retained status says who was there last; a living worker answers a
`Probe` by publishing its status.
"""

import logging
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Probe, ReportedState, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind, Topics
from airflow_mqtt.worker.mqtt.link import HANDSHAKE_TIMEOUT, UNSUPPORTED_VERSION, build_client, connect, denial, refusal
from airflow_mqtt.worker.settings import WorkerSettings

log = logging.getLogger(__name__)

#: The retained status follows the SUBACK at once; this is for slow links.
RETAINED_WAIT = 1.0
ANSWER_WAIT = 5.0


class NoAnswerError(ConnectionError):
    """The broker closed the connection, or refused this version of MQTT, before it granted anything."""


@dataclass(slots=True)
class _Seen:
    answered: bool = False
    granted: bool = False
    failed: str = ""
    retained: WorkerStatus | None = None
    live: list[WorkerStatus] = field(default_factory=list)


def name_is_taken(
    settings: WorkerSettings, ours: frozenset[str], instance: str, *, v5: bool, interrupted: Callable[[], bool]
) -> bool:
    """Whether another living worker has the name. `ours` are instances that are or were this worker.

    `OSError` when the broker cannot be asked: `NoAnswerError` when another version of MQTT may help,
    `InterruptedError` once `interrupted` says so.
    """
    topics = Topics(settings.root)
    seen = _Seen()
    client_id = f"{settings.root.replace('/', '-')}-worker-{settings.name}-probe-{os.urandom(4).hex()}"
    client = build_client(settings, client_id, v5=v5, clean=True)
    topic = topics.worker(settings.name, TopicKind.STATUS)
    _listen(client, topic, seen)
    connect(client, settings, v5=v5, clean=True)
    try:
        _spin(client, HANDSHAKE_TIMEOUT, lambda: seen.granted, seen, interrupted)
        if not seen.answered:
            raise NoAnswerError(seen.failed or "no answer from the broker")
        if not seen.granted:
            raise ConnectionError(seen.failed or "no answer from the broker")
        _spin(client, RETAINED_WAIT, lambda: seen.retained is not None, seen, interrupted)
        if seen.retained is None or not _foreign(seen.retained, ours):
            return False
        log.info("the last status of %s is another instance's; asking whether it lives", settings.name)
        client.publish(topics.worker(settings.name, TopicKind.PROBE), Probe(instance=instance).encode(), qos=1)
        _spin(client, ANSWER_WAIT, lambda: any(_foreign(status, ours) for status in seen.live), seen, interrupted)
        return any(_foreign(status, ours) for status in seen.live)
    finally:
        client.disconnect()
        client.loop_write()


def _foreign(status: WorkerStatus, ours: frozenset[str]) -> bool:
    return status.state != ReportedState.OFFLINE and status.instance not in ours


def _listen(client: Any, topic: str, seen: _Seen) -> None:
    def on_connect(client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        seen.answered = code.value != UNSUPPORTED_VERSION
        if code.is_failure:
            seen.failed = refusal(code)
        else:
            client.subscribe(topic, 1)

    def on_subscribe(_client: Any, _data: Any, _mid: int, codes: Any, _properties: Any) -> None:
        seen.granted = not any(code.is_failure for code in codes)
        seen.failed = "" if seen.granted else denial([topic])

    def on_message(_client: Any, _data: Any, message: Any) -> None:
        try:
            status = WorkerStatus.decode(message.payload)
        except PayloadError:
            return
        if message.retain:
            seen.retained = status
        else:
            seen.live.append(status)

    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_message = on_message


def _spin(client: Any, timeout: float, done: Callable[[], bool], seen: _Seen, interrupted: Callable[[], bool]) -> None:
    """Drive `client` until `done`, it failed, or time is up. `InterruptedError` once `interrupted`."""
    until = time.monotonic() + timeout
    while not done() and not seen.failed:
        if interrupted():
            raise InterruptedError("a signal came")
        channel = client.socket()
        remaining = until - time.monotonic()
        if channel is None or remaining <= 0:
            return
        writable = [channel] if client.want_write() else []
        readable, writable, _ = select.select([channel], writable, [], min(remaining, 0.5))
        try:
            if readable:
                client.loop_read()
            if writable:
                client.loop_write()
            client.loop_misc()
        except Exception as error:
            # paho raises whatever comes at what it cannot parse, see `link.Link.ready`.
            seen.failed = f"the broker's answer is not understood: {error}"
