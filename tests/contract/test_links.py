"""The real links of bridge and worker over every broker that is here: what the protocol needs of a broker, and gets.

A broker grants much that it does not do, so each test waits for what must arrive.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

import link_ends  # first: see there
import servers
from airflow_mqtt.bridge.mqtt import link as bridge_link
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.protocol.messages import WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind
from link_ends import PATIENCE, TOPICS, BridgeEnd, LivingWorker, WorkerEnd
from proxy import Proxy
from servers import wait_for

#: Devices that the brokers know. Each test takes a new one: what a broker retained of another test is not its own.
NAMES = [f"edge-{number}" for number in range(60)]

#: The defaults of `max_message_bytes` of the worker and of the bridge.
LARGE_UP, LARGE_DOWN = 1_044_480, 1_048_576


@dataclass
class Site:
    """A broker, as bridge and worker find it: through different nodes where it is a cluster."""

    nodes: list[servers.Broker]
    version: str
    expected: str
    names: Iterator[str]
    stack: ExitStack

    def bridge(self, **options: Any) -> BridgeEnd:
        return self.stack.enter_context(self.new_bridge(**options))

    def new_bridge(self, *, port: int | None = None, **options: Any) -> BridgeEnd:
        return BridgeEnd(self.nodes[0].url("bridge", port=port), self.version, **options)

    def worker(self, **options: Any) -> WorkerEnd:
        return self.stack.enter_context(self.new_worker(**options))

    def new_worker(self, name: str = "", kind: Any = WorkerEnd, port: int | None = None, **options: Any) -> Any:
        name = name or next(self.names)
        return kind(self.nodes[-1].url(name, port=port), name, self.version, **options)


class Brokers:
    """Starts each kind of broker once, when it is asked for first."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._made: dict[str, tuple[list[servers.Broker], Iterator[str]]] = {}

    def get(self, kind: str) -> tuple[list[servers.Broker], Iterator[str]]:
        if kind not in self._made:
            start = {"mosquitto": servers.mosquitto, "nats": servers.nats, "cluster": servers.nats_cluster}[kind]
            made = self._stack.enter_context(start(accounts=NAMES))  # type: ignore[operator]
            nodes = made if isinstance(made, list) else [made]
            self._made[kind] = (nodes, iter(NAMES))
        return self._made[kind]


@pytest.fixture(scope="module")
def brokers() -> Iterator[Brokers]:
    with ExitStack() as stack:
        yield Brokers(stack)


pytestmark = pytest.mark.timeout(900)

VARIANTS = ["mosquitto-5", "mosquitto-3.1.1", "nats-3.1.1", "cluster-3.1.1"]
AUTO = [("mosquitto-auto", True), ("nats-auto", False), ("cluster-auto", False)]


def make_site(brokers: Brokers, variant: str, stack: ExitStack) -> Site:
    kind, _, version = variant.partition("-")
    nodes, names = brokers.get(kind)
    return Site(nodes, version, version, names, stack)


@pytest.fixture(params=VARIANTS)
def site(request: pytest.FixtureRequest, brokers: Brokers) -> Iterator[Site]:
    with ExitStack() as stack:
        yield make_site(brokers, request.param, stack)


def order(worker: WorkerEnd, payload: bytes, queue: str = "default") -> Outgoing:
    return Outgoing(TOPICS.jobs(queue, worker.name), payload, expiry=60)


# --- connections --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "v5"), AUTO)
def test_auto_finds_the_version(brokers: Brokers, variant: str, v5: bool) -> None:
    with ExitStack() as stack:
        site = make_site(brokers, variant, stack)
        bridge, worker = site.bridge(), site.worker()
        assert (bridge.v5, worker.link.v5) == (v5, v5)
        bridge.publish(order(worker, b"work"))
        worker.wait(TOPICS.jobs("default", worker.name), b"work")


def test_retained_messages_reach_who_comes_later(site: Site) -> None:
    """The bridge's filters have wildcards: RabbitMQ fails here."""
    early = site.worker()
    topics = [early.topic(TopicKind.INFO), early.topic(TopicKind.STATUS)]
    for topic in topics:
        early.publish(topic, topic.encode(), retain=True)
    wait_for(lambda: not early.link.under_way, what="the PUBACKs")  # over MQTT 5 its own status does not come back
    bridge = site.bridge()
    for topic in topics:
        assert bridge.wait(topic, topic.encode())[2]
    early.publish(topics[-1], b"{}", retain=True)
    assert not bridge.wait(topics[-1], b"{}")[2]  # what is new is not marked as retained
    desired = Outgoing(early.topic(TopicKind.DESIRED), b'{"revision":1}', retain=True)
    bridge.publish(desired)
    early.wait(desired.topic, desired.payload)
    with site.new_worker(early.name) as again:
        assert again.wait(desired.topic, desired.payload)[2]
        assert again.wait(TOPICS.bridge_status)[2]


def test_the_will_of_a_worker_that_vanishes(site: Site) -> None:
    bridge = site.bridge()
    worker = site.new_worker(keepalive=4)
    worker.start().wait_up()
    worker.publish(worker.topic(TopicKind.STATUS), worker.status("idle"), retain=True)
    bridge.wait(worker.topic(TopicKind.STATUS), worker.status("idle"))
    worker.vanish()
    will = worker.status("offline", "lost")
    assert not bridge.wait(worker.topic(TopicKind.STATUS), will)[2]
    assert site.bridge().wait(worker.topic(TopicKind.STATUS), will)[2]


def test_no_will_of_a_worker_that_says_goodbye(site: Site) -> None:
    bridge = site.bridge()
    topic, farewell = "", b""
    with site.new_worker(keepalive=4) as worker:
        topic, farewell = worker.topic(TopicKind.STATUS), worker.status("offline", "stopped")
        worker.do(lambda: worker.link.say_goodbye(topic, farewell))
        wait_for(lambda: worker.link.goodbye_heard, what="the PUBACK of the farewell")
    bridge.wait(topic, farewell)
    time.sleep(1.5)  # a will would come after its delay of a second
    assert bridge.payloads(topic)[-1] == farewell
    assert site.bridge().wait(topic)[1] == farewell


def test_the_will_of_a_bridge_that_vanishes(site: Site) -> None:
    worker = site.worker()
    with Proxy(site.nodes[0].port) as proxy, site.new_bridge(port=proxy.port, epoch=7) as bridge:
        leading, offline = bridge.status("leading").payload, bridge.status("offline").payload
        worker.wait(TOPICS.bridge_status, leading)
        proxy.cut()
        worker.wait(TOPICS.bridge_status, offline)
        proxy.heal()
        bridge.wait_up(2)
        wait_for(lambda: worker.payloads(TOPICS.bridge_status)[-1] == leading, what="the bridge to lead again")


# --- messages -----------------------------------------------------------------------------------------------


def test_orders_and_events_arrive_in_their_order(site: Site) -> None:
    bridge, worker = site.bridge(), site.worker()
    count = 300
    texts = [b"run %d" % (n // 2) if n % 2 == 0 else b"cancel %d" % (n // 2) for n in range(count)]
    bridge.publish(*(order(worker, text) for text in texts))
    events = worker.topic(TopicKind.EVENTS)
    worker.do(lambda: [worker.link.publish(events, b"%d" % number) for number in range(count)])
    worker.wait(TOPICS.jobs("default", worker.name), texts[-1])
    bridge.wait(events, b"%d" % (count - 1))
    assert once(worker.payloads(TOPICS.jobs("default", worker.name))) == texts
    assert once(bridge.payloads(events)) == [b"%d" % number for number in range(count)]


def once(payloads: list[bytes]) -> list[bytes]:
    """What came, without what came again: QoS 1 may repeat."""
    return list(dict.fromkeys(payloads))


def test_every_topic_of_the_protocol_passes(site: Site) -> None:
    bridge, worker = site.bridge(), site.worker()
    up = [worker.topic(kind) for kind in (TopicKind.EVENTS, TopicKind.REQUEST, TopicKind.INFO, TopicKind.STATUS)]
    up.append(TOPICS.logs(worker.name, "job-1"))
    for topic in up:
        worker.publish(topic, b"up")
        bridge.wait(topic, b"up")
    down = [worker.topic(kind) for kind in (TopicKind.ACK, TopicKind.RESPONSE, TopicKind.DESIRED)]
    for topic in down:
        bridge.publish(Outgoing(topic, b"down"))
        worker.wait(topic, b"down")
    worker.publish(worker.topic(TopicKind.PROBE), b"probe")
    worker.wait(worker.topic(TopicKind.PROBE), b"probe")  # its own: the worker's check that it receives
    bridge.publish(Outgoing(worker.topic(TopicKind.STATUS), b"another's"))
    worker.wait(worker.topic(TopicKind.STATUS), b"another's")
    if site.version == "5":  # its own does not come back, and whatever was to come before has come
        assert worker.payloads(worker.topic(TopicKind.STATUS)) == [b"another's"]


@pytest.mark.parametrize("queue", ["a.b", "north/field", "ödland 東", "+", "#", "$x>*", "per%cent", "~-_", "q" * 200])
def test_queue_names_of_all_kinds(site: Site, queue: str) -> None:
    bridge, worker = site.bridge(), site.worker()
    bridge.publish(order(worker, b"work", queue))
    topic, _, _ = worker.wait(TOPICS.jobs(queue, worker.name), b"work")
    assert TOPICS.parse(topic).queue == queue


def test_messages_as_large_as_the_settings_allow(site: Site) -> None:
    bridge, worker = site.bridge(), site.worker()
    request, response = worker.topic(TopicKind.REQUEST), worker.topic(TopicKind.RESPONSE)
    worker.publish(request, b"u" * LARGE_UP)
    assert len(bridge.wait(request)[1]) == LARGE_UP
    bridge.publish(Outgoing(response, b"d" * LARGE_DOWN))
    assert len(worker.wait(response)[1]) == LARGE_DOWN
    assert (bridge.downs, worker.downs) == (0, 0)


# --- absence and return -------------------------------------------------------------------------------------


def test_an_order_waits_for_a_worker_that_is_away(site: Site) -> None:
    bridge = site.bridge()
    worker = site.new_worker()
    worker.start().wait_up()
    worker.vanish()
    bridge.publish(order(worker, b"run"), order(worker, b"cancel"))
    with site.new_worker(worker.name) as again:
        again.wait(TOPICS.jobs("default", worker.name), b"cancel")
        assert once(again.payloads(TOPICS.jobs("default", worker.name))) == [b"run", b"cancel"]


def test_a_second_connection_takes_over(site: Site) -> None:
    bridge = site.bridge()
    first = site.worker()
    with site.new_worker(first.name) as second:
        wait_for(lambda: first.downs, what="the end of the first connection")
        # MQTT 3.1.1 has no word for it, and Mosquitto 2.0.11 does not use that of MQTT 5: hence the worker's probe.
        first.vanish()
        bridge_sends_until_heard(bridge, second, b"yours")


def bridge_sends_until_heard(bridge: BridgeEnd, worker: WorkerEnd, text: bytes) -> None:
    """A link drops what it cannot send now; the protocol sends again, and so does this."""
    numbers = itertools.count()
    topic = TOPICS.jobs("default", worker.name)

    def heard() -> bool:
        bridge.publish(order(worker, b"%s %d" % (text, next(numbers))))
        return any(payload.startswith(text) for payload in worker.payloads(topic))

    wait_for(heard, what=f"{text!r} at the worker", timeout=PATIENCE, every=0.5)


def worker_sends_until_heard(worker: WorkerEnd, bridge: BridgeEnd, text: bytes) -> None:
    numbers = itertools.count()
    topic = worker.topic(TopicKind.EVENTS)

    def heard() -> bool:
        worker.publish(topic, b"%s %d" % (text, next(numbers)))
        return any(payload.startswith(text) for payload in bridge.payloads(topic))

    wait_for(heard, what=f"{text!r} at the bridge", timeout=PATIENCE, every=0.5)


@pytest.mark.parametrize("loss", ["cut", "drop"])
def test_both_come_back_after_a_lost_link(site: Site, loss: str) -> None:
    with Proxy(site.nodes[0].port) as near, Proxy(site.nodes[-1].port) as far:
        bridge, worker = site.bridge(port=near.port), site.worker(port=far.port)
        for proxy in (near, far):
            getattr(proxy, loss)()
        wait_for(lambda: bridge.downs and worker.downs, what="both links to be down")
        near.heal()
        far.heal()
        bridge.wait_up(2)
        worker.wait_up(2)
        bridge_sends_until_heard(bridge, worker, b"down again")
        worker_sends_until_heard(worker, bridge, b"up again")


def test_a_publication_does_not_outlive_its_connection(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever publishes does not wait for a PUBACK that cannot come any more."""
    worker = site.worker()
    with Proxy(site.nodes[0].port) as proxy:
        bridge = site.bridge(port=proxy.port)
        proxy.stall()
        under_way = link_ends.asyncio.run_coroutine_threadsafe(
            bridge.link.publish([order(worker, b"work")]), bridge._loop
        )
        time.sleep(0.5)
        proxy.cut()
        assert not under_way.result(60)
        assert "1 messages were not published: not acknowledged by the broker: the connection ended" in caplog.text
        proxy.heal()
        bridge.wait_up(2)


# --- connected is not receiving -----------------------------------------------------------------------------


def test_a_deaf_bridge_connects_anew(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_link, "ECHO_INTERVAL", 0.2)
    monkeypatch.setattr(bridge_link, "ECHO_TIMEOUT", 5.0)
    bridge, worker = site.bridge(), site.worker()
    time.sleep(1)
    assert bridge.ups == 1  # it hears its echo
    bridge.unsubscribe(*TOPICS.of_bridge(), TOPICS.bridge_echo(bridge.instance))
    bridge.wait_up(2)
    worker_sends_until_heard(worker, bridge, b"do you hear me")


def test_a_deaf_worker_connects_anew(site: Site) -> None:
    bridge = site.bridge()
    with site.new_worker(kind=LivingWorker, heartbeat_interval=2) as worker:
        topic = TOPICS.worker(worker.name, TopicKind.STATUS)
        time.sleep(8)
        assert worker.ups == 1  # it hears what it asks itself
        worker.unsubscribe_all()
        worker.wait_up(2)
        wait_for(lambda: len(connections(bridge.payloads(topic))) >= 2, what="a status of the second connection")
        time.sleep(8)
        assert worker.ups == 2


def connections(statuses: list[bytes]) -> set[int]:
    return {WorkerStatus.decode(status).connection for status in statuses}


# --- brokers that die ---------------------------------------------------------------------------------------


@pytest.fixture(params=["mosquitto-5", "mosquitto-3.1.1", "nats-3.1.1", "nats-auto"])
def own_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A broker that the test may break."""
    with ExitStack() as stack:
        yield make_site(Brokers(stack), request.param, stack)


def test_a_broker_that_was_killed_and_forgot_everything(own_site: Site) -> None:
    bridge, worker = own_site.bridge(), own_site.worker()
    broker = own_site.nodes[0]
    broker.kill()
    wait_for(lambda: bridge.downs and worker.downs, what="both links to be down")
    if isinstance(broker, servers.Mosquitto):
        broker.forget()
    broker.start()
    bridge.wait_up(2)
    worker.wait_up(2)
    bridge_sends_until_heard(bridge, worker, b"down again")
    worker_sends_until_heard(worker, bridge, b"up again")
    assert worker.wait(TOPICS.bridge_status, bridge.status("leading").payload)


def test_auto_is_not_misled_by_a_broker_that_is_down(tmp_path) -> None:
    with servers.mosquitto(tmp_path, accounts=NAMES[:1]) as broker, ExitStack() as stack:
        broker.stop()
        bridge = BridgeEnd(broker.url("bridge"), "auto")
        worker = WorkerEnd(broker.url(NAMES[0]), NAMES[0], "auto")
        stack.push(bridge.__exit__)
        stack.push(worker.__exit__)
        bridge.start()
        worker.start()
        wait_for(lambda: bridge.downs > 2 and worker.downs > 2, what="some attempts")
        broker.start()
        bridge.wait_up()
        worker.wait_up()
        assert (bridge.v5, worker.link.v5) == (True, True)


def test_a_connection_that_ends_before_its_answer_is_noticed_at_once() -> None:
    """A broker that is down behind a proxy. It spoke MQTT 5 before, and is not taken for one that does not."""
    with (
        servers.mosquitto(accounts=NAMES[:1]) as broker,
        Proxy(broker.port) as proxy,
        BridgeEnd(broker.url("bridge", port=proxy.port), "auto") as bridge,
    ):
        broker.stop()
        wait_for(lambda: bridge.downs >= 4, what="several attempts")
        broker.start()
        bridge.wait_up(2)
        assert bridge.v5


def test_a_broker_with_mqtt_5_gives_way_to_one_without() -> None:
    """`auto` stays with what worked only as long as that works."""
    with servers.mosquitto(accounts=["edge-1"]) as old, servers.nats(accounts=["edge-1"]) as new, ExitStack() as stack:
        new_bridge, new_worker = (new.passwords[name] for name in ("bridge", "edge-1"))
        old.add_account("bridge", new_bridge)
        old.add_account("edge-1", new_worker)
        old.stop()
        old.start()
        address = stack.enter_context(Proxy(old.port))
        bridge = stack.enter_context(BridgeEnd(old.url("bridge", port=address.port), "auto"))
        worker = stack.enter_context(WorkerEnd(old.url("edge-1", port=address.port), "edge-1", "auto"))
        assert (bridge.v5, worker.link.v5) == (True, True)
        address.target = ("127.0.0.1", new.port)
        address.drop()
        bridge.wait_up(2)
        worker.wait_up(2)
        assert (bridge.v5, worker.link.v5) == (False, False)
        bridge_sends_until_heard(bridge, worker, b"here too")


def test_a_bridge_that_is_denied_a_topic_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """NATS refuses the SUBSCRIBE of what an account may not read. Mosquitto grants it; the echo shows what is amiss."""
    with servers.nats(accounts=["edge-1"]) as broker:
        bridge = BridgeEnd(broker.url("edge-1"), "3.1.1")
        bridge.start()
        try:
            wait_for(lambda: "denies airflow/v1/worker/+/status" in caplog.text, what="a line in the log")
        finally:
            bridge.__exit__()
        assert bridge.ups == 0


def is_retained(node: servers.Nats, topic: str) -> bool:
    with BridgeEnd(node.url("bridge"), "3.1.1") as late:
        try:
            return late.wait(topic, timeout=10)[2]
        except TimeoutError:
            return False


@pytest.fixture
def cluster() -> Iterator[list[servers.Nats]]:
    with servers.nats_cluster(accounts=NAMES[:1]) as nodes:
        yield nodes


@pytest.mark.parametrize("victim", ["of nobody", "of the worker", "of the bridge"])
def test_a_node_of_a_cluster_is_killed(cluster: list[servers.Nats], victim: str) -> None:
    """Whose node it was comes back through another one: an address that leads to any node, as a cluster has."""
    one, two, three = cluster
    with ExitStack() as stack:
        near, far = (stack.enter_context(Proxy(node.port)) for node in (one, two))
        bridge = stack.enter_context(BridgeEnd(one.url("bridge", port=near.port), "auto"))
        worker = stack.enter_context(WorkerEnd(two.url(NAMES[0], port=far.port), NAMES[0], "auto"))
        bridge_sends_until_heard(bridge, worker, b"before")
        worker_sends_until_heard(worker, bridge, b"before")
        node, proxy = {"of nobody": (three, None), "of the worker": (two, far), "of the bridge": (one, near)}[victim]
        status = worker.topic(TopicKind.STATUS)
        worker.publish(status, worker.status("idle"), retain=True)
        bridge.wait(status)
        other = one if node is three else three
        # NATS stores what is retained after its PUBACK: with its leader it would be lost, until the next heartbeat.
        wait_for(lambda: is_retained(other, status), what="the status to be stored", timeout=PATIENCE)
        node.kill()
        if proxy is not None:
            proxy.target = ("127.0.0.1", three.port)
            end: BridgeEnd | WorkerEnd = worker if proxy is far else bridge
            wait_for(lambda: end.downs, what="the end of the connection")
            end.wait_up(2)
        bridge_sends_until_heard(bridge, worker, b"after")
        worker_sends_until_heard(worker, bridge, b"after")
        wait_for(lambda: is_retained(other, status), what="what was retained, still", timeout=PATIENCE)
        node.start()
        with BridgeEnd(node.url("bridge"), "auto") as back:
            worker_sends_until_heard(worker, back, b"through the node that came back")
