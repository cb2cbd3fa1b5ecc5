"""Which discovery messages are due. What is in them: `tests/integration/test_status_readers.py`."""

import json
from dataclasses import replace

import pytest

from airflow_mqtt.bridge.upkeep import home_assistant
from airflow_mqtt.bridge.upkeep.home_assistant import Announcer
from airflow_mqtt.protocol.topics import Topics
from bridge_samples import info, status, worker

TOPIC = "homeassistant/device/site-a_edge-1/config"


@pytest.fixture
def announcer() -> Announcer:
    return Announcer("homeassistant", Topics("site/a"))


def say(announcer: Announcer, *workers) -> list[str]:
    due = announcer.due({one.name: one for one in workers})
    announcer.done(due)
    return [f"{'-' * (not one.message.payload)}{one.worker}" for one in due]


def test_a_worker_is_told_once_and_again_when_it_is_another(announcer):
    one = worker()
    assert say(announcer, one) == ["edge-1"]
    assert say(announcer, one) == []
    assert say(announcer, replace(one, seen_at=5.0, status=status(running=1, free=0))) == []
    changed = replace(one, info=info(version="2"))
    assert say(announcer, changed) == ["edge-1"]
    assert say(announcer, replace(changed, status=status(health={"cpu": 1.0}))) == ["edge-1"]
    assert say(announcer, replace(changed, status=status(health={"cpu": 2.0, "extra": {"x": 1}}))) == []


def test_a_worker_that_is_gone_is_cleared_once(announcer):
    say(announcer, worker())
    assert say(announcer) == ["-edge-1"]
    assert say(announcer) == []


def test_what_did_not_reach_the_broker_is_due_again(announcer):
    assert announcer.due({"edge-1": worker()})
    assert say(announcer, worker()) == ["edge-1"]
    announcer.connect()
    assert say(announcer, worker()) == ["edge-1"]
    announcer.connect()
    assert say(announcer) == ["-edge-1"]


def test_of_a_worker_that_has_not_said_what_it_is_nothing_is_told(announcer):
    assert say(announcer, worker(status=None)) == say(announcer, worker(info=None)) == []


def test_a_large_fleet_is_told_in_rounds(announcer, monkeypatch):
    monkeypatch.setattr(home_assistant, "_ROUND", 4)
    fleet = [worker(name=f"w{number}") for number in range(10)]
    assert [len(say(announcer, *fleet)) for _ in range(4)] == [4, 4, 2, 0]


def test_a_message_is_retained_and_bounded_whatever_a_device_says(announcer):
    hostile = worker(
        info=info(version="\x1b" * 4096, platform={"machine": "<b>" * 80}),
        status=status(interval=0, health=dict.fromkeys(home_assistant.HEALTH, 1)),
    )
    (one,) = announcer.due({"edge-1": hostile})
    assert (one.message.topic, one.message.retain) == (TOPIC, True)
    assert len(one.message.payload) < 10_000
    said = json.loads(one.message.payload)
    assert said["state_topic"] == "site/a/v1/worker/edge-1/status"
    assert all(component["expire_after"] == 3 for component in said["components"].values())
    assert len({component["unique_id"] for component in said["components"].values()}) == len(said["components"])
