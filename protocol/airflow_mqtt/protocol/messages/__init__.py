"""The messages of protocol version 1, as frozen dataclasses.

Each field says what it may hold; `decode` holds a payload against that and raises `PayloadError` with the name
of the first field that does not fit. Fields that a reader does not know are ignored, so either side may be the
newer one. `encode` leaves out what is at its default. Times are seconds since the epoch.

Others import them from here. They stand by who says them: `orders` the bridge to a worker, `reports` a worker on its
jobs, `calls` a task to the Execution API, `parcels` several of these in one, `status` each to anyone, and `telemetry`
tasks to a monitoring system. A field's check is in `checks`, or in `health` for what a device says of its own health;
`message` is the base of all.
"""

from airflow_mqtt.protocol.messages.calls import Method, Request, Response
from airflow_mqtt.protocol.messages.checks import (
    MAX_HELD,
    MAX_INT32,
    MAX_INTEGER,
    MAX_INTERVAL,
    MAX_POSITION,
    MAX_SHORT_TEXT,
    MAX_SIZE,
    MAX_SLOTS,
    MAX_TAIL,
    MAX_TEXT,
    MAX_TEXTS,
    Maybe,
    Real,
    Whole,
    cut,
    sanitise,
)
from airflow_mqtt.protocol.messages.health import (
    FIGURES,
    MAX_EXTRA,
    MAX_EXTRA_NAME,
    MAX_EXTRA_SIZE,
    MAX_EXTRA_TEXT,
    MAX_FIGURE,
    extra_size,
    fitting,
    is_extra,
)
from airflow_mqtt.protocol.messages.message import Message, numbers
from airflow_mqtt.protocol.messages.orders import Ack, Cancel, Desired, JobKind, Run, decode_order
from airflow_mqtt.protocol.messages.parcels import PARCELS, LogPart, Parcel, Part, decode_report
from airflow_mqtt.protocol.messages.reports import (
    Born,
    Event,
    EventType,
    FinishOutcome,
    Held,
    HeldState,
    LogChunk,
    RejectReason,
    UnsupportedBirth,
    understands,
)
from airflow_mqtt.protocol.messages.status import (
    BridgeState,
    BridgeStatus,
    JobStatus,
    OfflineReason,
    Probe,
    QueueStatus,
    ReportedState,
    WorkerInfo,
    WorkerStatus,
)
from airflow_mqtt.protocol.messages.telemetry import MAX_SPANS, TELEMETRY, Telemetry

__all__ = [
    "FIGURES",
    "MAX_EXTRA",
    "MAX_EXTRA_NAME",
    "MAX_EXTRA_SIZE",
    "MAX_EXTRA_TEXT",
    "MAX_FIGURE",
    "MAX_HELD",
    "MAX_INT32",
    "MAX_INTEGER",
    "MAX_INTERVAL",
    "MAX_POSITION",
    "MAX_SHORT_TEXT",
    "MAX_SIZE",
    "MAX_SLOTS",
    "MAX_SPANS",
    "MAX_TAIL",
    "MAX_TEXT",
    "MAX_TEXTS",
    "PARCELS",
    "TELEMETRY",
    "Ack",
    "Born",
    "BridgeState",
    "BridgeStatus",
    "Cancel",
    "Desired",
    "Event",
    "EventType",
    "FinishOutcome",
    "Held",
    "HeldState",
    "JobKind",
    "JobStatus",
    "LogChunk",
    "LogPart",
    "Maybe",
    "Message",
    "Method",
    "OfflineReason",
    "Parcel",
    "Part",
    "Probe",
    "QueueStatus",
    "Real",
    "RejectReason",
    "ReportedState",
    "Request",
    "Response",
    "Run",
    "Telemetry",
    "UnsupportedBirth",
    "Whole",
    "WorkerInfo",
    "WorkerStatus",
    "cut",
    "decode_order",
    "decode_report",
    "extra_size",
    "fitting",
    "is_extra",
    "numbers",
    "sanitise",
    "understands",
]
