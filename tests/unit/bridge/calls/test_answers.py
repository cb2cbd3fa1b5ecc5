"""What a worker is answered: the same to a request that comes again, no more than fits, and no sooner than it is so."""

import asyncio
import threading
from dataclasses import replace

import pytest
from aiohttp import web

from airflow_mqtt.bridge.calls import gateway
from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.jobs import JobState
from gateway_bench import after, request, response


async def test_a_request_that_comes_again_gets_its_answer_again(bench):
    bench.answer = lambda _: response(200, json={"n": len(bench.calls)})
    call = request(id_="same")
    await bench.gateway.take(call)
    await bench.gateway.take(call)
    assert len(bench.calls) == 1 and bench.payloads[0] == bench.payloads[1]


async def test_a_request_that_comes_again_while_it_is_answered_is_left_to_that(bench):
    hang, call = asyncio.Event(), request(id_="same")
    bench.answer = lambda _: after(hang)
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


async def test_an_answer_comes_after_what_it_says_is_written(bench, monkeypatch):
    """Else a leader that dies in between would not know the final state that its worker has heard of."""
    seen = []
    publish = bench.gateway._publish
    monkeypatch.setattr(
        bench.gateway, "_publish", lambda messages: (seen.append(bench.row("one").final_state), publish(messages))
    )
    await bench.ask("PATCH", "task-instances/ti-one/state", body='{"state": "success"}')
    assert seen == ["success"]


# --- what is large


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
    await asyncio.wait_for(huge.ended.wait(), 60)  # the connection is closed under it
    on_its_way = 16 * 1024 * 1024  # what the sockets hold
    assert not huge.whole and huge.sent * 65536 < codec.MAX_DECODED_BYTES + on_its_way
    assert bench.row("one").final_state == ("success" if method == "PATCH" else None)


async def test_a_huge_answer_to_a_heartbeat_is_let_be(bench, caplog):
    bench.answer = huge = Huge(400)
    await bench.beat()
    await asyncio.wait_for(huge.ended.wait(), 60)
    assert not huge.whole and "status 400: x" in caplog.text


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
