"""Which calls are let through, over a ledger and a writer: the gate opens once, and for whom it may."""

import asyncio
import contextlib
import json

import pytest
import sqlalchemy as sa

from airflow_mqtt.bridge.calls import gate
from airflow_mqtt.bridge.dispatch.reports import Heard
from airflow_mqtt.database import tables, transitions
from airflow_mqtt.database.access import Access
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import Event
from bridge_samples import worker
from gateway_bench import request, response


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
    await asyncio.wait_for(asking, 60)
    assert (bench.answers[-1].status, bench.row("two").state) == (204, "running")


async def test_a_wish_that_nobody_told_the_leader_of_closes_the_gate(bench):
    await bench.add("two", state="accepted")
    bench.living.put_worker(worker())
    bench.execute(transitions.wish_for_end("two", JobState.ACCEPTED, 1, by="operator", reason="enough"))
    answer = await bench.ask("PATCH", "task-instances/ti-two/run", job="two")
    assert answer.status == 409 and bench.calls == []
    assert (bench.row("two").state, bench.row("two").cancel_reason) == ("accepted", "enough")


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
