"""Each number that a device can say, at its least and its greatest, through real rounds on both databases.

The messages and their bounds are those of `airflow_mqtt.protocol.messages`: a field that is added there is tried here.
"""

import asyncio
import dataclasses
import itertools
import logging
import time
from dataclasses import replace

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from airflow_mqtt.bridge.calls.execution_api import Answer
from airflow_mqtt.bridge.calls.gate import Call
from airflow_mqtt.bridge.calls.gateway import Gateway
from airflow_mqtt.bridge.dispatch.duties import Duties
from airflow_mqtt.bridge.dispatch.outage import Outage
from airflow_mqtt.bridge.dispatch.reports import Heard, Reports
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.inbox import Inbox, Opened
from airflow_mqtt.bridge.mqtt.outbox import Messages
from airflow_mqtt.bridge.writer import Writer
from airflow_mqtt.database import tables, transitions
from airflow_mqtt.database.ledger import Writes
from airflow_mqtt.database.postgres import PostgresLedger
from airflow_mqtt.database.sqlite import SqliteLedger
from airflow_mqtt.protocol import messages
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import (
    Born,
    Event,
    Held,
    LogChunk,
    Message,
    Request,
    WorkerInfo,
    WorkerStatus,
    numbers,
)
from airflow_mqtt.protocol.topics import Topics
from bridge_samples import RULES, info, status, worker
from schema import with_tables

#: What a device says, and where below its own topics.
OF_A_WORKER: dict[type[Message], tuple[str, Message]] = {
    Born: (
        "events",
        Born(
            journal="j",
            first=1,
            last=0,
            instance="i",
            connection=2,
            number=1,
            queues=["loud"],
            kinds=["airflow"],
            holds=[{"job": "one", "attempt": 1, "state": "running"}],
        ),
    ),
    Held: ("events", Held(job="one", attempt=1, state="running")),
    Event: ("events", Event(type="finished", journal="j", seq=1, job="one", attempt=1, ts=1.0, outcome="failed")),
    WorkerStatus: ("status", status(connection=2)),
    WorkerInfo: ("info", info()),
    LogChunk: ("logs/one", LogChunk.of(1, 0, b"a line\n")),
    Request: ("request", Request(id="r", journal="j", job="one", attempt=1, method="GET", path="variables/x")),
}

#: It has no numbers; tests/unit/bridge/telemetry has what else is wrong of it.
WITHOUT_NUMBERS = {messages.Telemetry}

#: What only the bridge says; tests/unit/worker/test_numbers.py has it.
OF_THE_BRIDGE = {
    messages.Run, messages.Cancel, messages.Ack, messages.Desired, messages.Response, messages.Probe,
    messages.JobStatus, messages.QueueStatus, messages.BridgeStatus,
}  # fmt: skip


def cases(beyond: bool):
    for cls in OF_A_WORKER:
        for name, bounds in numbers(cls).items():
            low, high = bounds.least - beyond, bounds.greatest + beyond
            yield from ((cls, name, low), (cls, name, high))


def payload_of(cls, name, value):
    level, message = OF_A_WORKER[cls]
    said = {**dataclasses.asdict(message), name: value}
    if cls is Held:
        said = {**dataclasses.asdict(OF_A_WORKER[Born][1]), "holds": [said]}
    return level, orjson.dumps(said)


class Site:
    """A leader without a broker, over a real database: `hear` brings one message of a worker through its rounds."""

    def __init__(self, url):
        self.engine = with_tables(url)
        self.execute(sa.insert(tables.bridge).values(epoch=1, beat=0))
        self.url, self.sent = url, []
        self.ledger = None

    def execute(self, *statements):
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)

    async def lead(self):
        """Take over, as a new leader does."""
        if self.ledger is None and self.url.startswith("sqlite"):
            self.ledger = SqliteLedger(str(make_url(self.url).database), "", 1, renewed=lambda: None)
        elif self.ledger is None:
            self.ledger = PostgresLedger(self.url, "", 1, instance="one", idle_limit=60)
        made, topics = Messages(Topics("airflow"), 31), Topics("airflow")
        self.inbox = Inbox(topics, 2**20, clock=itertools.count(step=3600).__next__)
        living = Living.of(await self.ledger.snapshot(), lambda _: RULES, allow="all")
        self.writer = Writer(
            self.ledger, living, Reports(made, 1, "bridge:b", 10**6),
            Duties(made, "bridge:b", lambda _: RULES, 10.0, 0.0), Outage(time.time()), clock=time.time,
            future=asyncio.get_running_loop().create_future, publish=self.sent.extend, wake=lambda: None,
            max_message_bytes=2**20,
        )  # fmt: skip
        self.gateway = Gateway(
            self.writer, self, made, publish=self.sent.extend, sleep=asyncio.sleep, clock=time.monotonic,
            elsewhere=asyncio.to_thread, max_message_bytes=2**20,
        )  # fmt: skip
        self.writer.connect(time.time())

    async def call(self, *_, **__):
        return Answer(204, {}, b"")

    def add(self, id_, queue, state="queued", **values):
        row = {
            "id": id_, "kind": "airflow", "workload_type": "ExecuteTask", "workload": "{}", "token": "t",
            "token_at": 1.0, "queue": queue, "priority": 1, "slots": 1, "subject": f"ti-{id_}", "owner": "1",
        }  # fmt: skip
        change = sa.update(tables.job).where(tables.job.c.id == id_).values(state=state, **values)
        self.execute(*transitions.creation(row, now=time.time(), by="test"), change)

    async def begin_anew(self, **seen):
        """Have worker `loud` in the middle of job `one`, in memory and in the database."""
        self.execute(sa.delete(tables.job), sa.delete(tables.job_log), sa.delete(tables.worker))
        self.add("one", "loud", "running", worker="loud", news=False, **seen.pop("job", {}))
        await self.lead()
        known = worker(name="loud", info=info(queues=["loud"]), seen_at=time.time(), **seen)
        await self.ledger.commit(Writes(workers=[known]))
        self.writer.living.put_worker(known)

    async def rounds(self):
        for _ in range(20):
            await asyncio.sleep(0)
            await self.writer.round()
            if not self.writer.has_work(time.time()):
                return

    async def hear(self, level, payload, name="loud"):
        """Return whether the message was taken."""
        self.inbox.put(f"airflow/v1/worker/{name}/{level}", payload, retained=False)
        (raw,) = self.inbox.take(10)
        if raw.is_large:
            self.inbox.done(raw)
        message = self.inbox.decode(raw)
        parcel = message if isinstance(message, Opened) else Opened((), ())
        for report in [message] if isinstance(message, Heard) else parcel.reports:
            self.writer.receive(report)
        chains = [(message,)] if isinstance(message, Call) else parcel.chains
        work = asyncio.gather(*(self.gateway.take(*chain) for chain in chains)) if chains else None
        self.writer._saved_at = 0.0  # what heartbeats say is written in this round too
        await self.rounds()
        if work is not None:
            await work
        return message is not None

    async def others_work_goes_on(self):
        """Another worker comes, is given a job and reports it; and the next leader reads all there is."""
        name = f"quiet-{next(COUNT)}"
        self.add(f"job-of-{name}", name)
        self.writer.look_for_news()
        born = replace(OF_A_WORKER[Born][1], journal=name, instance=name, queues=[name], holds=[])
        state = status(connection=2, instance=name, slots=2, free=2)
        assert await self.hear("events", born.encode(), name) and await self.hear("status", state.encode(), name)
        await self.rounds()
        event = Event(type="accepted", journal=name, seq=1, job=f"job-of-{name}", attempt=1, ts=1.0)
        assert await self.hear("events", event.encode(), name)
        found = await self.ledger.snapshot()
        assert {one.id: one.state for one in found.jobs}[f"job-of-{name}"] is JobState.ACCEPTED
        return found


COUNT = itertools.count()


@pytest.fixture
async def site(database_url):
    made = await asyncio.to_thread(Site, database_url)
    yield made
    await made.ledger.close()
    made.engine.dispose()


def test_every_message_is_tried_on_one_side():
    assert {*OF_A_WORKER, *OF_THE_BRIDGE, *WITHOUT_NUMBERS, messages.Parcel} == {*Message.__subclasses__()}
    assert not any(numbers(cls) for cls in WITHOUT_NUMBERS)


def refused(caplog):
    """What the writer could not commit, or read."""
    return [line.getMessage() for line in caplog.records if "could not" in line.msg or "set aside" in line.msg]


def in_the_middle(cls, name, value):
    """What the bridge knows before, so that the number counts: it is the next one, or that of the job."""
    seen = {"journal": "j", "connection": 1, "birth": 0}
    if (cls, name) == (Event, "seq"):
        seen["seq"] = value - 1
    if (cls, name) == (LogChunk, "offset"):
        seen["job"] = {"log_bytes": value}
    if name == "attempt":
        seen["job"] = {"attempt": value}
    return seen


async def test_each_number_at_its_least_and_greatest_goes_through(site, caplog):
    for cls, name, value in cases(beyond=False):
        caplog.clear()
        await site.begin_anew(**in_the_middle(cls, name, value))
        with caplog.at_level(logging.WARNING):
            assert await site.hear(*payload_of(cls, name, value)), (cls, name, value)
            found = await site.others_work_goes_on()
        assert not refused(caplog), (cls, name, value)
        assert "loud" in [one.name for one in found.workers], (cls, name, value)


def in_a_parcel(cls, name, value):
    """The same as a part of a message with several."""
    part = {**dataclasses.asdict(OF_A_WORKER[cls][1]), name: value}
    part["type"] = part.get("type") or ("request" if cls is Request else "log")
    return "events", orjson.dumps({"type": "parcel", "journal": "j", "parts": [{"job": "one", **part}]})


@pytest.mark.parametrize("cls", [Event, LogChunk, Request])
async def test_so_it_is_in_a_parcel(site, cls, caplog):
    for of, name, value in cases(beyond=False):
        if of is cls:
            caplog.clear()
            await site.begin_anew(**in_the_middle(cls, name, value))
            with caplog.at_level(logging.WARNING):
                assert await site.hear(*in_a_parcel(cls, name, value)), (name, value)
                await site.others_work_goes_on()
            assert not refused(caplog), (name, value)
    await site.begin_anew()
    for of, name, value in cases(beyond=True):
        if of is cls:
            assert not await site.hear(*in_a_parcel(cls, name, value)), (name, value)
    await site.others_work_goes_on()


async def test_each_number_beyond_its_bounds_is_refused_where_it_comes_in(site):
    await site.begin_anew()
    for cls, name, value in cases(beyond=True):
        assert not await site.hear(*payload_of(cls, name, value)), (cls, name, value)
    await site.others_work_goes_on()


#: Rows that a bridge of an older version took from a device.
OLD = [
    {"slots": 2**31, "interval": 1e10}, {"slots": 2**53, "free": 2**53, "running": 2**53, "connection": 2**53},
    {"revision": 2**53, "interval": 1e300},
]  # fmt: skip


@pytest.mark.parametrize("old", OLD, ids=str)
async def test_an_old_row_is_brought_within_bounds_and_stops_nobody(site, old, caplog):
    await site.begin_anew()
    text = orjson.dumps({**dataclasses.asdict(status()), **old}).decode()
    values = {
        "name": "loud", "state": "idle", "status": text, "info": orjson.dumps(info(queues=["loud"])).decode(),
        "instance": "i", "connection": 2**62, "seen_at": time.time() - 4 * 3600, "journal": "j", "seq": 2**62,
        "birth": 2**62, "desired": '{"slots": 9007199254740993}', "revision": 2**31 - 1,
    }  # fmt: skip
    site.execute(sa.delete(tables.worker), sa.insert(tables.worker).values(**values))
    with caplog.at_level(logging.WARNING):
        await site.lead()
        site.writer.outage.unheard = 0.0
        loud = site.writer.living.workers["loud"]
        assert loud.status.slots <= messages.MAX_SLOTS and loud.status.interval <= messages.MAX_INTERVAL
        assert max(loud.connection, loud.seq, loud.birth) <= messages.MAX_INTEGER
        site.writer._refresh.judged.add("loud")
        found = await site.others_work_goes_on()
    assert not refused(caplog)
    assert [one.state.value for one in found.workers if one.name == "loud"] == ["unknown"]
