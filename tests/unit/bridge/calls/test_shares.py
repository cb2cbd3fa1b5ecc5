"""What one worker's calls may use of what all share: room, turns, the time that answers cost, and lines of the log."""

import asyncio
import contextlib
import logging
import time

from airflow_mqtt.bridge.calls import execution_api
from airflow_mqtt.bridge.calls.turns import Turns
from gateway_bench import after, cancelled, request, response


async def test_calls_that_are_tried_for_ever_leave_the_slots_to_others(bench, fast):
    """One device with many calls that get 503, and one call of another."""
    await bench.add("two", worker="edge-2")
    bench.answer = lambda call: response(503 if "bad" in call.path else 200, json={})
    bad = [bench.take(request(path="variables/bad", job="one")) for _ in range(200)]
    under_way = [task for task in bad if task]
    assert len(under_way) == 4  # of one job
    await asyncio.wait_for(bench.ask(worker="edge-2", job="two"), 60)
    assert bench.answers[-1].status == 200
    await asyncio.wait_for(cancelled(under_way), 60)
    assert bench.gateway._quota._of == {}


async def test_a_slot_is_held_for_one_try_alone(bench, monkeypatch, fast):
    monkeypatch.setattr(bench.api, "_calls", Turns(1, 1))
    bench.answer = lambda call: response(503 if "bad" in call.path else 200, json={})
    under_way = [bench.take(request(path="variables/bad"))]
    while len(bench.calls) < 3:
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(bench.ask(), 60)).status == 200
    await cancelled(under_way)


async def test_a_worker_and_all_together_have_bounds_in_bytes(bench):
    hang = asyncio.Event()
    bench.answer = lambda _: after(hang)
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
    bench.answer = lambda _: after(hang)
    tasks = [bench.take(request()) for _ in range(4)]
    late = request(id_="late")
    assert [bench.take(late) for _ in range(3)] == [None] * 3
    assert len([record for record in caplog.records if "dropped a call" in record.message]) == 1
    hang.set()
    await asyncio.gather(*tasks)
    await bench.gateway.take(late)
    assert bench.answers[-1].id == "late"


# --- fair turns


async def test_one_workers_calls_leave_connections_for_those_of_others(bench):
    hang = asyncio.Event()
    bench.answer = lambda call: response(204) if "theirs" in call.path else after(hang)
    loud = [
        asyncio.ensure_future(bench.api.call("t", "GET", f"mine/{n}", worker="loud", headers={}, body=None))
        for n in range(200)
    ]
    while len(bench.calls) < execution_api.CALLS_OF_A_WORKER:
        await asyncio.sleep(0.001)
    for number in range(50):
        call = bench.api.call("t", "GET", "theirs", worker=f"edge-{number}", headers={}, body=None)
        assert (await asyncio.wait_for(call, 60)).status_code == 204
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


async def test_failing_calls_fill_no_log(bench, fast, caplog):
    bench.answer = lambda _: response(500)
    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        for number in range(60):
            await bench.ask(path=f"variables/{number}")
    more = (time.monotonic() - began) * 0.2  # in so much time there is room for so many again
    assert len([line for line in caplog.records if line.name.startswith("airflow_mqtt")]) <= 31 + more
