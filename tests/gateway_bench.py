"""The gateway over a ledger and a writer of its own, and an Execution API on loopback that does what a test says."""

import asyncio
import time
from dataclasses import dataclass

import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer

from airflow_mqtt.bridge.calls.execution_api import ExecutionApi
from airflow_mqtt.bridge.calls.gate import Call
from airflow_mqtt.bridge.calls.gateway import Gateway
from airflow_mqtt.bridge.calls.heartbeats import beat
from airflow_mqtt.bridge.cancellation import pause
from airflow_mqtt.bridge.dispatch.duties import Duties
from airflow_mqtt.bridge.dispatch.outage import Outage
from airflow_mqtt.bridge.dispatch.reports import Reports
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.outbox import Messages, Outgoing
from airflow_mqtt.bridge.writer import Writer
from airflow_mqtt.database import tables, transitions
from airflow_mqtt.database.errors import is_transient
from airflow_mqtt.database.sqlite import SqliteLedger
from airflow_mqtt.protocol.messages import Ack, Request, Response
from airflow_mqtt.protocol.topics import Topics
from bridge_samples import RULES
from schema import with_tables


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
        self.engine = with_tables(f"sqlite:///{path}")
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
        await asyncio.wait_for(self.gateway.take(request(method, path, **values)), 60)
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


async def after(event):
    await event.wait()
    return web.Response(status=204)


async def cancelled(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
