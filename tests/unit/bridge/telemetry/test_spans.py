"""What becomes a span, and what a device's message may hold."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.bridge.telemetry import relay as relay_module
from airflow_mqtt.bridge.telemetry import spans, statsd
from airflow_mqtt.bridge.telemetry.exporter import Exporter
from airflow_mqtt.bridge.telemetry.otlp import WORKER, Otlp
from airflow_mqtt.bridge.telemetry.relay import Relay
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import MAX_SPANS, Telemetry

pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def row(**values):
    carrier = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    base = {
        "id": "job-1", "workload": json.dumps({"ti": {"context_carrier": carrier}}), "dag_id": "dag", "run_id": "run",
        "task_id": "task", "map_index": -1, "try_number": 1, "state": "succeeded", "attempt": 2, "reason": "",
        "worker": "edge-1", "queue": "q", "queued_at": 100.0, "finished_at": 160.5,
    }  # fmt: skip
    return SimpleNamespace(**base | values)


def decoded(payload):
    (group,) = pb2.ExportTraceServiceRequest.FromString(payload).resource_spans
    return group, group.scope_spans[0].spans


def attributes(of):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


def test_a_job_is_a_span_with_its_history():
    history = [
        SimpleNamespace(event="queue", at=100.0, before=None, after="queued", by="scheduler:1", attempt=0, reason=""),
        SimpleNamespace(event="lose", at=160.5, before="running", after="lost", by="bridge:b", attempt=2, reason="x"),
    ]
    lost = row(state="lost", reason="nothing was heard\x00 " + "of it" * 1000)
    group, (span,) = decoded(Otlp({"service.name": "bridge"}).encoded([spans.of_job(lost, history)]))
    assert attributes(group.resource) == {"service.name": "bridge"}
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (100 * 10**9, 160_500_000_000)
    assert attributes(span) | {"airflow_mqtt.worker": "edge-1", "airflow_mqtt.attempt": 2} == attributes(span)
    assert [(event.name, event.time_unix_nano) for event in span.events] == [
        ("queue", 10**11),
        ("lose", 160_500_000_000),
    ]
    assert (
        span.status.code == 2
        and span.status.message.startswith("nothing was heard")
        and len(span.status.message) == 1000
    )


def test_its_id_is_the_same_whoever_tells_it():
    assert spans.of_job(row(), []).context.span == spans.of_job(row(worker="edge-2"), []).context.span


@pytest.mark.parametrize(
    "workload",
    ["", "[]", "{}", '{"ti": null}', '{"ti": {"context_carrier": null}}', '{"ti": {"context_carrier": {"traceparent": 1}}}',
     json.dumps({"ti": {"context_carrier": {"traceparent": f"00-{TRACE}-{SPAN}-00"}}})],
)  # fmt: skip
def test_what_nobody_records_is_none(workload):
    assert spans.of_job(row(workload=workload), []) is None


# --- what devices say


LINES = [
    "airflow.ti.start:1|c", "airflow.task.duration:12.5|ms", "a.b,dag_id=x,task_id=y:1|c", "g:-3|g", "g:+3|g",
    "x:1e-05|ms|@0.5", "x:1|c|#team:a,queue:b",
]  # fmt: skip

NO_LINES = [
    "", "x", "x:1", "x:1|q", "x:one|c", "x:1|c\nother:1|c", "x:1|c\r", "ü:1|c", ":1|c", "a" * 251 + ":1|c", "x:1|c|#" + "t" * 201,
    "a:b:1|c", "x:nan|c", "x:1|c|@0.5|#a|more", "x\x00:1|c",
]  # fmt: skip


def test_a_line_has_the_workers_name_before_it():
    assert [statsd.attributed(line, "edge-1") for line in LINES] == [f"mqtt.edge-1.{line}" for line in LINES]
    assert [statsd.attributed(line, "edge-1") for line in NO_LINES] == [None] * len(NO_LINES)


@given(st.text(max_size=300))
def test_what_is_taken_for_a_line_is_one_line_of_ascii(text):
    line = statsd.attributed(text, "w")
    assert line is None or (line.isascii() and line.isprintable())


def test_packets_are_small_and_hold_all_of_it():
    lines = [f"mqtt.w.metric{'x' * 100}.{number}:1|c" for number in range(100)]
    packets = list(statsd.packets(lines))
    assert b"\n".join(packets).decode().split("\n") == lines
    assert 1 < len(packets) < 20 and max(map(len, packets)) <= 1400


def message(*, worker="", service="airflow"):
    made = pb2.ExportTraceServiceRequest()
    group = made.resource_spans.add()
    for key, value in {"service.name": service, WORKER: worker}.items():
        group.resource.attributes.add(key=key).value.string_value = value
    group.scope_spans.add().spans.add(name="worker.task", trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(SPAN))
    return made.SerializeToString()


class Sent:
    """In place of a StatsD server."""

    def __init__(self):
        self.lines = []

    def send(self, lines):
        self.lines += lines
        return 0


class Bench:
    def __init__(self):
        self.now, self.sent, self.otlp = 0.0, Sent(), Otlp({})
        self.exporter = Exporter("http://127.0.0.1:1/", {}, self.otlp)
        self.dropped = Counter()
        self.relay = Relay(self.exporter, self.otlp, self.sent, clock=lambda: self.now, dropped=self.dropped)

    def say(self, lines=(), spans=b"", worker="edge-1"):
        self.relay.take(worker, Telemetry.decode(Telemetry.of(list(lines), spans).encode()))


def test_spans_have_the_workers_name_whatever_they_say():
    bench = Bench()
    bench.say(spans=message(worker="edge-2") + message(service="other"))
    sent = pb2.ExportTraceServiceRequest.FromString(bench.exporter._messages[0])
    named = [attributes(group.resource) for group in sent.resource_spans]
    assert named == [{"service.name": name, WORKER: "edge-1"} for name in ("airflow", "other")]
    assert not bench.dropped


@pytest.mark.parametrize("spans", [b"\xff\xff\xff", b"{}", b"\x0a\x00", b"\x78\x9cnone", b"x" * (MAX_SPANS + 1)])
def test_what_is_no_message_of_otlp_is_dropped(spans, caplog):
    bench = Bench()
    for _ in range(2):
        bench.say(spans=spans)
    assert bench.dropped["telemetry"] == 2 and not bench.exporter._messages
    assert sum("worker edge-1: dropped telemetry" in line for line in caplog.messages) == 1


def test_what_is_no_line_is_dropped_alone():
    bench = Bench()
    bench.say(["x:1|c", "y:1|c\nevil:1|c", "z:1|c"])
    assert bench.sent.lines == ["mqtt.edge-1.x:1|c", "mqtt.edge-1.z:1|c"]
    assert bench.dropped == {"telemetry": 1}


def test_each_worker_has_its_own_budget():
    bench = Bench()
    for _ in range(1000):
        bench.say(["x:1|c"])
    taken = len(bench.sent.lines)
    assert taken <= relay_module._BURST * relay_module._MESSAGES + 1
    assert bench.dropped["telemetry over its budget"] == 1000 - taken
    bench.say(["x:1|c"], worker="edge-2")
    assert bench.sent.lines[-1] == "mqtt.edge-2.x:1|c"
    bench.now += 60
    bench.say(["x:2|c"])
    assert bench.sent.lines[-1] == "mqtt.edge-1.x:2|c"


def test_a_worker_pays_for_what_its_spans_unpack_to():
    """They pack to a thousandth."""
    bench, large = Bench(), message(service="x" * 200_000)
    for _ in range(30):
        bench.say(spans=large)
    relayed = sum(map(len, bench.exporter._messages))
    assert relayed <= relay_module._BURST * relay_module._BYTES + MAX_SPANS
    assert bench.dropped["telemetry over its budget"] == 30 - len(bench.exporter._messages) > 0


def many(what):
    """As many parts of a kind as fit into a message: an empty one takes two bytes. Each has a span, as it should."""
    made = pb2.ExportTraceServiceRequest.FromString(message())
    (group,) = made.resource_spans
    repeated = {
        "resources": made.resource_spans,
        "attributes": group.resource.attributes,
        "scopes": group.scope_spans,
        "spans": group.scope_spans[0].spans,
    }[what]
    for _ in range(100_000):
        repeated.add()
    return made.SerializeToString()


@pytest.mark.parametrize("what", ["resources", "attributes", "scopes", "spans"])
def test_a_message_of_very_many_parts_is_not_looked_at(what, monkeypatch):
    """Each resource gets the worker's name: two bytes become fifty, and are seconds in the bridge's loop."""
    bench, named = Bench(), []
    monkeypatch.setattr(Otlp, "_name", lambda *of: named.append(of))
    bench.say(spans=many(what))
    assert bench.dropped == {"telemetry": 1} and not named and not bench.exporter._messages


def test_names_that_tasks_invent_have_an_end(monkeypatch, caplog):
    """Each is a series that the site keeps for good."""
    monkeypatch.setattr(relay_module, "_NAMES_OF_A_WORKER", 4)
    bench = Bench()
    bench.say(["a:1|c", "b:1|c|#x:1", "b:1|c|#x:2", "b:1|c", "c:1|c", "b:7|c|#x:1", "d:1|c"])
    bench.say(["e:1|c", "a:2|c"])
    bench.say(["e:1|c"], worker="edge-2")
    said = [line.removeprefix("mqtt.edge-1.") for line in bench.sent.lines]
    assert said == ["a:1|c", "b:1|c|#x:1", "b:1|c|#x:2", "b:1|c", "b:7|c|#x:1", "a:2|c", "mqtt.edge-2.e:1|c"]
    assert bench.dropped == {"telemetry of too many names": 3}
    assert sum("name too many" in line for line in caplog.messages) == 1


def test_lines_that_the_kernel_does_not_take_are_counted():
    bench = Bench()
    bench.sent.send = lambda lines: 2
    bench.say(["x:1|c"])
    assert bench.dropped == {"telemetry without room": 2}


async def test_neither_our_spans_nor_those_of_devices_wait_for_all_of_the_others(monkeypatch):
    bench, posted = Bench(), []

    async def post(self, session, proxy, payload):
        posted.append(len(decoded(payload)[1]))
        return len(posted) < 5

    monkeypatch.setattr(Exporter, "_post", post)
    for number in range(3):
        bench.say(spans=message(), worker=f"edge-{number}")
    for _ in range(1200):
        bench.exporter.add(spans.of_job(row(), []))
    await bench.exporter._send_all(None, None)
    assert posted == [500, 1, 500, 1, 200]
    assert bench.exporter.dropped == 200


def test_what_has_no_room_before_the_collector_is_dropped():
    bench = Bench()
    for number in range(3000):
        bench.say(spans=message(), worker=f"edge-{number}")
    assert len(bench.exporter._messages) == 2000 and bench.dropped["telemetry without room"] == 1000


def test_a_malformed_field_is_the_senders_fault():
    with pytest.raises(PayloadError):
        Telemetry(spans="no base64").otlp  # noqa: B018
