"""What a job costs that is counted and not timed: statements, messages to its worker, and their bytes."""

import asyncio
import itertools
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from airflow_mqtt.bridge.dispatch.reports import Heard
from airflow_mqtt.database import tables, transitions
from airflow_mqtt.protocol.messages import Event
from airflow_mqtt.protocol.topics import TopicKind, Topics
from bridge_samples import info, status, worker
from gateway_bench import Bench, request, response

JOBS = 20

TOPICS = Topics("airflow")


class CountingBench(Bench):
    """One that keeps all that is published."""

    def __init__(self, path):
        super().__init__(path)
        self.out = []

    def _publish(self, messages):
        self.out += messages
        super()._publish(messages)


@pytest.fixture
async def bench(tmp_path):
    made = CountingBench(tmp_path / "bridge.db")
    await made.start()
    yield made
    await made.close()


async def test_a_call_reads_nothing_and_writes_nothing(bench):
    await bench.add("one")
    bench.answer = lambda _: response(json={"value": "v"})
    before = bench.ledger.statements
    await bench.ask("GET", "variables/x")
    await bench.ask("GET", "connections/y")
    assert bench.ledger.statements == before


def new_job(id_):
    row = {
        "id": id_, "kind": "airflow", "workload_type": "ExecuteTask", "workload": '{"ti": {}}', "token": "t",
        "token_at": 0.0, "queue": "default", "priority": 1, "slots": 1, "subject": f"ti-{id_}", "owner": "1",
        "dag_id": "dag", "run_id": "run", "task_id": "task",
    }  # fmt: skip
    return transitions.creation(row, now=time.time(), by="test")


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def lifetime(bench, id_, seq):
    """What a worker says of one no-op, from its acceptance to its end."""
    event = Event(type="accepted", journal="j", seq=next(seq), job=id_, attempt=1, ts=1.0)
    bench.writer.receive(Heard("edge-1", event))
    subject = f"task-instances/ti-{id_}"
    for method, path in (
        ("PATCH", f"{subject}/run"), ("PUT", f"{subject}/rtif"), ("POST", "xcoms/dag/run/task/return_value"),
        ("PATCH", f"{subject}/state"),
    ):  # fmt: skip
        body = '{"state": "success"}' if path.endswith("state") else "{}"
        await bench.gateway.take(request(method, path, job=id_, body=body))
    bench.writer.receive(
        Heard("edge-1", replace(event, type="finished", seq=next(seq), outcome="succeeded", exit_code=0))
    )


async def test_a_job_costs_few_messages_and_statements(bench):
    """Of 20 jobs that run at once on one worker: what goes to it, and what the database is asked."""
    bench.living.put_worker(worker(seen_at=time.time(), info=info(slots=JOBS), status=status(slots=JOBS, free=JOBS)))
    bench.execute(*(statement for n in range(JOBS) for statement in new_job(f"j{n}")))
    before = bench.ledger.statements
    bench.writer.connect(time.time())
    bench.writer.look_for_news()
    await until(lambda: sum("/jobs/" in message.topic for message in bench.out) == JOBS)
    seq = itertools.count(1)
    await asyncio.gather(*(lifetime(bench, f"j{n}", seq) for n in range(JOBS)))
    done = sa.select(sa.func.count()).select_from(tables.job).where(tables.job.c.state == "succeeded")
    with bench.engine.connect() as connection:
        await until(lambda: (connection.rollback(), connection.execute(done).scalar())[1] == JOBS)
    await until(lambda: not bench.living.acks)
    sizes = {}
    for message in bench.out:
        sizes.setdefault(TOPICS.parse(message.topic).kind, []).append(len(message.payload))
    counts = {kind: len(each) for kind, each in sizes.items()}
    assert (counts[TopicKind.JOBS], counts[TopicKind.RESPONSE]) == (JOBS, 4 * JOBS)  # an answer to each call of a no-op
    assert counts[TopicKind.JOB_STATUS] <= 3 * JOBS  # for those who watch; states of one batch are told at once
    assert counts[TopicKind.ACK] <= 4  # gathered
    to_worker = sum(sum(each) for kind, each in sizes.items() if kind is not TopicKind.JOB_STATUS)
    assert to_worker / JOBS <= 420
    assert bench.ledger.statements - before <= 60  # whatever the batches were, and not 20 times that of one job
