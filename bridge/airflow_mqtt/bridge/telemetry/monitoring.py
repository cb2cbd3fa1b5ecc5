"""Joins the parts of telemetry, as far as the settings ask for them."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from airflow_mqtt.bridge.telemetry import spans
from airflow_mqtt.bridge.telemetry.exporter import Exporter
from airflow_mqtt.bridge.telemetry.otlp import Otlp
from airflow_mqtt.bridge.telemetry.relay import Relay
from airflow_mqtt.bridge.telemetry.spans import Span
from airflow_mqtt.bridge.telemetry.statsd import Statsd
from airflow_mqtt.config.bridge import BridgeSettings
from airflow_mqtt.config.version import VERSION
from airflow_mqtt.protocol.errors import SettingError
from airflow_mqtt.protocol.trace_context import TraceContext


class CallSpans:
    """Makes a span of each call that names a recorded trace, as the parent of what the API server does."""

    def __init__(self, add: Callable[[Span], None]) -> None:
        self._add = add

    def begin(self, headers: dict[str, str]) -> "Begun | None":
        """Return the span of a call with these headers, if its trace is recorded."""
        caller = TraceContext.of(headers)
        return None if caller is None else Begun(replace(caller, span=spans.new_id()), caller.span, time.time())

    def end(self, begun: "Begun", name: str, status: int, *, job: str, worker: str) -> None:
        """Have it sent; `name` is the method and the route, `status` 0 where there was no answer."""
        span = spans.of_call(
            begun.context, begun.parent, name, began=begun.at, ended=time.time(), status=status, job=job, worker=worker
        )
        self._add(span)


@dataclass(frozen=True, slots=True)
class Begun:
    """A span that has begun, and its parent."""

    context: TraceContext
    parent: str
    at: float


class Monitoring:
    """What a bridge says to monitoring systems, and passes on to them.

    Raises `SettingError` for what the settings name and is not there.
    """

    def __init__(self, settings: BridgeSettings) -> None:
        self._otlp: Otlp | None = None
        self.exporter: Exporter | None = None
        self.calls: CallSpans | None = None
        self._lines: Statsd | None = None
        if settings.otlp_endpoint is not None:
            resource = {
                "service.name": "airflow-mqtt-bridge",
                "service.version": VERSION,
                "service.instance.id": settings.instance,
            }
            self._otlp = Otlp(resource)
            self.exporter = Exporter(settings.otlp_endpoint, settings.otlp_headers, self._otlp)
            self.calls = CallSpans(self.exporter.add)
        if settings.statsd_address is not None:
            host, port = settings.statsd_address
            try:
                self._lines = Statsd(host, port)
            except OSError as error:
                raise SettingError(f"statsd_address: {host} is not found ({error.strerror or error})") from None

    @classmethod
    def of(cls, settings: BridgeSettings) -> Self | None:
        return cls(settings) if settings.relays else None

    def relay(self, dropped: Counter[str]) -> Relay:
        return Relay(self.exporter, self._otlp, self._lines, clock=time.monotonic, dropped=dropped)
