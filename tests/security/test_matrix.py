"""What the account of one device can do to another: nothing arrives, and nothing changes in the database.

Each row is tried by itself. Then the stolen account says something that it may say, and the bridge applies that: what
was tried before it would have been applied by then. tests/contract/test_broker_acl.py has the rules of the broker line
by line, this has what would follow from them.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.messages import (
    Ack,
    Born,
    BridgeStatus,
    Cancel,
    Desired,
    Event,
    LogChunk,
    QueueStatus,
    Request,
    Response,
    Run,
    WorkerInfo,
    WorkerStatus,
)
from bridge_bench import SUBJECT, Site
from fakes import FakeWorker
from mqtt_peer import Peer
from servers import wait_for

V1 = "airflow/v1"
NOW = 1e9


class World:
    """A job that runs on the victim, and the account that was stolen."""

    def __init__(self, site: Site, victim: FakeWorker, stolen: FakeWorker) -> None:
        self.site, self.victim, self.stolen = site, victim, stolen
        self.job = site.queue()
        self.run = victim.order()
        victim.event("accepted", self.run)
        body = {"hostname": "pi", "unixname": "u", "pid": 7}
        assert victim.call(self.run, "PATCH", f"task-instances/{SUBJECT}0/run", body).status == 200
        victim.log(self.run, 0, b"one line\n")
        wait_for(lambda: site.log_of(self.job), what="the log", timeout=60)
        wait_for(lambda: victim.acked == victim.seq, what="the acknowledgement", timeout=60)
        self.settled = self.image()

    def image(self) -> list[Any]:
        """All that the database says of the victim, its job, and who leads."""
        worker = tables.worker
        about = [c for c in worker.c if c.name != "seen_at"]
        queries = [
            sa.select(tables.job).where(tables.job.c.id == self.job),
            sa.select(tables.job_event).where(tables.job_event.c.job_id == self.job).order_by(tables.job_event.c.id),
            sa.select(tables.job_log).where(tables.job_log.c.job_id == self.job),
            sa.select(*about).where(worker.c.name == self.victim.name),
            sa.select(tables.bridge.c.holder, tables.bridge.c.epoch),
            sa.select(sa.func.count()).select_from(worker),
        ]
        with self.site.engine.connect() as connection:
            return [[tuple(row) for row in connection.execute(query)] for query in queries]

    def fence(self) -> None:
        """Say something as the stolen device, in order, and wait until the bridge has applied it."""
        asked = Run(job=uuid.uuid4().hex, attempt=1, kind="airflow", slots=1, workload={})
        self.stolen.event("finished", asked, outcome="failed")
        wait_for(lambda: self.stolen.acked == self.stolen.seq, what="the acknowledgement of the fence", timeout=60)

    # --- what would do harm -------------------------------------------------------------------------------

    @property
    def status(self) -> bytes:
        return WorkerStatus(
            state="offline", reason="lost", connection=2**40, instance=self.victim.instance, ts=NOW, slots=0, free=0,
            running=0,
        ).encode()  # fmt: skip

    @property
    def info(self) -> bytes:
        return WorkerInfo(version="0", instance=self.victim.instance, queues=["stolen"], kinds=[], slots=0).encode()

    @property
    def born(self) -> bytes:
        return Born(
            journal="foreign", first=1, last=0, instance="foreign", connection=2**40, number=1, queues=["stolen"],
            kinds=["airflow"],
        ).encode()  # fmt: skip

    def event(self, journal: str, seq: int) -> bytes:
        return Event(
            type="finished", journal=journal, seq=seq, job=self.job, attempt=1, ts=NOW, outcome="failed"
        ).encode()

    def request(self, path: str = f"task-instances/{SUBJECT}0/state") -> bytes:
        return Request(
            id=uuid.uuid4().hex, journal=self.stolen.journal, job=self.job, attempt=1, method="PATCH", path=path,
            body='{"state": "failed"}',
        ).encode()  # fmt: skip


@pytest.fixture(scope="module")
def world(site: Site, victim: FakeWorker, stolen: FakeWorker) -> Iterator[World]:
    site.start_bridge()
    wait_for(lambda: victim.acks.qsize() and stolen.acks.qsize(), what="both workers are known", timeout=60)
    yield World(site, victim, stolen)
    assert "Traceback" not in site.log_text(0)


@pytest.fixture
def thief(broker) -> Iterator[Callable[..., Peer]]:
    """Connects with the stolen account, under a client id of its own."""
    peers = []

    def connect(**options: Any) -> Peer:
        peer = Peer(broker.url("edge-2"), f"thief-{uuid.uuid4().hex[:8]}", **options)
        peers.append(peer.__enter__())
        return peer

    yield connect
    for peer in peers:
        peer.__exit__()


#: (what, topic, payload): nobody may get it.
WRITES: dict[str, tuple[str, Callable[[World], bytes]]] = {
    "another's status": (f"{V1}/worker/edge-1/status", lambda w: w.status),
    "another's info": (f"{V1}/worker/edge-1/info", lambda w: w.info),
    "another's birth": (f"{V1}/worker/edge-1/events", lambda w: w.born),
    "another's event": (f"{V1}/worker/edge-1/events", lambda w: w.event(w.victim.journal, w.victim.seq + 1)),
    "another's log": (f"{V1}/worker/edge-1/logs/{{job}}", lambda _: LogChunk.of(1, 9, b"forged\n").encode()),
    "another's call": (f"{V1}/worker/edge-1/request", lambda w: w.request()),
    "a probe of another": (f"{V1}/worker/edge-1/probe", lambda _: b'{"instance": "x"}'),
    "an order to another": (
        f"{V1}/queue/default/jobs/edge-1",
        lambda w: Cancel(job=w.job, attempt=1, reason="forged").encode(),
    ),
    "an order to itself": (
        f"{V1}/queue/other/jobs/edge-2",
        lambda _: Run(job="x", attempt=1, kind="airflow", slots=1, workload={}).encode(),
    ),
    "an acknowledgement of another": (
        f"{V1}/worker/edge-1/ack",
        lambda w: Ack(journal=w.victim.journal, seq=2**50, epoch=9, past=True).encode(),
    ),
    "an answer to another": (
        f"{V1}/worker/edge-1/response",
        lambda w: Response(id="x", journal=w.victim.journal, status=200).encode(),
    ),
    "a wish for another": (f"{V1}/worker/edge-1/desired", lambda _: Desired(revision=9, shutdown=True).encode()),
    "the bridge's status": (
        f"{V1}/bridge/status",
        lambda _: BridgeStatus(state="leading", instance="forged", epoch=99, ts=NOW).encode(),
    ),
    "the bridge's end": (
        f"{V1}/bridge/status",
        lambda _: BridgeStatus(state="offline", instance="forged", epoch=99, ts=NOW).encode(),
    ),
    "an echo": (f"{V1}/bridge/echo/forged", lambda _: b"{}"),
    "a queue's status": (
        f"{V1}/queue/default/status",
        lambda _: QueueStatus(
            queued=0, running=0, oldest_age=0, workers_online=0, free_slots=0, note="forged", ts=NOW
        ).encode(),
    ),
    "a job's status": (f"{V1}/job/{{job}}/status", lambda _: b'{"forged": 1}'),
    "a worker that is not there": (f"{V1}/worker/ghost/events", lambda w: w.born),
    "the bridge as a worker": (f"{V1}/worker/bridge/events", lambda w: w.born),
    "a name in other letters": (f"{V1}/worker/EDGE-1/events", lambda w: w.born),
    "a level more": (f"{V1}/worker/edge-1/logs/{{job}}/more", lambda _: b"forged"),
    "a level in between": (f"{V1}/worker/edge-2/../edge-1/events", lambda w: w.born),
    "another version": ("airflow/v2/worker/edge-1/events", lambda w: w.born),
    "another root": ("/airflow/v1/worker/edge-1/events", lambda w: w.born),
}


@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
@pytest.mark.parametrize("what", WRITES)
def test_nothing_arrives_that_is_said_in_anothers_name(world: World, broker, thief, what: str, retain: bool) -> None:
    topic, payload = WRITES[what]
    topic, content = topic.format(job=world.job), payload(world)
    with Peer(broker.url("bridge"), f"watch-{uuid.uuid4().hex[:8]}") as watch:
        watch.subscribe("#", "/#")
        thief().publish(topic, content, retain=retain)
        world.fence()
        watch.wait(f"{V1}/worker/edge-2/ack")
        assert (topic, content) not in [(name, said) for name, said, _ in watch.received]
    assert world.image() == world.settled


@pytest.mark.parametrize("topic", [f"{V1}/worker/edge-1/status", f"{V1}/bridge/status", f"{V1}/worker/edge-1/events"])
def test_no_will_is_published_in_anothers_name(world: World, broker, thief, topic: str) -> None:
    content = world.status if topic.endswith("1/status") else world.born
    with Peer(broker.url("bridge"), f"watch-{uuid.uuid4().hex[:8]}") as watch:
        watch.subscribe("#")
        evil = thief(will=(topic, content))
        if not evil.refused:
            evil.vanish()
        good = thief(will=(f"{V1}/worker/edge-2/info", world.info))
        good.vanish()
        watch.wait(f"{V1}/worker/edge-2/info", world.info)
        assert (topic, content) not in [(name, said) for name, said, _ in watch.received]
    world.fence()
    assert world.image() == world.settled


#: What it says in its own name, of what is another's: it arrives, and does nothing.
CLAIMS: dict[str, tuple[str, Callable[[World], bytes]]] = {
    "a log of another's job": (f"{V1}/worker/edge-2/logs/{{job}}", lambda _: LogChunk.of(1, 9, b"forged\n").encode()),
    "a call for another's job": (f"{V1}/worker/edge-2/request", lambda w: w.request()),
    "a start of another's job": (
        f"{V1}/worker/edge-2/request",
        lambda w: w.request(f"task-instances/{SUBJECT}0/run"),
    ),
    "another's journal": (f"{V1}/worker/edge-2/events", lambda w: w.event(w.victim.journal, w.victim.seq + 1)),
    "another's instance": (f"{V1}/worker/edge-2/status", lambda w: w.status),
    "an event of another's job": (f"{V1}/worker/edge-2/events", lambda w: w.event(w.stolen.journal, w.stolen.seq + 1)),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_what_is_said_of_anothers_job_changes_nothing(world: World, thief, what: str) -> None:
    topic, payload = CLAIMS[what]
    calls = len(world.site.api.seen)
    thief().publish(topic.format(job=world.job), payload(world))
    if what == "an event of another's job":
        world.stolen.seq += 1
    world.fence()
    assert world.image() == world.settled
    mine = [call for call in world.site.api.seen[calls:] if call.method == "PATCH"]
    assert not mine, "a call that reached Airflow"


def test_a_birth_that_claims_anothers_job_changes_nothing(world: World, broker) -> None:
    world.stolen.held[world.job, 1] = "running"
    world.stolen.introduce()
    while world.stolen.order(Cancel).job != world.job:
        pass  # that is of a fence: it is told to let go of each job that is not its own
    world.stolen.held.clear()
    world.fence()
    assert world.image() == world.settled


FILTERS = [
    f"{V1}/worker/edge-1/{kind}" for kind in ("ack", "desired", "response", "status", "events", "request", "info")
] + [
    f"{V1}/worker/edge-1/logs/+", f"{V1}/queue/default/jobs/edge-1", f"{V1}/queue/+/jobs/+", f"{V1}/worker/+/response",
    f"{V1}/job/+/status", f"{V1}/queue/+/status", f"{V1}/bridge/echo/+", f"{V1}/#", "#", "+/+/worker/+/+",
    f"$share/group/{V1}/queue/default/jobs/edge-1", "$SYS/#",
]  # fmt: skip


def test_nothing_is_read_that_is_anothers(world: World, thief) -> None:
    """One reader for each filter, while the victim is spoken to on all of its topics."""
    readers = {}
    for name in FILTERS:
        readers[name] = thief()
        readers[name].client.subscribe(name, 1)  # a broker may end the connection for it
        if not readers[name].disconnects:
            readers[name].subscribe(f"{V1}/worker/edge-2/ack")
    job = world.site.queue()
    run = world.victim.order()
    world.site.api.answer("GET", "secret", 200, {"value": "of the victim"})
    world.victim.event("accepted", run)
    body = {"hostname": "pi", "unixname": "u", "pid": 7}
    number = len(world.site.jobs()) - 1
    assert world.victim.call(run, "PATCH", f"task-instances/{SUBJECT}{number}/run", body).status == 200
    assert world.victim.call(run, "GET", "connections/secret").status == 200
    world.victim.log(run, 0, b"of the victim\n")
    world.victim.event("finished", run, outcome="failed")
    world.site.wait_state(job, "failed")
    wait_for(lambda: world.victim.acked == world.victim.seq, what="the acknowledgement", timeout=60)
    world.fence()
    own = (f"{V1}/worker/edge-2/", f"{V1}/queue/other/jobs/edge-2", f"{V1}/bridge/status")
    deadline = time.monotonic() + 60
    for name, reader in readers.items():
        while not reader.disconnects and f"{V1}/worker/edge-2/ack" not in reader.topics():
            assert time.monotonic() < deadline, name
            time.sleep(0.01)
        assert [topic for topic in reader.topics() if not topic.startswith(own)] == [], name
    world.settled = world.image()


def test_the_victim_goes_on_to_the_end(world: World) -> None:
    path = f"task-instances/{SUBJECT}0/state"
    assert world.victim.call(world.run, "PATCH", path, {"state": "success"}).status == 204
    world.victim.event("finished", world.run, outcome="succeeded", exit_code=0)
    world.site.wait_state(world.job, "succeeded")
    assert world.site.log_of(world.job) == b"one line\n"
