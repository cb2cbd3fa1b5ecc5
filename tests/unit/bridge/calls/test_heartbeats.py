"""Heartbeats of running tasks, and which refused one says that a task should end."""

import asyncio
import json
import math
from itertools import pairwise

import aiohttp
import pytest

from airflow_mqtt.bridge.calls import execution_api, heartbeats
from airflow_mqtt.protocol.jobs import JobState
from bridge_samples import NOW, job, worker
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


async def test_no_more_of_them_are_under_way_than_there_are_connections(bench):
    for number in range(2 * execution_api.HEARTBEATS):
        await bench.add(f"more-{number}")
    hang, tasks = asyncio.Event(), len(asyncio.all_tasks())
    bench.answer = lambda _: after(hang)
    beating = asyncio.ensure_future(bench.beat())
    while len(bench.calls) < execution_api.HEARTBEATS:
        await asyncio.sleep(0.001)
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
    assert sum("beat_some" in name for name in names) == execution_api.HEARTBEATS and tasks < len(names)
    hang.set()
    await asyncio.wait_for(beating, 60)
    assert len({call.url for call in bench.calls}) == len(bench.calls) == 2 * execution_api.HEARTBEATS + 1


def running(id_="one", since=NOW, **values):
    return job(**({"id": id_, "state": JobState.RUNNING, "worker": "w", "running_since": since} | values))


def beats(one, *, upto, look=2.0, begin=NOW):
    """At which ages a task is heartbeaten by a leader that looks every `look` seconds."""
    found, after, now = [], -math.inf, begin
    while now < begin + upto:
        until = now + look
        if heartbeats.due([one], 10.0, after=min(after, until), until=until):
            found.append(now - NOW)
        after, now = until, now + look
    return found


@pytest.mark.parametrize("since", [NOW, NOW + 0.1, NOW + 1.9, NOW + 7.3])
def test_a_task_is_heartbeaten_each_interval_from_its_start_on(since):
    ages = [at - (since - NOW) for at in beats(running(since=since), upto=100)]
    ages = [age for age in ages if age >= 0]
    assert len(ages) >= 9 and all(10 * n - 2 <= age <= 10 * n for n, age in enumerate(ages, start=1))


def test_a_new_leader_heartbeats_at_once_what_runs_for_longer_than_an_interval():
    assert beats(running(since=NOW - 33), upto=1) == [0] and beats(running(since=NOW - 3), upto=1) == []


def test_who_is_not_looked_at_for_long_is_heartbeaten_once():
    assert len(heartbeats.due([running()], 10.0, after=NOW + 5, until=NOW + 500)) == 1


def test_a_clock_that_was_set_back_ends_no_heartbeats():
    ages = beats(running(since=NOW + 3600), upto=100)
    assert ages[-1] > 90 and max(after - before for before, after in pairwise(ages)) <= 10


def test_tasks_that_do_not_run_or_have_ended_are_not_due():
    others = [running(state=JobState.ACCEPTED), running(since=None), running(final_state="success")]
    assert heartbeats.due(others, 10.0, after=-math.inf, until=NOW + 100) == []


def test_tasks_that_began_one_after_the_other_are_not_heartbeaten_together():
    jobs = [running(str(n), NOW + n / 10) for n in range(100)]
    looks = [
        heartbeats.due(jobs, 10.0, after=at - 2, until=at) for at in (NOW + 20, NOW + 22, NOW + 24, NOW + 26, NOW + 28)
    ]
    assert [len(found) for found in looks] == [20] * 5


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
