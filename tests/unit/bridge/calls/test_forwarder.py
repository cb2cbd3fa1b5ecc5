"""How a call goes to Airflow and what is noted of its answer, over an Execution API that does what a test says."""

import asyncio
import contextlib
import json
import sqlite3
import time
from dataclasses import replace
from datetime import UTC, datetime

import aiohttp
import pytest
import sqlalchemy as sa
from aiohttp import web

from airflow_mqtt.bridge.calls import forwarder
from airflow_mqtt.bridge.calls.execution_api import ExecutionApi
from airflow_mqtt.bridge.dispatch.reports import Heard
from airflow_mqtt.database import tables
from airflow_mqtt.protocol import codec, execution_api
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import Request
from bridge_samples import job, status, worker
from gateway_bench import request, response


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


async def test_an_answer_is_asked_for_as_it_is(bench):
    """What is compressed may be a thousand times as large."""
    await bench.ask()
    assert bench.calls[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("how", ["closed", "malformed", "silent", "before its head"])
async def test_an_answer_that_breaks_off_is_asked_for_again(bench, fast, how):
    bench.api._session._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=0.3)

    async def broken(request):
        bench.api._session._timeout = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)  # of the next
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
    bench.gateway._forwarder._api = api = ExecutionApi(f"http://127.0.0.1:{port}/")
    async with server:
        for path, expected in (("a", 1), ("b", 1), ("big", 1), ("c", 2), ("d", 2)):
            answer = await asyncio.wait_for(bench.ask(path=f"variables/{path}"), 60)
            assert (answer.status, opened) == (413 if path == "big" else 200, expected)
        await api.close()


async def test_a_value_of_the_name_heartbeat_is_left_alone(bench):
    await bench.ask("PUT", "variables/my/heartbeat", body='{"hostname": "h"}')
    await bench.ask("POST", "xcoms/dag/run/task/heartbeat", body='{"hostname": "h"}')
    await bench.ask("PUT", "store/ti/ti-one/heartbeat", body='{"hostname": "h"}')
    await bench.ask("PUT", "task-instances/ti-one/heartbeat", body='{"hostname": "h"}')
    assert [json.loads(call.content)["hostname"] for call in bench.calls] == ["h", "h", "h", "edge-1"]


def test_the_worker_is_the_host():
    running = job(state=JobState.RUNNING, worker="edge-1")
    asked = Request(
        id="r", journal="j", job="job-1", attempt=1, method="PATCH", path="task-instances/ti-1/run",
        body='{"hostname": "raspberrypi", "pid": 3}',
    )  # fmt: skip
    match = execution_api.find(asked.method, asked.path)
    body = json.loads(forwarder._forwarded_body(running, asked, match, 0.0))
    assert body == {"hostname": "edge-1", "pid": 3}


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
    await asyncio.wait_for(asking, 60)
    assert bench.answers[-1].status == 200


async def test_a_final_state_that_airflow_refuses_is_none(bench):
    bench.answer = lambda _: response(422, json={"detail": "no"})
    assert (await bench.ask("PATCH", "task-instances/ti-one/state", body='{"state": "success"}')).status == 422
    assert bench.row("one").final_state is None


async def test_a_call_of_a_job_that_ends_meanwhile_is_given_up(bench, fast):
    bench.answer = lambda _: response(503)
    asking = bench.take(request())
    while len(bench.calls) < 3:
        await asyncio.sleep(0.001)
    bench.living.put_job(replace(bench.living.jobs["one"], state=JobState.LOST))
    await asyncio.wait_for(asking, 60)
    assert json.loads(bench.answers[-1].body)["detail"]["reason"] == "invalid_state"


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
