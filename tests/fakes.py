"""Stand-ins for one side of the system while the other is tested: a worker, and Airflow's Execution API."""

import json
import queue
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt

from airflow_mqtt.config.broker_url import parse_broker_url
from airflow_mqtt.protocol import PROTOCOL_VERSION
from airflow_mqtt.protocol.messages import (
    Ack,
    Born,
    BridgeStatus,
    Cancel,
    Event,
    LogChunk,
    Request,
    Response,
    Run,
    WorkerInfo,
    WorkerStatus,
    decode_order,
)
from airflow_mqtt.protocol.topics import TopicKind, Topics


class FakeWorker:
    """Speaks the protocol as a test tells it to; says `born` and its status by itself when a bridge begins to lead."""

    def __init__(
        self,
        url,
        name,
        *,
        queues=("default",),
        slots=2,
        topics=Topics(),
        version=mqtt.MQTTv5,
        protocol=PROTOCOL_VERSION,
        labels=None,
        release="0",
    ):
        self.name, self.queues, self.slots, self.topics = name, list(queues), slots, topics
        self.journal, self.instance = uuid.uuid4().hex, uuid.uuid4().hex
        self.connection, self.births, self.seq, self.acked = 1, 0, 0, 0
        self.running = 0
        self.held: dict[tuple[str, int], str] = {}
        self.events: list[Event] = []
        self.orders: queue.Queue[Run | Cancel] = queue.Queue()
        self.responses: queue.Queue[Response] = queue.Queue()
        self.acks: queue.Queue[Ack] = queue.Queue()
        self.epoch = 0
        self.protocol = protocol
        self.labels, self.release = labels or {}, release
        self.quiet = False
        self.behind = 0.0  # by how many seconds its clock is
        parts = parse_broker_url(url)
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"fake-{name}", protocol=version)
        self.client.username_pw_set(parts.username, parts.password)
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_message
        self.client.connect(parts.host, parts.port, keepalive=20)
        self.client.loop_start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, client, *_):
        client.subscribe([(name, 1) for name in self.topics.of_worker(self.name)])

    def _on_message(self, _client, _userdata, message):
        kind = self.topics.parse(message.topic).kind
        if kind is TopicKind.JOBS:
            self.orders.put(decode_order(message.payload))
        elif kind is TopicKind.RESPONSE:
            self.responses.put(Response.decode(message.payload))
        elif kind is TopicKind.ACK:
            ack = Ack.decode(message.payload)
            self.acked = max(self.acked, ack.seq)
            self.acks.put(ack)
        elif kind is TopicKind.BRIDGE_STATUS:
            epoch = BridgeStatus.decode(message.payload).epoch
            if epoch > self.epoch:
                self.epoch = epoch
                if not self.quiet:
                    self.introduce()

    def publish(self, topic, payload, *, retain=False):
        self.client.publish(topic, payload, qos=1, retain=retain)

    def say(self, kind, message, **kwargs):
        self.publish(self.topics.worker(self.name, kind), message.encode(), **kwargs)

    def introduce(self):
        self.births += 1
        pending = [event for event in self.events if event.seq > self.acked]
        born = Born(
            journal=self.journal, first=self.acked + 1, last=self.seq, instance=self.instance,
            connection=self.connection, number=self.births, holds=[{"job": job, "attempt": attempt, "state": state} for (job, attempt), state in self.held.items()], queues=self.queues, kinds=["airflow"],
            protocol=self.protocol, version=self.release, labels=self.labels,
        )  # fmt: skip
        self.say(TopicKind.EVENTS, born)
        for event in pending:
            self.say(TopicKind.EVENTS, event)
        info = WorkerInfo(
            version=self.release, instance=self.instance, queues=self.queues, kinds=["airflow"], slots=self.slots,
            labels=self.labels,
        )  # fmt: skip
        self.say(TopicKind.INFO, info, retain=True)
        self.status()

    def status(self, state="idle", **values):
        status = WorkerStatus(
            state=state, connection=self.connection, instance=self.instance, ts=time.time() - self.behind,
            slots=self.slots, free=self.slots, running=self.running, **values,
        )  # fmt: skip
        self.say(TopicKind.STATUS, status, retain=True)

    def event(self, type_, run, **values):
        self.seq += 1
        self.held = {key: state for key, state in self.held.items() if key[0] != run.job}
        self.held[run.job, run.attempt] = "accepted" if type_ == "accepted" else "ended"
        event = Event(
            type=type_,
            journal=self.journal,
            seq=self.seq,
            job=run.job,
            attempt=run.attempt,
            ts=time.time() - self.behind,
            **values,
        )
        self.events.append(event)
        self.say(TopicKind.EVENTS, event)
        return event

    def request(self, run, method, path, body=None, *, id_=None, attempt=None, query="", **headers):
        """Send one Execution API call and return its id."""
        request = Request(
            id=id_ or uuid.uuid4().hex, journal=self.journal, job=run.job, attempt=attempt or run.attempt,
            method=method, path=path, query=query,
            headers={"content-type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()},
            body=None if body is None else json.dumps(body),
        )  # fmt: skip
        self.say(TopicKind.REQUEST, request)
        return request.id

    def call(self, run, method, path, body=None, **kwargs):
        """Send one call and wait for its answer."""
        id_ = self.request(run, method, path, body, **kwargs)
        while True:
            response = self.responses.get(timeout=60)
            if response.id == id_:
                return response

    def log(self, run, offset, data):
        self.publish(self.topics.logs(self.name, run.job), LogChunk.of(run.attempt, offset, data).encode())

    def order(self, kind=Run, timeout=60):
        """Wait for the next order of this kind."""
        deadline = time.monotonic() + timeout
        while True:
            order = self.orders.get(timeout=max(0.01, deadline - time.monotonic()))
            if isinstance(order, kind):
                return order


@dataclass
class Seen:
    """One call that reached the fake Execution API."""

    method: str
    path: str
    token: str
    body: dict
    headers: dict
    at: float = field(default_factory=time.time)


@dataclass
class FakeExecutionApi:
    """Answers like Airflow's Execution API where a test does not say otherwise; keeps what it saw."""

    answers: dict[tuple[str, str], list[tuple[int, dict, dict]]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self):
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self):
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                path = urlsplit(self.path).path.removeprefix("/execution/")
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                api.seen.append(Seen(self.command, path, token, body, dict(self.headers)))
                status, answer, headers = api._answer(self.command, path)
                content = json.dumps(answer).encode() if answer is not None else b""
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _do

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}/execution/"

    def answer(self, method, last_level, status, body=None, **headers):
        """The next call of `method` on a path that ends with `last_level` gets this."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.setdefault((method, last_level), []).append((status, body, headers))

    def _answer(self, method, path):
        planned = self.answers.get((method, path.rsplit("/", 1)[-1]))
        if planned:
            return planned.pop(0) if len(planned) > 1 else planned[0]
        return (200, {"dag_run": {}, "max_tries": 0}, {}) if path.endswith("/run") else (204, None, {})

    def calls(self, method, last_level):
        return [call for call in self.seen if call.method == method and call.path.rsplit("/", 1)[-1] == last_level]
