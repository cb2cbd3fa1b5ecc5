"""OpenTelemetry's messages: https://opentelemetry.io/docs/specs/otlp/. Needs the extra `otel`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from airflow_mqtt.bridge.telemetry.spans import Attributes, Event, Span, Value
from airflow_mqtt.protocol.errors import PayloadError, SettingError

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

#: By which attribute a device's spans are known as its own. It is put in the place of what a device says there.
WORKER: Final = "airflow_mqtt.worker"

#: What a message of a worker may hold. Its size is bounded before; these bound what it costs to look at, and to store:
#: spans, resources, which each get the worker's name, and what these hold.
_SPANS: Final = 2_000
_RESOURCES: Final = 500
_PARTS: Final = 5_000

_MISSING: Final = (
    "otlp_endpoint is set, and OpenTelemetry is not installed here; pip install 'airflow-mqtt[otel]', or leave it out"
)


class Otlp:
    """Makes messages. Raises `SettingError` where the libraries are not there."""

    def __init__(self, resource: Attributes) -> None:
        try:
            from google.protobuf.message import DecodeError  # noqa: PLC0415  of the extra `otel`
            from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # noqa: PLC0415
            from opentelemetry.proto.common.v1 import common_pb2  # noqa: PLC0415
            from opentelemetry.proto.trace.v1 import trace_pb2  # noqa: PLC0415
        except ImportError:
            raise SettingError(_MISSING) from None
        self._malformed = DecodeError
        self._request = trace_service_pb2.ExportTraceServiceRequest
        self._common = common_pb2
        self._trace = trace_pb2
        self._resource = resource

    def encoded(self, spans: Iterable[Span]) -> bytes:
        """Return a message that holds `spans`, all of one resource."""
        message = self._request()
        group = message.resource_spans.add()
        group.resource.attributes.extend(self._attributes(self._resource))
        scope = group.scope_spans.add()
        scope.scope.name = "airflow_mqtt.bridge"
        for span in spans:
            self._add(scope.spans.add(), span)
        return bytes(message.SerializeToString())

    def _add(self, target: Any, span: Span) -> None:
        target.trace_id = bytes.fromhex(span.context.trace)
        target.span_id = bytes.fromhex(span.context.span)
        target.parent_span_id = bytes.fromhex(span.parent)
        target.trace_state = span.context.state
        target.flags = 1
        target.name = span.name
        target.kind = self._trace.Span.SPAN_KIND_CLIENT if span.calls else self._trace.Span.SPAN_KIND_INTERNAL
        target.start_time_unix_nano = _nanoseconds(span.began)
        target.end_time_unix_nano = _nanoseconds(span.ended)
        target.attributes.extend(self._attributes(span.attributes))
        for event in span.events:
            self._add_event(target.events.add(), event)
        if span.error:
            target.status.code = self._trace.Status.STATUS_CODE_ERROR
            target.status.message = span.error

    def _add_event(self, target: Any, event: Event) -> None:
        target.name = event.name
        target.time_unix_nano = _nanoseconds(event.at)
        target.attributes.extend(self._attributes(event.attributes))

    def _attributes(self, values: Attributes) -> "list[KeyValue]":
        return [self._common.KeyValue(key=key, value=self._value(value)) for key, value in values.items()]

    def _value(self, value: Value) -> Any:
        match value:
            case str():
                return self._common.AnyValue(string_value=value)
            case int():
                return self._common.AnyValue(int_value=value)
        return self._common.AnyValue(double_value=value)

    def attributed(self, payload: bytes, worker: str) -> bytes:
        """Return a worker's message with its name in each resource, whatever it says there itself.

        Raises `PayloadError` when it is no message with spans, or has more parts than tasks have.
        """
        message = self._request()
        try:
            message.ParseFromString(payload)
        except self._malformed:
            raise PayloadError("it is no ExportTraceServiceRequest of OTLP") from None
        _check(message.resource_spans)
        message.DiscardUnknownFields()
        for group in message.resource_spans:
            self._name(group, worker)
        return bytes(message.SerializeToString())

    def _name(self, group: Any, worker: str) -> None:
        others = [one for one in group.resource.attributes if one.key != WORKER]
        del group.resource.attributes[:]
        group.resource.attributes.extend([*others, *self._attributes({WORKER: worker})])


def _check(groups: Any) -> None:
    """Raise `PayloadError` for what is not passed on. It looks at no more than it lets through."""
    if len(groups) > _RESOURCES or sum(len(one.resource.attributes) + len(one.scope_spans) for one in groups) > _PARTS:
        raise PayloadError("it holds more resources, attributes of these, or scopes than those of tasks")
    spans = sum(len(scope.spans) for group in groups for scope in group.scope_spans)
    if not 0 < spans <= _SPANS:
        raise PayloadError(f"it holds more than {_SPANS} spans" if spans else "it holds no spans")


def _nanoseconds(at: float) -> int:
    return max(0, int(at * 1e9))
