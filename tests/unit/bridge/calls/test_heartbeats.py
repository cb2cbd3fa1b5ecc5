"""Heartbeats of running tasks, and which refused one says that a task should end."""

import asyncio
import json

import aiohttp
import pytest

from airflow_mqtt.bridge.calls import execution_api
from bridge_samples import worker
from gateway_bench import after, request, response


async def test_heartbeats_bring_their_tokens_along(bench):
    await bench.add("two")
    before = bench.ledger.statements
    await bench.beat()
    assert {call.headers["authorization"] for call in bench.calls} == {"Bearer token of one", "Bearer token of two"}
    assert bench.ledger.statements == before  # nothing is read for them


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


@pytest.mark.parametrize("fails", [aiohttp.ClientConnectionError("away"), 500])
async def test_however_many_heartbeats_fail_one_line_says_so(bench, caplog, fails):
    """Ten thousand tasks may run while the API server is away."""
    for number in range(20):
        await bench.add(f"more-{number}")
    bench.answer = lambda _: response(500) if fails == 500 else throw(fails)
    await bench.beat()
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("heartbeats")]
    assert len(lines) == 1 and "and those of 20 jobs more" in lines[0]


def throw(error):
    raise error


async def test_heartbeats_have_connections_of_their_own(bench):
    assert bench.api._session.connector.limit == execution_api.CALLS + execution_api.HEARTBEATS
    hang = asyncio.Event()
    bench.answer = lambda call: response(204) if call.path.endswith("heartbeat") else after(hang)
    calls = [
        asyncio.ensure_future(
            bench.api.call("t", "GET", f"x/{number}", worker=f"edge-{number % 10}", headers={}, body=None)
        )
        for number in range(200)
    ]
    while len(bench.calls) < execution_api.CALLS:
        await asyncio.sleep(0.001)
    await asyncio.wait_for(bench.beat(), 60)
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


async def test_a_task_that_ends_is_no_task_to_stop(bench):
    """While its final state is on its way, Airflow refuses its heartbeats too."""
    hang = asyncio.Event()
    bench.answer = lambda _: after(hang)
    ending = bench.take(request("PATCH", "task-instances/ti-one/state", body='{"state": "success"}'))
    while not bench.calls:
        await asyncio.sleep(0.001)
    assert bench.gateway.is_ending("one")
    hang.set()
    await ending
    assert not bench.gateway.is_ending("one")
    await bench.beat()
    assert len(bench.calls) == 1  # Airflow has heard its end


async def test_of_two_final_states_the_first_answer_does_not_end_the_ending(bench):
    first, second = asyncio.Event(), asyncio.Event()
    answers = [after(first), after(second)]
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
