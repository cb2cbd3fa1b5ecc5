"""The gateway over a ledger and a writer of its own, and an Execution API on loopback that does what a test says."""

import asyncio
import contextlib
import json
import logging
import sqlite3
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import aiohttp
import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer

from airflow_mqtt.bridge.calls import execution_api, gate, gateway
from airflow_mqtt.bridge.calls.execution_api import ExecutionApi
from airflow_mqtt.bridge.calls.gate import Call
from airflow_mqtt.bridge.calls.gateway import Gateway
from airflow_mqtt.bridge.calls.heartbeats import beat
from airflow_mqtt.bridge.calls.turns import Turns
from airflow_mqtt.bridge.cancellation import pause
from airflow_mqtt.bridge.dispatch.duties import Duties
from airflow_mqtt.bridge.dispatch.outage import Outage
from airflow_mqtt.bridge.dispatch.reports import Heard, Reports
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.outbox import Messages, Outgoing
from airflow_mqtt.bridge.writer import Writer
from airflow_mqtt.database import tables, transitions
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.errors import is_transient
from airflow_mqtt.database.sqlite import SqliteLedger
from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import PARCELS, Ack, Event, Request, Response
from airflow_mqtt.protocol.topics import Topics
from bridge_samples import RULES, status, worker


@dataclass
class Seen:
    """One call that reached the Execution API."""

    method: str
    url: str
    headers: dict
    content: bytes


class Bench:
    """A gateway, and what its two sides have seen: `calls` of the API, `answers` to workers."""

    def __init__(self, path):
        self.engine = sa.create_engine(f"sqlite:///{path}")
        tables.metadata.create_all(self.engine)
        self.execute(sa.insert(tables.bridge).values(epoch=1, beat=0))
        self.ledger = SqliteLedger(str(path), "", 1, renewed=lambda: None)
        self.calls: list[Seen] = []
        self.acks: list[Ack] = []
        self.answer = lambda _: web.Response(status=204)
        self.answers: list[Response] = []
        self.payloads: list[bytes] = []
        self.published: list[Outgoing] = []

    async def start(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self.server = TestServer(app)
        await self.server.start_server()
        self.api = ExecutionApi(str(self.server.make_url("/execution/")))
        messages, self.wake = Messages(Topics("airflow"), 31), asyncio.Event()
        self.living = Living.of(await self.ledger.snapshot(), lambda _: RULES, allow="all")
        self.writer = Writer(
            self.ledger, self.living, Reports(messages, 1, "bridge:b", 10**6),
            Duties(messages, "bridge:b", lambda _: RULES, 10.0, 0.0), Outage(time.time()), clock=time.time,
            future=asyncio.get_running_loop().create_future, publish=self._publish, wake=self.wake.set,
            max_message_bytes=8192,
        )  # fmt: skip
        self.gateway = Gateway(
            self.writer, self.api, messages, publish=self._publish, sleep=asyncio.sleep, clock=time.monotonic,
            elsewhere=asyncio.to_thread, max_message_bytes=8192,
        )  # fmt: skip
        self._writing = asyncio.create_task(self._write())

    async def close(self):
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        await self.api.close()
        await self.server.close()
        await self.ledger.close()
        self.engine.dispose()

    async def _write(self):
        """As the leader does."""
        while True:
            self.wake.clear()
            if self.writer.has_work(time.time()):
                try:
                    await self.writer.round()
                except Exception as error:
                    assert is_transient(error), error
                    await asyncio.sleep(0.01)
            else:
                await pause(self.wake, 0.05)

    async def _serve(self, request):
        self.calls.append(Seen(request.method, request.raw_path, request.headers, await request.read()))
        answer = self.answer(request)
        return await answer if asyncio.iscoroutine(answer) else answer

    def _publish(self, messages):
        self.published += messages
        for message in messages:
            if message.topic.endswith("/response"):
                self.payloads.append(message.payload)
                self.answers.append(Response.decode(message.payload))
            elif message.topic.endswith("/ack"):
                self.acks.append(Ack.decode(message.payload))

    def execute(self, *statements):
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)

    async def add(self, id_, *, worker="edge-1", state="running", **values):
        row = {
            "id": id_, "kind": "airflow", "workload_type": "ExecuteTask", "workload": "{}", "token": f"token of {id_}",
            "token_at": 0.0, "queue": "default", "priority": 1, "slots": 1, "subject": f"ti-{id_}", "owner": "1",
            "dag_id": "dag", "run_id": "run", "task_id": "task",
        }  # fmt: skip
        values = {"state": state, "worker": worker, "attempt": 1, "running_since": 1.0, "news": False, **values}
        change = sa.update(tables.job).where(tables.job.c.id == id_).values(**values)
        self.execute(*transitions.creation(row, now=1.0, by="test"), change)
        for job in await self.ledger.jobs([id_]):
            self.living.put_job(job)

    def row(self, id_):
        with self.engine.connect() as connection:
            return connection.execute(sa.select(tables.job).where(tables.job.c.id == id_)).one()

    def take(self, call):
        work = self.gateway.take(call)
        return asyncio.ensure_future(work) if work else None

    async def ask(self, method="GET", path="variables/x", **values):
        """Make one call and return its answer."""
        await asyncio.wait_for(self.gateway.take(request(method, path, **values)), 20)
        return self.answers[-1]

    async def beat(self, stop=None):
        await beat(list(self.living.jobs.values()), self.api, stop)


def request(method="GET", path="variables/x", *, worker="edge-1", job="one", id_="", size=0, **values):
    request.count += 1
    message = Request(
        id=id_ or f"r{request.count}", journal="j", job=job, attempt=1, method=method, path=path, **values
    )
    return Call(worker, message, size)


request.count = 0


def response(status=200, text=None, headers=None, json=None):
    if json is not None:
        return web.json_response(json, status=status, headers=headers)
    return web.Response(status=status, text=text, headers=headers)


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path / "bridge.db")
    await made.start()
    await made.add("one")
    yield made
    await made.close()


@pytest.fixture
def fast(monkeypatch):
    """Tries follow each other at once."""
    monkeypatch.setattr(gateway, "_RETRY_MAX", 0.001)


# --- what cannot be sent


@pytest.mark.parametrize("value", ["a\nb", "a\r\nHost: evil", "", " a", "a" * 257, "ü", "\x7f"])
async def test_a_header_that_is_none_is_answered_400(bench, value):
    answer = await bench.ask(headers={"airflow-api-version": value})
    assert (answer.status, json.loads(answer.body)["detail"]["reason"]) == (400, "malformed")
    assert bench.calls == []


async def test_nor_does_such_a_header_come_through_the_gate(bench):
    """Our own heartbeats would speak it."""
    await bench.add("two", state="accepted")
    bench.living.put_worker(worker())
    headers = {"airflow-api-version": "a\nb"}
    assert (await bench.ask("PATCH", "task-instances/ti-two/run", job="two", headers=headers)).status == 400
    assert (bench.row("two").state, bench.row("two").api_version) == ("accepted", "")


async def test_heartbeats_speak_the_version_that_the_task_does(bench):
    await bench.add("two", state="accepted", running_since=None)
    bench.living.put_worker(worker())
    headers = {"airflow-api-version": "2026-06-30"}
    body = json.dumps({"pid": 7, "hostname": "h"})
    assert (await bench.ask("PATCH", "task-instances/ti-two/run", job="two", headers=headers, body=body)).status == 204
    assert bench.row("two").running_since is not None
    await bench.beat()
    calls = {call.url.split("/")[3]: call for call in bench.calls if call.url.endswith("heartbeat")}
    assert calls["ti-two"].headers["airflow-api-version"] == "2026-06-30"
    assert json.loads(calls["ti-two"].content) == {"hostname": "edge-1", "pid": 7}
    assert "airflow-api-version" not in calls["ti-one"].headers


async def test_the_gate_stays_closed_to_a_worker_that_may_not_serve_the_queue(bench):
    """It may have been given the job before that was taken back."""
    await bench.add("two", state="accepted", running_since=None)
    bench.living.put_worker(worker())
    bench.living.access = Access((("edge-2", "*"),))
    answer = await bench.ask("PATCH", "task-instances/ti-two/run", job="two", body="{}")
    assert (answer.status, json.loads(answer.body)["detail"]["reason"]) == (403, "not_allowed")
    assert bench.row("two").state == "accepted" and not bench.calls


async def test_what_needs_a_right_that_the_queue_lacks_is_not_forwarded(bench):
    bench.living.access = Access(calls={"default": frozenset({"variables"})})
    assert (await bench.ask("GET", "variables/x")).status == 204
    answer = await bench.ask("GET", "connections/x")
    assert (answer.status, json.loads(answer.body)["detail"]["reason"]) == (403, "not_allowed")
    assert [call.url.rsplit("/", 2)[-2] for call in bench.calls] == ["variables"]


async def test_a_header_that_is_one_goes_through(bench):
    await bench.ask(headers={"airflow-api-version": "2026-06-30", "x-other": "a\nb"})
    assert bench.calls[0].headers["airflow-api-version"] == "2026-06-30"
    assert "x-other" not in bench.calls[0].headers


async def test_the_trace_of_a_call_goes_through(bench):
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    await bench.ask(headers=trace)
    assert trace.items() <= dict(bench.calls[0].headers).items()


@pytest.mark.parametrize(
    "trace",
    [
        {"traceparent": "a\r\nHost: evil"},
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"},
        {"tracestate": "a=b"},
    ],
)
async def test_a_trace_that_is_none_is_left_out_and_the_call_is_made(bench, trace):
    assert (await bench.ask(headers=trace)).status == 204
    assert not {"traceparent", "tracestate"} & set(bench.calls[0].headers)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("GET", {"query": "a=\x01"}),
        ("GET", {"query": "a" * 70_000}),
        ("PUT", {"path": "task-instances/ti-one/heartbeat", "body": '{"hostname":"h","x":' + "[" * 300 + "]" * 300 + "}"}),
    ],
)  # fmt: skip
async def test_a_call_that_http_has_no_form_for_is_answered_400(bench, method, values):
    assert (await bench.ask(method, **values)).status == 400
    assert bench.calls == []


@pytest.mark.parametrize(
    "error",
    [aiohttp.InvalidURL("x"), ValueError("Newline in header"), UnicodeEncodeError("ascii", "ü", 0, 1, "x")],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_client_refuses_is_answered_400(bench, monkeypatch, error):
    tried = []

    def refuses(*arguments, **options):
        tried.append(arguments)
        raise error

    monkeypatch.setattr(bench.api._session, "request", refuses)
    assert (await bench.ask()).status == 400
    assert len(tried) == 1


async def test_a_name_that_the_database_would_refuse(bench):
    await bench.add("two", state="accepted")
    bench.living.put_worker(worker())
    path = "task-instances/ti-two/run"
    for name in ("a\x00b", {"deep": 1}, None):
        assert "\x00" not in gate.identity({"unixname": name, "pid": True})["unixname"]
    answer = await bench.ask("PATCH", path, job="two", body=json.dumps({"unixname": "a\x00b", "pid": 2**40}))
    assert answer.status == 204
    row = bench.row("two")
    assert (row.unixname, row.pid) == ("a\N{REPLACEMENT CHARACTER}b", 0)


# --- room


async def test_calls_that_are_tried_for_ever_leave_the_slots_to_others(bench, fast):
    """One device with many calls that get 503, and one call of another."""
    await bench.add("two", worker="edge-2")
    bench.answer = lambda call: response(503 if "bad" in call.path else 200, json={})
    bad = [bench.take(request(path="variables/bad", job="one")) for _ in range(200)]
    under_way = [task for task in bad if task]
    assert len(under_way) == 4  # of one job
    await asyncio.wait_for(bench.ask(worker="edge-2", job="two"), 10)
    assert bench.answers[-1].status == 200
    await asyncio.wait_for(_cancelled(under_way), 10)
    assert bench.gateway._quota._of == {}


async def test_a_slot_is_held_for_one_try_alone(bench, monkeypatch, fast):
    monkeypatch.setattr(bench.api, "_calls", Turns(1, 1))
    bench.answer = lambda call: response(503 if "bad" in call.path else 200, json={})
    under_way = [bench.take(request(path="variables/bad"))]
    while len(bench.calls) < 3:
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(bench.ask(), 10)).status == 200
    await _cancelled(under_way)


async def test_a_worker_and_all_together_have_bounds_in_bytes(bench):
    hang = asyncio.Event()
    bench.answer = lambda _: _after(hang)
    for number in range(8):
        await bench.add(f"a{number}")
        await bench.add(f"b{number}", worker="edge-2")
    mib = 1024 * 1024
    sizes = [bench.take(request(job=f"a{number}", size=5 * mib)) for number in range(8)]
    assert sum(task is not None for task in sizes) == 3  # 16 MiB of one worker
    others = [bench.take(request(job=f"b{number}", worker="edge-2", size=5 * mib)) for number in range(8)]
    assert sum(task is not None for task in others) == 3
    hang.set()
    await asyncio.gather(*(task for task in sizes + others if task))
    assert bench.gateway._quota._of == {} and bench.gateway._quota_of_jobs._of == {}
    assert len(bench.answers) == 6


async def test_what_has_no_room_is_said_once_and_taken_when_it_comes_again(bench, monkeypatch, caplog):
    hang = asyncio.Event()
    bench.answer = lambda _: _after(hang)
    tasks = [bench.take(request()) for _ in range(4)]
    late = request(id_="late")
    assert [bench.take(late) for _ in range(3)] == [None] * 3
    assert len([record for record in caplog.records if "dropped a call" in record.message]) == 1
    hang.set()
    await asyncio.gather(*tasks)
    await bench.gateway.take(late)
    assert bench.answers[-1].id == "late"


async def _after(event):
    await event.wait()
    return web.Response(status=204)


async def _cancelled(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- answers


async def test_a_request_that_comes_again_gets_its_answer_again(bench):
    bench.answer = lambda _: response(200, json={"n": len(bench.calls)})
    call = request(id_="same")
    await bench.gateway.take(call)
    await bench.gateway.take(call)
    assert len(bench.calls) == 1 and bench.payloads[0] == bench.payloads[1]


async def test_a_request_that_comes_again_while_it_is_answered_is_left_to_that(bench):
    hang, call = asyncio.Event(), request(id_="same")
    bench.answer = lambda _: _after(hang)
    first = bench.take(call)
    assert [bench.take(call) for _ in range(5)] == [None] * 5
    hang.set()
    await first
    assert len(bench.calls) == len(bench.answers) == 1


async def test_answers_of_one_worker_push_out_no_others(bench, monkeypatch):
    await bench.add("two", worker="edge-2")
    own = request(id_="own", worker="edge-2", job="two")
    monkeypatch.setattr(bench.gateway, "_answers", gateway.Recent(total=gateway.Bound(20), each=gateway.Bound(4)))
    await bench.gateway.take(own)
    first = request(id_="first")
    await bench.gateway.take(first)
    for _ in range(10):
        await bench.ask()
    asked = len(bench.calls)
    await bench.gateway.take(own)
    assert len(bench.calls) == asked
    await bench.gateway.take(first)
    assert len(bench.calls) == asked + 1


async def test_a_worker_does_not_get_the_answer_of_another(bench):
    """Ids are the worker's own choice."""
    await bench.gateway.take(request(id_="same"))
    await bench.gateway.take(request(id_="same", worker="edge-2"))
    assert [answer.status for answer in bench.answers] == [204, 403]


async def test_a_refusal_is_made_anew_each_time(bench):
    """It costs as little as to remember it, and says what is so now."""
    await bench.add("two", state="accepted")
    call = request(job="two", id_="same")
    await bench.gateway.take(call)
    bench.living.put_job(replace(bench.living.jobs["two"], state=JobState.RUNNING))
    await bench.gateway.take(call)
    assert [answer.status for answer in bench.answers] == [409, 204]


@pytest.mark.parametrize(
    ("path", "method"), [("variables/x", "GET"), ("task-instances/ti-one/state", "PATCH")], ids=["any", "final state"]
)
@pytest.mark.parametrize(
    "text",
    [
        "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(6000)),  # 3 bytes a character
        "".join(f"\\u{number * 7919 % 0x10000:04x}" for number in range(4000)),
    ],
    ids=["bytes", "escapes"],
)
async def test_an_answer_is_measured_as_it_is_sent(bench, path, method, text):
    bench.answer = lambda _: response(200, text=text)
    answer = await bench.ask(method, path)
    assert answer.status == 413 and "max_message_bytes" in answer.body
    assert max(map(len, bench.payloads)) <= 8192


async def test_an_answer_that_shrinks_enough_is_sent(bench):
    bench.answer = lambda _: response(200, text="x" * 100_000)
    assert len((await bench.ask()).body) == 100_000


async def test_an_answer_that_no_worker_would_unpack_is_not_sent(bench, monkeypatch):
    monkeypatch.setattr(codec, "MAX_DECODED_BYTES", 50_000)
    bench.answer = lambda _: response(200, text="x" * 100_000)
    assert (await bench.ask()).status == 413


class Huge:
    """120 MiB in chunks of 64 KiB; counts those that were taken. Short in UTF-16, long in JSON."""

    sent, whole = 0, False

    def __init__(self, status=200, **headers):
        self.status, self.headers, self.ended = status, headers, asyncio.Event()

    async def __call__(self, request):
        answer = web.StreamResponse(status=self.status, headers=self.headers)
        await answer.prepare(request)
        try:
            for _ in range(120 * 16):
                await answer.write(b"x\0" * 32768)
                self.sent += 1
            self.whole = True
        finally:
            self.ended.set()
        return answer


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "xcoms/dag/run/task/key"), ("PATCH", "task-instances/ti-one/state")],
    ids=["any", "final state"],
)
@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "latin-1"])
async def test_a_huge_answer_is_read_up_to_the_limit(bench, monkeypatch, method, path, charset):
    def packed(_):
        raise AssertionError("compressed for nothing")

    huge = Huge(**{"content-type": f"application/json; charset={charset}"})
    bench.answer = huge
    with monkeypatch.context() as patched:
        patched.setattr(codec, "pack", lambda plain: plain if len(plain) < 1000 else packed(plain))
        answer = await bench.ask(method, path, body='{"state": "success"}')
    assert answer.status == 413
    assert f"over {codec.MAX_DECODED_BYTES} bytes unpacked" in answer.body and "max_message_bytes" in answer.body
    await asyncio.wait_for(huge.ended.wait(), 10)  # the connection is closed under it
    on_its_way = 16 * 1024 * 1024  # what the sockets hold
    assert not huge.whole and huge.sent * 65536 < codec.MAX_DECODED_BYTES + on_its_way
    assert bench.row("one").final_state == ("success" if method == "PATCH" else None)


async def test_an_answer_is_asked_for_as_it_is(bench):
    """What is compressed may be a thousand times as large."""
    await bench.ask()
    assert bench.calls[0].headers["accept-encoding"] == "identity"


async def test_a_huge_answer_to_a_heartbeat_is_let_be(bench, caplog):
    bench.answer = huge = Huge(400)
    await bench.beat()
    await asyncio.wait_for(huge.ended.wait(), 10)
    assert not huge.whole and "status 400: 'x" in caplog.text


@pytest.mark.parametrize("how", ["closed", "malformed", "silent", "before its head"])
async def test_an_answer_that_breaks_off_is_asked_for_again(bench, fast, how):
    bench.api._session._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=0.3)

    async def broken(request):
        if how == "before its head":
            request.transport.abort()
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(b"some")
        if how == "silent":
            await asyncio.sleep(1)
        elif how == "malformed":
            request.transport.write(b"no length\r\n")
        request.transport.close()
        return answer

    bench.answer = lambda request: broken(request) if len(bench.calls) == 1 else response(200, text="all")
    assert (await bench.ask()).body == "all"
    assert len(bench.calls) == 2


async def test_connections_serve_again_unless_an_answer_was_left_unread(bench, monkeypatch):
    """Over real sockets: what is read to its end leaves its connection to the next call."""
    monkeypatch.setattr(codec, "MAX_DECODED_BYTES", 100_000)
    opened = 0

    async def serve(reader, writer):
        nonlocal opened
        opened += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = 50_000_000 if b"/big" in head else 60_000
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
                for _ in range(size // 10_000):
                    writer.write(b"x" * 10_000)
                    await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bench.gateway._api = api = ExecutionApi(f"http://127.0.0.1:{port}/")
    async with server:
        for path, expected in (("a", 1), ("b", 1), ("big", 1), ("c", 2), ("d", 2)):
            answer = await asyncio.wait_for(bench.ask(path=f"variables/{path}"), 10)
            assert (answer.status, opened) == (413 if path == "big" else 200, expected)
        await api.close()


async def test_a_value_of_the_name_heartbeat_is_left_alone(bench):
    await bench.ask("PUT", "variables/my/heartbeat", body='{"hostname": "h"}')
    await bench.ask("POST", "xcoms/dag/run/task/heartbeat", body='{"hostname": "h"}')
    await bench.ask("PUT", "store/ti/ti-one/heartbeat", body='{"hostname": "h"}')
    await bench.ask("PUT", "task-instances/ti-one/heartbeat", body='{"hostname": "h"}')
    assert [json.loads(call.content)["hostname"] for call in bench.calls] == ["h", "h", "h", "edge-1"]


# --- what is written


async def test_a_database_that_is_locked_costs_neither_the_answer_nor_a_second_call(bench, monkeypatch):
    commit, refused = bench.ledger.commit, []

    async def locked(writes):
        if len(refused) < 3:
            refused.append(writes)
            raise sqlite3.OperationalError("database is locked")
        return await commit(writes)

    monkeypatch.setattr(bench.ledger, "commit", locked)
    bench.answer = lambda _: response(200, json={}, headers={"refreshed-api-token": "new"})
    assert (await bench.ask()).status == 200
    assert len(bench.calls) == 1 and len(refused) == 3
    assert bench.row("one").token == "new"


async def test_a_new_token_is_stored_and_serves_the_next_call(bench):
    bench.answer = lambda _: response(200, json={}, headers={"refreshed-api-token": "new"})
    await bench.ask()
    await bench.ask()
    await bench.beat()
    assert [call.headers["authorization"].split(" ", 1)[1] for call in bench.calls] == ["token of one", "new", "new"]
    assert bench.row("one").token == "new" and bench.row("one").token_at > 1.0


async def test_the_token_that_a_scheduler_has_made_serves_the_next_call(bench, fast):
    """A call whose token has expired is tried until there is another."""
    refused = '{"detail": "Invalid auth token: Signature has expired"}'
    bench.answer = lambda call: (
        response(200) if call.headers["authorization"] == "Bearer newer" else response(403, text=refused)
    )
    asking = bench.take(request())
    while len(bench.calls) < 3:
        await asyncio.sleep(0.001)
    bench.execute(sa.update(tables.job).values(token="newer", news=True))
    bench.writer.look_for_news()
    await asyncio.wait_for(asking, 10)
    assert bench.answers[-1].status == 200


async def test_an_answer_comes_after_what_it_says_is_written(bench, monkeypatch):
    """Else a leader that dies in between would not know the final state that its worker has heard of."""
    seen = []
    publish = bench.gateway._publish
    monkeypatch.setattr(
        bench.gateway, "_publish", lambda messages: (seen.append(bench.row("one").final_state), publish(messages))
    )
    await bench.ask("PATCH", "task-instances/ti-one/state", body='{"state": "success"}')
    assert seen == ["success"]


async def test_a_final_state_that_airflow_refuses_is_none(bench):
    bench.answer = lambda _: response(422, json={"detail": "no"})
    assert (await bench.ask("PATCH", "task-instances/ti-one/state", body='{"state": "success"}')).status == 422
    assert bench.row("one").final_state is None


async def test_a_task_that_ends_is_no_task_to_stop(bench):
    """While its final state is on its way, Airflow refuses its heartbeats too."""
    hang = asyncio.Event()
    bench.answer = lambda _: _after(hang)
    ending = bench.take(request("PATCH", "task-instances/ti-one/state", body='{"state": "success"}'))
    while not bench.calls:
        await asyncio.sleep(0.001)
    assert bench.gateway.is_ending("one")
    hang.set()
    await ending
    assert not bench.gateway.is_ending("one")
    await bench.beat()
    assert len(bench.calls) == 1  # Airflow has heard its end


async def test_a_call_of_a_job_that_ends_meanwhile_is_given_up(bench, fast):
    bench.answer = lambda _: response(503)
    asking = bench.take(request())
    while len(bench.calls) < 3:
        await asyncio.sleep(0.001)
    bench.living.put_job(replace(bench.living.jobs["one"], state=JobState.LOST))
    await asyncio.wait_for(asking, 10)
    assert json.loads(bench.answers[-1].body)["detail"]["reason"] == "invalid_state"


# --- the gate


async def test_the_gate_opens_once_and_before_airflow_is_asked(bench):
    await bench.add("two", state="accepted", running_since=None)
    bench.living.put_worker(worker())
    states = []

    def serve(_):
        states.append((bench.row("two").state, bench.row("two").gate_request, bench.row("two").running_since))
        return response(200, json={"dag_run": {}})

    bench.answer, path = serve, "task-instances/ti-two/run"
    both = [bench.take(request("PATCH", path, job="two", id_=id_)) for id_ in ("first", "second")]
    await asyncio.gather(*both)
    assert sorted(answer.status for answer in bench.answers) == [200, 409]
    assert states == [("running", "first", None)]
    assert bench.row("two").running_since is not None and bench.row("two").report_pending


@pytest.mark.parametrize(
    ("status", "detail", "reason"),
    [
        (409, {"reason": "invalid_state", "previous_state": "success"}, "409: invalid_state, the task is success"),
        (404, {"reason": "not_found"}, "404: not_found"),
        (410, "gone", "410: gone"),
    ],
)
async def test_a_job_whose_start_airflow_does_not_want_is_cancelled(bench, status, detail, reason):
    await bench.add("two", state="accepted", running_since=None)
    bench.living.put_worker(worker())
    bench.answer = lambda _: response(status, json={"detail": detail})
    await bench.take(request("PATCH", "task-instances/ti-two/run", job="two"))
    assert bench.answers[-1].status == status
    row = bench.row("two")
    assert (row.state, row.reason) == ("cancelling", f"airflow: the start was answered {reason}")
    order = next(message for message in bench.published if "/jobs/" in message.topic)
    assert json.loads(order.payload) | {"type": "cancel", "job": "two", "reason": row.reason} == json.loads(
        order.payload
    )
    assert row.published_at is not None


@pytest.mark.parametrize("status", [401, 403, 413, 422])
async def test_a_start_that_only_failed_is_not_cancelled(bench, status):
    await bench.add("two", state="accepted", running_since=None)
    bench.living.put_worker(worker())
    bench.answer = lambda _: response(status, json={"detail": {"reason": "x"}})
    await bench.take(request("PATCH", "task-instances/ti-two/run", job="two"))
    assert (bench.answers[-1].status, bench.row("two").state) == (status, "running")


async def test_a_gate_waits_for_the_report_of_acceptance_that_it_has_overtaken(bench):
    await bench.add("two", state="dispatched")
    bench.living.put_worker(worker())
    await bench.writer.submit("", lambda draft: draft.saved.__setitem__("edge-1", None) or draft.save_worker(worker()))
    asking = bench.take(request("PATCH", "task-instances/ti-two/run", job="two"))
    await asyncio.sleep(0.05)
    assert not asking.done() and bench.calls == []
    bench.writer.receive(Heard("edge-1", Event(type="accepted", journal="j", seq=1, job="two", attempt=1, ts=1.0)))
    await asyncio.wait_for(asking, 10)
    assert (bench.answers[-1].status, bench.row("two").state) == (204, "running")


async def test_a_wish_that_nobody_told_the_leader_of_closes_the_gate(bench):
    await bench.add("two", state="accepted")
    bench.living.put_worker(worker())
    bench.execute(transitions.wish_for_end("two", JobState.ACCEPTED, 1, by="operator", reason="enough"))
    answer = await bench.ask("PATCH", "task-instances/ti-two/run", job="two")
    assert answer.status == 409 and bench.calls == []
    assert (bench.row("two").state, bench.row("two").cancel_reason) == ("accepted", "enough")


# --- heartbeats


async def test_heartbeats_bring_their_tokens_along(bench):
    await bench.add("two")
    before = bench.ledger.statements
    await bench.beat()
    assert {call.headers["authorization"] for call in bench.calls} == {"Bearer token of one", "Bearer token of two"}
    assert bench.ledger.statements == before  # nothing is read for them


@pytest.mark.parametrize("error", [ValueError("x"), aiohttp.ClientConnectionError("x")])
async def test_a_heartbeat_that_cannot_be_sent_stops_no_other(bench, monkeypatch, caplog, error):
    await bench.add("two")
    send = bench.api._session.request

    def sends(method, url, **options):
        if "ti-one" in str(url):
            raise error
        return send(method, url, **options)

    monkeypatch.setattr(bench.api._session, "request", sends)
    await bench.beat()
    assert len(bench.calls) == 1 and "heartbeat of job one" in caplog.text


async def test_heartbeats_have_connections_of_their_own(bench):
    assert bench.api._session.connector.limit == execution_api.CALLS + execution_api.HEARTBEATS
    hang = asyncio.Event()
    bench.answer = lambda call: response(204) if call.path.endswith("heartbeat") else _after(hang)
    calls = [
        asyncio.ensure_future(
            bench.api.call("t", "GET", f"x/{number}", worker=f"edge-{number % 10}", headers={}, body=None)
        )
        for number in range(200)
    ]
    while len(bench.calls) < execution_api.CALLS:
        await asyncio.sleep(0.001)
    await asyncio.wait_for(bench.beat(), 10)
    assert len(bench.calls) == execution_api.CALLS + 1
    hang.set()
    await asyncio.gather(*calls)


async def test_a_task_that_airflow_wants_ended_is_asked_for(bench):
    bench.answer = lambda _: response(409)
    stopped = []

    async def stop(job, reason):
        stopped.append((job.id, reason))

    await bench.beat(stop)
    assert stopped == [("one", "airflow: heartbeat answered 409")]


# --- the log


async def test_a_refusal_is_one_line_and_said_once(bench, caplog):
    with caplog.at_level(logging.WARNING):
        for path in ("x\nERROR all is lost\n%s", "x%0aERROR all is lost", "variables\u2028ERROR"):
            for _ in range(20):
                assert (await bench.ask("POST", path)).status in (403, 404)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("airflow_mqtt")]
    assert len(lines) == 1 and "\n" not in lines[0] and len(lines[0]) < 700


async def test_refusals_of_invented_jobs_have_an_end(bench, caplog):
    for number in range(300):
        await bench.ask(job=f"invented-{number}")
    assert (
        len([one for one in caplog.records if one.name.startswith("airflow_mqtt")]) == 101
    )  # and the one that says so


async def test_tries_are_logged_ever_less(bench, fast, caplog):
    bench.answer = lambda _: response(503 if len(bench.calls) < 40 else 204, text="\nno\n" * 99)
    await bench.ask()
    lines = [record.getMessage() for record in caplog.records if "trying again" in record.message]
    assert len(lines) == 6  # 1, 2, 4, 8, 16, 32
    assert not any("\n" in line for line in lines)


# --- fair turns ---------------------------------------------------------------------------------------------


async def test_one_workers_calls_leave_connections_for_those_of_others(bench):
    hang = asyncio.Event()
    bench.answer = lambda call: response(204) if "theirs" in call.path else _after(hang)
    loud = [
        asyncio.ensure_future(bench.api.call("t", "GET", f"mine/{n}", worker="loud", headers={}, body=None))
        for n in range(200)
    ]
    while len(bench.calls) < execution_api.CALLS_OF_A_WORKER:
        await asyncio.sleep(0.001)
    for number in range(50):
        call = bench.api.call("t", "GET", "theirs", worker=f"edge-{number}", headers={}, body=None)
        assert (await asyncio.wait_for(call, 10)).status_code == 204
    assert len(bench.calls) == execution_api.CALLS_OF_A_WORKER + 50
    hang.set()
    await asyncio.gather(*loud)


async def test_of_one_worker_one_large_answer_is_read_at_a_time(bench):
    read, most = set(), []

    class Watched(Turns):
        @contextlib.asynccontextmanager
        async def of(self, owner):
            async with super().of(owner):
                read.add(owner)
                most.append(dict(self._inside))
                yield

    bench.api._large = Watched(4, 1)
    bench.answer = lambda _: response(200, text="x" * 2**20)
    calls = [
        bench.api.call("t", "GET", str(number), worker=f"edge-{number % 3}", headers={}, body=None)
        for number in range(12)
    ]
    answers = await asyncio.gather(*calls)
    assert {len(answer.content) for answer in answers} == {2**20}
    assert read == {"edge-0", "edge-1", "edge-2"}
    assert len(most) == 12 and all(set(inside.values()) == {1} for inside in most)


class Clock:
    """Moves when somebody sleeps, and says who did."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


async def test_a_worker_waits_until_its_answers_are_paid_for(bench):
    await bench.add("theirs", worker="edge-2")
    clock = bench.gateway._clock = Clock()
    bench.gateway._sleep = clock.sleep
    bench.answer = lambda _: response(200, text="x" * 7 * 2**20)
    for _ in range(3):
        assert (await bench.ask()).status == 200 or bench.answers[-1].status == 413
    assert not clock.slept, "16 MiB at once"
    await bench.ask(id_="again")
    await bench.ask(worker="edge-2", job="theirs")
    assert [round(seconds, 1) for seconds in clock.slept] == [1.3]
    before = len(bench.calls)
    for _ in range(50):
        await bench.ask(id_="again")  # from memory, and paid for all the same
    assert len(bench.calls) == before


async def test_refusals_are_paid_for_too(bench):
    clock = bench.gateway._clock = Clock()
    bench.gateway._sleep = clock.sleep
    for _ in range(2_600):
        await bench.ask(path="health")
    assert 1.0 < sum(clock.slept) < 1.5


async def test_what_is_large_is_encoded_elsewhere(bench):
    loop_thread, threads = threading.get_ident(), []
    encoded = bench.gateway._encoded
    bench.gateway._encoded = lambda answer: threads.append(threading.get_ident()) or encoded(answer)
    bench.answer = lambda _: response(200, text="x" * 100_000)
    await bench.ask()
    assert loop_thread not in threads and len(threads) == 1
    bench.answer = lambda _: response(200, text="x")
    await bench.ask()
    assert threads[1:] == [loop_thread]


async def test_of_two_final_states_the_first_answer_does_not_end_the_ending(bench):
    first, second = asyncio.Event(), asyncio.Event()
    answers = [_after(first), _after(second)]
    bench.answer = lambda _: answers.pop(0)
    calls = [bench.take(request("PATCH", "task-instances/ti-one/state", body='{"state": "success"}')) for _ in range(2)]
    while len(bench.calls) < 2:
        await asyncio.sleep(0.001)
    first.set()
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert bench.gateway.is_ending("one")
    second.set()
    await asyncio.gather(*calls)
    assert not bench.gateway.is_ending("one") and not bench.gateway._ending


async def test_failing_calls_fill_no_log(bench, fast, caplog):
    bench.answer = lambda _: response(500)
    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        for number in range(60):
            await bench.ask(path=f"variables/{number}")
    more = (time.monotonic() - began) * 0.2  # in so much time there is room for so many again
    assert len([line for line in caplog.records if line.name.startswith("airflow_mqtt")]) <= 31 + more


# --- callbacks of workers of 0.1.0, and Airflow's own call of that path


async def test_the_old_path_is_the_gate_for_what_has_not_started_and_airflows_after_that(bench):
    await bench.add("cb", state="accepted", workload_type="ExecuteCallback", subject="cb-1", running_since=None)
    bench.living.put_worker(worker())
    assert (await bench.ask("PATCH", "callbacks/cb-1/run", job="cb", id_="gate")).status == 204
    assert (bench.row("cb").state, bench.calls) == ("running", [])
    assert (await bench.ask("PATCH", "callbacks/cb-1/run", job="cb", id_="gate")).status == 204  # delivered twice
    assert bench.calls == []
    bench.answer = lambda _: response(200, headers={"Refreshed-API-Token": "another"}, json={})
    answer = await bench.ask("PATCH", "callbacks/cb-1/run", job="cb")
    assert (answer.status, len(bench.calls)) == (200, 1)
    assert "another" not in json.dumps(vars(answer))
    assert bench.row("cb").token == "another"


async def test_our_gate_of_callbacks_reaches_nobody(bench):
    await bench.add("cb", state="accepted", workload_type="ExecuteCallback", subject="cb-1", running_since=None)
    bench.living.put_worker(worker())
    assert (await bench.ask("PATCH", "airflow-mqtt/callbacks/cb-1/start", job="cb")).status == 204
    assert (await bench.ask("PATCH", "airflow-mqtt/callbacks/cb-1/start", job="cb")).status == 409
    assert (bench.row("cb").state, bench.calls) == ("running", [])


# --- a device whose clock is wrong


@pytest.mark.parametrize("behind", [7200.0, -7200.0])
async def test_times_of_a_device_are_corrected_by_what_its_heartbeats_say(bench, behind):
    bench.living.put_worker(worker())
    now = time.time()
    await _beat_of(bench, now - behind)
    path = "task-instances/ti-one/state"
    body = {"state": "up_for_reschedule", "end_date": _iso(now - behind), "reschedule_date": _iso(now - behind + 5)}
    assert (await bench.ask("PATCH", path, body=json.dumps(body))).status == 204
    sent = json.loads(bench.calls[-1].content)
    for name, right in (("end_date", now), ("reschedule_date", now + 5)):
        assert datetime.fromisoformat(sent[name]).timestamp() == pytest.approx(right, abs=10)
    bench.answer = lambda _: response(200, json=_iso(now))
    answer = await bench.ask("GET", "task-reschedules/ti-one/start_date")
    assert datetime.fromisoformat(json.loads(answer.body)).timestamp() == pytest.approx(now - behind, abs=10)


async def test_what_is_right_within_the_tolerance_goes_as_it_came(bench):
    bench.living.put_worker(worker())
    await _beat_of(bench, time.time() - 1)
    body = '{ "state":"success",  "end_date": "2026-01-01T00:00:00Z"}'
    assert (await bench.ask("PATCH", "task-instances/ti-one/state", body=body)).status == 204
    assert bench.calls[-1].content == body.encode()


async def _beat_of(bench, ts):
    """Hear a heartbeat that was made at `ts` by the device's clock."""
    bench.writer.receive(Heard("edge-1", status(ts=ts)))
    bench.wake.set()
    while not bench.living.workers["edge-1"].clock.heard:
        await asyncio.sleep(0.001)


def _iso(at):
    return datetime.fromtimestamp(at, UTC).isoformat()


# --- calls that came together -------------------------------------------------------------------------------


def lean(bench):
    """Let the worker be one that takes several messages in one."""
    bench.living.put_worker(worker(journal="j", features=(PARCELS,)))


def written(number, **values):
    return request("POST", f"xcoms/dag/run/task/key{number}", body=str(number), id_=f"write-{number}", **values)


def ending(job="one"):
    more = {"body": '{"state": "success", "end_date": "x"}', "brief": True, "ends": True, "exit_code": 0}
    return request("PATCH", f"task-instances/ti-{job}/state", job=job, id_="end", **more)


async def test_a_chain_is_answered_in_order_and_in_one_message(bench):
    lean(bench)
    await bench.gateway.take(written(1), written(2), ending())
    assert [call.url.rsplit("/", 1)[-1] for call in bench.calls] == ["key1", "key2", "state"]
    (ack,) = bench.acks
    assert [(answer.id, answer.status) for answer in ack.responses()] == [
        ("write-1", 204), ("write-2", 204), ("end", 204),
    ]  # fmt: skip
    assert (ack.answers[2].keys(), bench.answers) == ({"id", "status", "ended"}, [])


async def test_none_behind_a_refused_call_is_made(bench):
    lean(bench)
    bench.answer = lambda asked: web.json_response({}, status=404 if "key2" in asked.raw_path else 200)
    await bench.gateway.take(written(1), written(2), ending())
    assert len(bench.calls) == 2
    (ack,) = bench.acks
    assert [answer.status for answer in ack.responses()] == [200, 404]
    assert bench.row("one").state == "running"


async def test_a_final_state_that_ends_the_attempt_ends_it_once_airflow_has_accepted_it(bench):
    await bench.gateway.take(ending())
    row = bench.row("one")
    assert (row.state, row.exit_code, row.final_state) == ("succeeded", 0, "success")
    assert (bench.answers[-1].status, bench.answers[-1].ended) == (204, True)
    await bench.gateway.take(ending())  # its answer got lost
    assert bench.answers[-1].ended
    assert len(bench.calls) == 1


@pytest.mark.parametrize("status", [404, 409, 422])
async def test_a_final_state_that_airflow_refuses_ends_nothing(bench, status):
    bench.answer = lambda _: web.json_response({"detail": {}}, status=status)
    await bench.gateway.take(ending())
    assert bench.row("one").state == "running"
    assert not bench.answers[-1].ended


async def test_an_older_attempt_ends_nothing(bench):
    await bench.add("two", attempt=2)
    await bench.gateway.take(ending("two"))
    assert bench.row("two").state == "running"
    assert (bench.answers[-1].status, bench.answers[-1].ended) == (409, False)


async def test_a_chain_whose_first_call_is_under_way_is_left_to_that(bench):
    """Else what comes behind it would be made before it."""
    lean(bench)
    first = bench.take(written(1))
    assert bench.gateway.take(written(1), written(2)) is None
    await first
    await bench.gateway.take(written(1), written(2))
    assert [call.url.rsplit("/", 1)[-1] for call in bench.calls] == ["key1", "key2"]


async def test_a_worker_that_takes_each_by_itself_gets_each_by_itself(bench):
    await bench.gateway.take(written(1), written(2))
    assert [answer.id for answer in bench.answers] == ["write-1", "write-2"]


async def test_answers_that_are_large_go_by_themselves(bench):
    lean(bench)
    bench.answer = lambda _: web.json_response("x" * 3000)
    await bench.gateway.take(written(1), written(2))
    assert [answer.id for answer in bench.answers] == ["write-1", "write-2"]


async def test_an_acknowledgement_waits_for_an_answer_and_goes_with_it(bench):
    lean(bench)
    go = asyncio.Event()

    async def slow(_):
        await go.wait()
        return web.json_response({})

    bench.answer = slow
    asking = bench.take(written(1))
    bench.living.acknowledge("edge-1", {"one": 7}, time.time(), at_once=False)
    await asyncio.sleep(0.3)
    assert bench.acks == []
    go.set()
    await asking
    (ack,) = bench.acks
    assert (ack.logs, len(ack.answers)) == ({"one": 7}, 1)


async def test_a_leader_that_was_deposed_refuses_nothing(bench):
    """What it remembers is old: another may have opened the gate meanwhile, and its refusal would fail the task."""
    await bench.add("two", state="accepted")
    assert (await bench.ask("PUT", "task-instances/ti-two/rtif", job="two")).status == 409
    bench.execute(sa.update(tables.bridge).values(epoch=2))
    asked = asyncio.ensure_future(bench.take(request("PUT", "task-instances/ti-two/rtif", job="two")))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asked), 0.5)
    assert not asked.done() and len(bench.answers) == 1
    asked.cancel()
