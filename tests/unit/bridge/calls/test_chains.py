"""Calls of one job that came together: made in their order, up to the first that fails, and answered together."""

import asyncio
import time

import pytest
from aiohttp import web

from airflow_mqtt.protocol.messages import PARCELS
from bridge_samples import worker
from gateway_bench import request


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
    bench.living.acknowledge("edge-1", {"one": 7}, time.time(), reports=1, waits=True)
    await asyncio.sleep(0.3)
    assert bench.acks == []
    go.set()
    await asking
    (ack,) = bench.acks
    assert (ack.logs, len(ack.answers)) == ({"one": 7}, 1)
