"""What the link has received and nobody has looked at yet."""

from collections import Counter

import aiomqtt
import pytest

from airflow_mqtt.bridge.mqtt import link
from airflow_mqtt.bridge.mqtt.link import Incoming


def message(size):
    return aiomqtt.Message("topic", b"x" * size, 1, retain=False, mid=1, properties=None)


async def test_it_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link, "_QUEUED_IN_BYTES", 100)
    dropped = Counter()
    queue = Incoming(10, dropped)
    for _ in range(5):
        queue.put_nowait(message(40))
    assert (queue.qsize(), dropped.total()) == (2, 3)
    assert len((await queue.get()).payload) == 40
    queue.put_nowait(message(60))
    assert (queue.qsize(), dropped.total()) == (2, 3)
    while queue.qsize():
        queue.get_nowait()
    assert queue._bytes == 0


async def test_it_is_bounded_by_count_without_a_word_for_each():
    dropped = Counter()
    queue = Incoming(10, dropped)
    for _ in range(12):
        queue.put_nowait(message(0))
    assert (queue.qsize(), dropped["not looked at"]) == (10, 2)
