"""The gateway over a database of its own and an Execution API that does what a test says."""

import asyncio
import contextlib
import json
import logging
import sqlite3

import httpx
import pytest
import sqlalchemy as sa

from airflow_mqtt.bridge.calls import execution_api, gateway
from airflow_mqtt.bridge.calls.execution_api import ExecutionApi
from airflow_mqtt.bridge.calls.gateway import Gateway
from airflow_mqtt.bridge.calls.heartbeats import beat
from airflow_mqtt.bridge.mqtt.inbox import Call
from airflow_mqtt.bridge.store import SqlTx
from airflow_mqtt.database import tables, transitions
from airflow_mqtt.database.engine import Database, make_engine
from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.messages import Request, Response
from airflow_mqtt.protocol.topics import Topics


class Bench:
    """A gateway, and what its two sides have seen: `calls` of the API, `answers` to workers."""

    def __init__(self, url):
        self.engine = make_engine(url)
        self.database = Database(self.engine, "")
        self.api = ExecutionApi("http://api/execution/", self.database, lambda: 5.0)
        self.api._client = httpx.AsyncClient(
            base_url="http://api/execution/", transport=httpx.MockTransport(self._serve), timeout=5
        )
        self.calls: list[httpx.Request] = []
        self.answer = lambda _: httpx.Response(204)
        self.answers: list[Response] = []
        self.payloads: list[bytes] = []
        self.gateway = Gateway(
            self.database, self.api, topics=Topics("airflow"), publish=self._publish, clock=lambda: 5.0,
            max_message_bytes=8192,
        )  # fmt: skip

    async def _serve(self, request):
        self.calls.append(request)
        answer = self.answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _publish(self, message):
        if message.topic.endswith("/response"):
            self.payloads.append(message.payload)
            self.answers.append(Response.decode(message.payload))

    async def add(self, id_, *, worker="edge-1", state="running", **values):
        row = {
            "id": id_, "kind": "airflow", "workload_type": "ExecuteTask", "workload": "{}", "token": f"token of {id_}",
            "token_at": 0.0, "queue": "default", "priority": 1, "slots": 1, "subject": f"ti-{id_}", "owner": "1",
            "dag_id": "dag", "run_id": "run", "task_id": "task",
        }  # fmt: skip
        async with self.engine.begin() as connection:
            for statement in transitions.creation(row, now=1.0, by="test"):
                await connection.execute(statement)
            values = {"state": state, "worker": worker, "attempt": 1, "running_since": 1.0, **values}
            await connection.execute(sa.update(tables.job).where(tables.job.c.id == id_).values(**values))

    async def row(self, id_):
        async with self.engine.connect() as connection:
            return (await connection.execute(sa.select(tables.job).where(tables.job.c.id == id_))).one()

    def take(self, call):
        work = self.gateway.take(call)
        return asyncio.ensure_future(work) if work else None

    async def ask(self, method="GET", path="variables/x", **values):
        """Make one call and return its answer."""
        await self.gateway.take(request(method, path, **values))
        return self.answers[-1]


def request(method="GET", path="variables/x", *, worker="edge-1", job="one", id_="", size=0, **values):
    request.count += 1
    message = Request(
        id=id_ or f"r{request.count}", journal="j", job=job, attempt=1, method=method, path=path, **values
    )
    return Call(worker, message, size)


request.count = 0


@pytest.fixture
async def bench(tmp_path):
    (tmp_path / "bridge.db").touch()
    made = Bench(f"sqlite:///{tmp_path}/bridge.db")
    async with made.engine.begin() as connection:
        await connection.run_sync(tables.metadata.create_all)
        await connection.execute(sa.insert(tables.bridge).values(epoch=1, beat=0))
    made.database.epoch = 1
    await made.add("one")
    yield made
    await made.api.close()
    await made.engine.dispose()


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
    assert bench.api._versions == {}  # our own heartbeats would speak it


async def test_a_header_that_is_one_goes_through(bench):
    await bench.ask(headers={"airflow-api-version": "2026-06-30", "x-other": "a\nb"})
    assert bench.calls[0].headers["airflow-api-version"] == "2026-06-30"
    assert "x-other" not in bench.calls[0].headers


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
    [httpx.LocalProtocolError("x"), httpx.InvalidURL("x"), UnicodeEncodeError("ascii", "ü", 0, 1, "x")],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_client_refuses_is_answered_400(bench, error):
    bench.answer = lambda _: error
    assert (await bench.ask()).status == 400
    assert len(bench.calls) == 1


async def test_a_name_that_the_database_would_refuse(bench):
    await bench.add("two", state="accepted")
    async with bench.engine.begin() as connection:
        await connection.execute(sa.insert(tables.worker).values(name="edge-1", state="idle", seen_at=1.0, journal="j"))
    path = "task-instances/ti-two/run"
    for name in ("a\x00b", {"deep": 1}, None):
        assert "\x00" not in gateway._identity({"unixname": name, "pid": True})["unixname"]
    answer = await bench.ask("PATCH", path, job="two", body=json.dumps({"unixname": "a\x00b", "pid": 2**40}))
    assert answer.status == 204
    row = await bench.row("two")
    assert (row.unixname, row.pid) == ("a\N{REPLACEMENT CHARACTER}b", 0)


# --- room


async def test_calls_that_are_tried_for_ever_leave_the_slots_to_others(bench, fast):
    """One device with many calls that get 503, and one call of another."""
    await bench.add("two", worker="edge-2")
    bench.answer = lambda call: httpx.Response(503 if "bad" in str(call.url) else 200, json={})
    bad = [bench.take(request(path="variables/bad", job="one")) for _ in range(200)]
    under_way = [task for task in bad if task]
    assert len(under_way) == 4  # of one job
    await asyncio.wait_for(bench.ask(worker="edge-2", job="two"), 10)
    assert bench.answers[-1].status == 200
    await asyncio.wait_for(_cancelled(under_way), 10)
    assert bench.gateway._room._of == {}


async def test_a_slot_is_held_for_one_try_alone(bench, monkeypatch, fast):
    monkeypatch.setattr(bench.gateway, "_slots", asyncio.Semaphore(1))
    bench.answer = lambda call: httpx.Response(503 if "bad" in str(call.url) else 200, json={})
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
    assert bench.gateway._room._of == {} and bench.gateway._room_of_jobs._of == {}
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
    return httpx.Response(204)


async def _cancelled(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- answers


async def test_a_request_that_comes_again_gets_its_answer_again(bench):
    bench.answer = lambda _: httpx.Response(200, json={"n": len(bench.calls)})
    call = request(id_="same")
    await bench.gateway.take(call)
    await bench.gateway.take(call)
    assert len(bench.calls) == 1 and bench.payloads[0] == bench.payloads[1]


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
    bench.answer = lambda _: httpx.Response(200, text=text)
    answer = await bench.ask(method, path)
    assert answer.status == 413 and "max_message_bytes" in answer.body
    assert max(map(len, bench.payloads)) <= 8192


async def test_an_answer_that_shrinks_enough_is_sent(bench):
    bench.answer = lambda _: httpx.Response(200, text="x" * 100_000)
    assert len((await bench.ask()).body) == 100_000


async def test_an_answer_that_no_worker_would_unpack_is_not_sent(bench, monkeypatch):
    monkeypatch.setattr(codec, "MAX_DECODED_BYTES", 50_000)
    bench.answer = lambda _: httpx.Response(200, text="x" * 100_000)
    assert (await bench.ask()).status == 413


class Huge(httpx.AsyncByteStream):
    """120 MiB in chunks of 64 KiB; counts those that were read. Short in UTF-16, long in JSON."""

    read = 0
    closed = False

    async def __aiter__(self):
        for _ in range(120 * 16):
            self.read += 1
            yield b"x\0" * 32768

    async def aclose(self):
        self.closed = True


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "xcoms/dag/run/task/key"), ("PATCH", "task-instances/ti-one/state")],
    ids=["any", "final state"],
)
@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "latin-1"])
async def test_a_huge_answer_is_read_up_to_the_limit(bench, monkeypatch, method, path, charset):
    def packed(_):
        raise AssertionError("compressed for nothing")

    huge = Huge()
    headers = {"content-type": f"application/json; charset={charset}"}
    bench.answer = lambda _: httpx.Response(200, headers=headers, stream=huge)
    with monkeypatch.context() as patched:
        patched.setattr(codec, "pack", lambda plain: plain if len(plain) < 1000 else packed(plain))
        answer = await bench.ask(method, path, body='{"state": "success"}')
    assert answer.status == 413
    assert f"over {codec.MAX_DECODED_BYTES} bytes unpacked" in answer.body and "max_message_bytes" in answer.body
    assert huge.read == codec.MAX_DECODED_BYTES // 65536 + 1 and huge.closed
    assert (await bench.row("one")).final_state == ("success" if method == "PATCH" else None)


async def test_an_answer_is_asked_for_as_it_is(bench):
    """What is compressed may be a thousand times as large."""
    await bench.ask()
    assert bench.calls[0].headers["accept-encoding"] == "identity"


async def test_a_huge_answer_to_a_heartbeat_is_let_be(bench, caplog):
    huge = Huge()
    bench.answer = lambda _: httpx.Response(400, stream=huge)
    await beat(bench.database, bench.api, stop=None)
    assert huge.closed and "status 400: 'x" in caplog.text


@pytest.mark.parametrize("error", [httpx.ReadError("x"), httpx.RemoteProtocolError("x"), httpx.ReadTimeout("x")])
async def test_an_answer_that_breaks_off_is_asked_for_again(bench, fast, error):
    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"some"
            raise error

    bench.answer = lambda _: (
        httpx.Response(200, stream=Broken()) if len(bench.calls) == 1 else httpx.Response(200, text="all")
    )
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
    bench.api._client = ExecutionApi(f"http://127.0.0.1:{port}/", bench.database, lambda: 5.0)._client
    async with server:
        for path, expected in (("a", 1), ("b", 1), ("big", 1), ("c", 2), ("d", 2)):
            answer = await asyncio.wait_for(bench.ask(path=f"variables/{path}"), 10)
            assert (answer.status, opened) == (413 if path == "big" else 200, expected)
        await bench.api.close()


async def test_a_value_of_the_name_heartbeat_is_left_alone(bench):
    await bench.ask("PUT", "variables/my/heartbeat", body='{"hostname": "h"}')
    await bench.ask("POST", "xcoms/dag/run/task/heartbeat", body='{"hostname": "h"}')
    await bench.ask("PUT", "store/ti/ti-one/heartbeat", body='{"hostname": "h"}')
    await bench.ask("PUT", "task-instances/ti-one/heartbeat", body='{"hostname": "h"}')
    assert [json.loads(call.content)["hostname"] for call in bench.calls] == ["h", "h", "h", "edge-1"]


# --- tokens


async def test_a_token_that_cannot_be_stored_does_not_cost_the_answer(bench, monkeypatch, caplog):
    async def locked(*_):
        raise sqlite3.OperationalError("database is locked")

    bench.answer = lambda _: httpx.Response(200, json={}, headers={"refreshed-api-token": "new"})
    with monkeypatch.context() as broken:
        broken.setattr(SqlTx, "set_token", locked)
        assert (await bench.ask()).status == 200
    assert len(bench.calls) == 1 and "could not be stored" in caplog.text
    assert (await bench.row("one")).token == "token of one"
    await bench.ask()
    assert (await bench.row("one")).token == "new"


async def test_heartbeats_bring_their_tokens_along(bench, monkeypatch):
    async def token(*_):
        raise AssertionError("read once more")

    await bench.add("two")
    monkeypatch.setattr(SqlTx, "token", token)
    await beat(bench.database, bench.api, stop=None)
    assert {call.headers["authorization"] for call in bench.calls} == {"Bearer token of one", "Bearer token of two"}


async def test_a_heartbeat_that_cannot_be_sent_stops_no_other(bench, caplog):
    await bench.add("two")
    bench.answer = lambda call: httpx.LocalProtocolError("x") if "ti-one" in str(call.url) else httpx.Response(204)
    await beat(bench.database, bench.api, stop=None)
    assert len(bench.calls) == 2 and "heartbeat of job one" in caplog.text


def test_heartbeats_have_connections_of_their_own():
    pool = ExecutionApi("http://api/", None, None)._client._transport._pool
    assert pool._max_connections == execution_api.CALLS + execution_api.HEARTBEATS


# --- the log


async def test_a_refusal_is_one_line_and_said_once(bench, caplog):
    with caplog.at_level(logging.WARNING):
        for path in ("x\nERROR all is lost\n%s", "x%0aERROR all is lost", "variables\u2028ERROR"):
            for _ in range(20):
                assert (await bench.ask("POST", path)).status == 403
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("airflow_mqtt")]
    assert len(lines) == 1 and "\n" not in lines[0] and len(lines[0]) < 700


async def test_refusals_of_invented_jobs_have_an_end(bench, caplog):
    for number in range(300):
        await bench.ask(job=f"invented-{number}")
    assert (
        len([one for one in caplog.records if one.name.startswith("airflow_mqtt")]) == 101
    )  # and the one that says so


async def test_tries_are_logged_ever_less(bench, fast, caplog):
    bench.answer = lambda _: httpx.Response(503 if len(bench.calls) < 40 else 204, text="\nno\n" * 99)
    await bench.ask()
    lines = [record.getMessage() for record in caplog.records if "trying again" in record.message]
    assert len(lines) == 6  # 1, 2, 4, 8, 16, 32
    assert not any("\n" in line for line in lines)
