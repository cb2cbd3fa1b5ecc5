"""How long a message takes between a worker's link and a broker."""

import selectors
import statistics
import time

import pytest

import servers
from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.protocol.topics import TopicKind, Topics
from airflow_mqtt.worker.mqtt.link import Link
from airflow_mqtt.worker.settings import SETTINGS, WorkerSettings
from mqtt_peer import Peer
from servers import wait_for

NAME = "edge-1"
REQUEST = Topics().worker(NAME, TopicKind.REQUEST)
RESPONSE = Topics().worker(NAME, TopicKind.RESPONSE)

#: A delayed acknowledgement takes 40 ms (Linux), a hop on this machine about one.
MUCH = 0.02


class Bridge(Peer):
    """Answers each request."""

    def _on_message(self, _client, _data, _message) -> None:
        self.client.publish(RESPONSE, b"{}", qos=1)


class Asking:
    """A link that is driven as the worker's loop does."""

    def __init__(self, url: str) -> None:
        flags = {"broker_url": url, "name": NAME}
        settings = WorkerSettings.of(resolve(SETTINGS, [Source(lambda setting: setting.flag, flags)]))
        self.selector = selectors.DefaultSelector()
        self.link = Link(settings, [RESPONSE], self.selector, lambda: (REQUEST, b"{}"))
        self.link.connect(time.monotonic())
        wait_for(self._is_up, what="the link", every=0)

    def round(self) -> int:
        for key, mask in self.selector.select(0.5):
            key.data(mask)
        self.link.service(time.monotonic())
        self.link.acknowledge()
        return len(self.link.take()[0])

    def _is_up(self) -> bool:
        self.round()
        return self.link.up

    def one(self) -> float:
        """Return after how many seconds an answer came; the broker sends it behind the PUBACK of the request."""
        begin = time.monotonic()
        self.link.publish(REQUEST, b"{}")
        wait_for(self.round, what="the answer", every=0)
        return time.monotonic() - begin


@pytest.mark.parametrize("at_once", ["true", "false"])
def test_no_answer_waits_for_a_delayed_acknowledgement(at_once: str) -> None:
    """Also where the broker gathers small packets."""
    with (
        servers.mosquitto(accounts=[NAME], overrides={"set_tcp_nodelay": at_once}) as broker,
        Bridge(broker.url("bridge")) as bridge,
    ):
        bridge.subscribe(REQUEST)
        asking = Asking(broker.url(NAME))
        times = [asking.one() for _ in range(40)]
        asking.link.drop()
    assert statistics.median(times) < MUCH, times
