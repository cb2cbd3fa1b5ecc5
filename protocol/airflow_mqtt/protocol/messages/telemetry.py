"""What tasks have for a monitoring system of the site: the bridge passes it on, and nobody acknowledges it."""

import base64
import binascii
from dataclasses import dataclass
from typing import Self

from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import checks
from airflow_mqtt.protocol.messages.message import Message, must_be

#: What a bridge may announce: it passes on what workers send for a monitoring system (`Telemetry`).
TELEMETRY = "telemetry"

#: What the spans of a `Telemetry` may unpack to.
MAX_SPANS = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Telemetry(Message):
    """What tasks of a worker have for a monitoring system of the site: lines of StatsD, and spans.

    `spans` are messages of OTLP (`ExportTraceServiceRequest`), packed as a payload is, in base64. Nobody acknowledges
    any of it.
    """

    lines: list[str] = must_be(checks.texts, default_factory=list)
    spans: str = must_be(checks.body, default="")

    @classmethod
    def of(cls, lines: list[str], spans: bytes) -> Self:
        return cls(lines=lines, spans=base64.b64encode(codec.pack(spans)).decode())

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return len(self.spans) + sum(map(len, self.lines))

    @property
    def otlp(self) -> bytes:
        """The spans; `PayloadError` when they are not base64, or unpack to too much."""
        try:
            packed = base64.b64decode(self.spans, validate=True)
        except (binascii.Error, ValueError):
            raise PayloadError("Telemetry: field 'spans' is not base64") from None
        return codec.unpack(packed, max_bytes=MAX_SPANS)
