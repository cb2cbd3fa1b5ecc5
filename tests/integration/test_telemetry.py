"""A task, its calls and its job in one trace, and its figures: as a collector and a StatsD server hear of them.

Bridge, broker, worker and task are real, and so are OpenTelemetry's exporter and the StatsD client in the task.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

import servers
from airflow_mqtt.bridge.telemetry import spans
from bridge_bench import Site
from fakes import FakeExecutionApi
from servers import running, wait_for
from worker_bench import RUN_CONTEXT, SDK, WorkerProcess, workload

pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

NAME = "edge-1"


class Collector:
    """Takes OTLP over HTTP, and keeps the spans with the attributes of their resource."""

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, Any], Any]] = []
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(self.path, dict(self.headers), body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces", path
        self.headers.append(headers)
        for group in pb2.ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = attributes(group.resource)
            self.spans += [(resource, span) for scope in group.scope_spans for span in scope.spans]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def span(self, name: str, trace: str) -> tuple[dict[str, Any], Any]:
        def found() -> tuple[dict[str, Any], Any] | None:
            mine = [one for one in list(self.spans) if one[1].trace_id.hex() == trace]
            return next((one for one in mine if one[1].name == name), None)

        return wait_for(found, what=f"span {name} of trace {trace}", timeout=60)


def attributes(of: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


class StatsdServer:
    """A UDP port, and the lines that came there."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self._over = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def _read(self) -> None:
        while not self._over:
            try:
                self.lines += self._socket.recv(65535).decode().splitlines()
            except TimeoutError:
                continue

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        self._socket.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture
def statsd() -> Iterator[StatsdServer]:
    with StatsdServer() as started:
        yield started


@pytest.fixture
def site(broker: servers.Mosquitto, sqlite_url: str, tmp_path: Path) -> Iterator[Site]:
    with FakeExecutionApi() as api:
        api.answer("PATCH", "run", 200, RUN_CONTEXT)
        api.answer("PUT", "rtif", 201, {"message": "Rendered task instance fields successfully set"})
        api.answer("POST", "return_value", 201, {"message": "XCom successfully set"})
        made = Site(sqlite_url, broker, api, tmp_path)
        yield made
        made.close()


def order_of(task: str, trace: str, parent: str) -> dict[str, Any]:
    order = workload(task)
    order["ti"]["context_carrier"] = {"traceparent": f"00-{trace}-{parent}-01"}
    return order


@pytest.mark.skipif(SDK.startswith(("1.1.", "1.2.")), reason="its Task SDK makes no spans as that of 3.3 does")
def test_a_task_its_calls_and_its_job_are_in_one_trace_and_its_figures_arrive(
    site: Site, broker: servers.Mosquitto, collector: Collector, statsd: StatsdServer, tmp_path: Path
) -> None:
    trace, parent = os.urandom(16).hex(), os.urandom(8).hex()
    order = order_of("quick", trace, parent)
    flags = ["--otlp-endpoint", collector.url, "--otlp-headers", "x-tenant=us", "--statsd-address", statsd.address]
    site.start_bridge(*flags)
    device = WorkerProcess(tmp_path / "worker", broker.url(NAME), NAME, relay_telemetry=True)
    with running(device):
        job = site.queue(
            subject=order["ti"]["id"], workload=json.dumps(order), dag_id="bench", run_id="run_1", task_id="quick"
        )
        site.wait_state(job, "succeeded", "failed", timeout=90)
        assert site.job(job).state == "succeeded", site.job(job).reason

        of_bridge, of_job = collector.span("mqtt.job", trace)
        of_device, of_task = collector.span("worker.quick", trace)
        route = "POST xcoms/{dag_id}/{run_id}/{task_id}/{key:path}"
        _, of_call = collector.span(route, trace)
        wait_for(lambda: any(".ti.start" in line for line in statsd.lines), what="the figures of the task", timeout=60)

    assert of_bridge["service.name"] == "airflow-mqtt-bridge" and "airflow_mqtt.worker" not in of_bridge
    assert of_device["airflow_mqtt.worker"] == NAME
    assert (of_job.span_id.hex(), of_job.parent_span_id.hex()) == (spans.id_of_job(job), parent)
    assert of_task.parent_span_id.hex() == parent
    assert of_call.parent_span_id == of_task.span_id, "the task made it"
    assert [event.name for event in of_job.events] == ["queue", "dispatch", "accept", "start", "succeed"]
    assert attributes(of_job)["airflow_mqtt.worker"] == attributes(of_call)["airflow_mqtt.worker"] == NAME
    (call,) = site.api.calls("POST", "return_value")
    assert call.headers["traceparent"] == f"00-{trace}-{of_call.span_id.hex()}-01", "the API's spans are below it"
    assert all(headers["x-tenant"] == "us" for headers in collector.headers)
    assert all(line.startswith(f"mqtt.{NAME}.airflow.") for line in statsd.lines), statsd.lines


def test_a_collector_that_is_away_costs_its_spans_and_nothing_else(
    site: Site, broker: servers.Mosquitto, tmp_path: Path
) -> None:
    trace, parent = os.urandom(16).hex(), os.urandom(8).hex()
    order = order_of("quick", trace, parent)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        site.start_bridge("--otlp-endpoint", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with running(WorkerProcess(tmp_path / "worker", broker.url(NAME), NAME)):
            job = site.queue(subject=order["ti"]["id"], workload=json.dumps(order))
            site.wait_state(job, "succeeded", "failed", timeout=90)
            wait_for(lambda: "does not take spans" in site.log_text(0), what="one line about it", timeout=60)
    assert site.job(job).state == "succeeded"
    assert "Traceback" not in site.log_text(0)
