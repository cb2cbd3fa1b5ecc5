"""Home Assistant and Telegraf read our topics: clients that do as these do, with a real bridge and a real Mosquitto."""

import json
import re
import textwrap
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest
from sqlalchemy.orm import Session

import servers
from airflow_mqtt.bridge.upkeep.home_assistant import ENTITIES, HEALTH
from airflow_mqtt.config.broker_url import parse_broker_url
from airflow_mqtt.database import operations
from airflow_mqtt.protocol.messages import BridgeStatus, QueueStatus, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind, Topics
from bridge_bench import Site
from mqtt_peer import Peer
from servers import wait_for

ROOT = Path(__file__).parents[2]
TOPICS = Topics()
DEVICE = "homeassistant/device/airflow_edge-1/config"
HEALTHY = {
    "cpu": 12.5, "load": 0, "memory_used": 1, "memory_total": 2, "disk_free": 3, "disk_total": 4, "temperature": -4.5,
    "battery": 80, "uptime": 99.0, "link_in": 5, "link_out": 6, "journal": 7,
}  # fmt: skip


@pytest.fixture
def broker(tmp_path) -> Iterator[servers.Mosquitto]:
    """One with the account for Home Assistant that the how-to gives."""
    page = (ROOT / "docs/how-to/feed-dashboards.md").read_text()
    (rights,) = re.findall(r"```\n( *user homeassistant\n.*?)```", page, re.DOTALL)
    made = servers.Mosquitto(tmp_path / "broker", accounts=["edge-1", "homeassistant"])
    with (made.directory / "acl").open("a") as acl:
        acl.write("\n" + textwrap.dedent(rights))
    with servers.running(made):
        yield made


# --- Home Assistant ---------------------------------------------------------------------------------------


class HomeAssistant:
    """Makes entities of discovery messages, and their states of the topics that these name, as its MQTT integration.

    Rules that are its own: names in topics and identities (`[a-zA-Z0-9_-]`), what a message for a device must have, a
    state that a template renders to nothing stays as it was, an entity that is not available has none.
    """

    def __init__(self, url: str) -> None:
        self.peer = Peer(url)
        self.templates = jinja2.sandbox.ImmutableSandboxedEnvironment()
        self.states: dict[str, str] = {}
        self.entities: dict[str, dict[str, Any]] = {}
        self._done = 0

    def __enter__(self):
        self.peer.__enter__()
        self.peer.subscribe("homeassistant/device/+/config")
        return self

    def __exit__(self, *_):
        self.peer.__exit__()

    def look(self) -> dict[str, str]:
        while self._done < len(self.peer.received):
            topic, payload, _ = self.peer.received[self._done]
            self._done += 1
            if topic.startswith("homeassistant/"):
                self._discover(topic, payload)
            elif payload:
                self._hear(topic, json.loads(payload))
        return self.states

    def _discover(self, topic: str, payload: bytes) -> None:
        _, _, node, _ = topic.split("/")
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", node)
        self.entities = {key: entity for key, entity in self.entities.items() if entity["node"] != node}
        self.states = {key: value for key, value in self.states.items() if key in self.entities}
        if not payload:
            return
        said = json.loads(payload)
        assert said["device"]["identifiers"] and said["device"]["name"] and said["origin"]["name"]
        for key, component in said["components"].items():
            assert re.fullmatch(r"[a-zA-Z0-9_-]+", key)
            assert component["platform"] in ("sensor", "binary_sensor")
            assert isinstance(component["expire_after"], int) and component["expire_after"] > 0
            unique = component["unique_id"]
            assert unique not in self.entities
            entity = {"state_topic": said["state_topic"], "node": node, **component}
            self.entities[unique] = entity
        self.peer.subscribe(said["state_topic"])

    def _hear(self, topic: str, value: Any) -> None:
        for unique, entity in self.entities.items():
            is_watched = entity.get("availability_topic") == topic
            if is_watched and self._render(entity["availability_template"], value) == "offline":
                self.states[unique] = "unavailable"
            elif entity["state_topic"] == topic and (state := self._render(entity["value_template"], value)):
                assert "options" not in entity or state in entity["options"]
                self.states[unique] = state

    def _render(self, template: str, value: Any) -> str:
        return self.templates.from_string(template).render(value_json=value).strip()


@pytest.fixture
def sqlite_site(broker, sqlite_url, tmp_path, api):
    made = Site(sqlite_url, broker, api, tmp_path)
    yield made
    made.close()


def test_home_assistant_has_a_device_of_each_worker_as_long_as_there_is_one(sqlite_site, broker, worker):
    sqlite_site.start_bridge("--home-assistant", "homeassistant")
    with HomeAssistant(broker.url("homeassistant")) as home:

        def shows(**expected: str) -> bool:
            states = home.look()
            return all(states.get(f"airflow_edge-1_{key}") == value for key, value in expected.items())

        wait_for(
            lambda: shows(connectivity="ON", state="idle", running="0", free="2", maintenance="OFF"),
            what="a device",
            timeout=60,
        )
        assert not any(f"airflow_edge-1_{key}" in home.entities for key in HEALTH), "what it does not say is not there"
        worker.status("running", health=HEALTHY)
        wait_for(
            lambda: shows(state="running", cpu="12.5", load="0", temperature="-4.5", battery="80"),
            what="its health",
            timeout=60,
        )
        assert {f"airflow_edge-1_{key}" for key in (*ENTITIES, *HEALTH)} == set(home.entities)
        worker.status("idle", maintenance=True)
        wait_for(lambda: shows(state="idle", maintenance="ON", cpu="12.5"), what="a status without health", timeout=60)
        worker.status("offline", reason="lost")
        wait_for(lambda: shows(connectivity="OFF", state="unavailable", cpu="unavailable"), what="offline", timeout=60)
        assert home.peer.topics().count(DEVICE) <= 4, "not at each status"
        forget(sqlite_site, "edge-1")
        wait_for(lambda: not home.look() and not home.entities, what="the worker to be removed", timeout=60)
    with Peer(broker.url("homeassistant")) as late:
        late.subscribe("homeassistant/#")
        late.publish("homeassistant/device/x/config", b"{}")
        late.wait("homeassistant/device/x/config")
        assert late.topics() == ["homeassistant/device/x/config"], "nothing of it is retained"


def forget(site: Site, name: str) -> None:
    with Session(site.engine) as session:
        operations.remove_worker(session, "", name)
        session.commit()


def test_unless_it_is_set_nothing_is_said_to_home_assistant(sqlite_site, broker, worker):
    sqlite_site.start_bridge()
    with Peer(broker.url("homeassistant")) as peer:
        peer.subscribe("homeassistant/#", f"{TOPICS.base}/+/+/status")
        peer.wait(TOPICS.queue_status("default"), timeout=60)
        assert not [topic for topic in peer.topics() if topic.startswith("homeassistant")]


# --- Telegraf ---------------------------------------------------------------------------------------------

#: What a field of json_v2 may be, and how Python has it.
_TYPES = {"int": int, "float": float, "string": str, "bool": bool}


class Telegraf:
    """Reads `telegraf.conf` as the plugin mqtt_consumer does with data in json_v2: one metric of each message."""

    def __init__(self, broker) -> None:
        url = parse_broker_url(broker.url("monitor"))
        text = (ROOT / "deploy/monitoring/telegraf.conf").read_text().replace("${MQTT_PASSWORD}", url.password)
        self.inputs = tomllib.loads(text)["inputs"]["mqtt_consumer"]
        for one in self.inputs:
            assert (one["username"], one["password"], one["data_format"]) == ("monitor", url.password, "json_v2")
        self.url = broker.url("monitor")

    def metrics(self, count: int) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
        """Return the measurement, tags and fields of the first `count` messages."""
        with Peer(self.url) as peer:
            peer.subscribe(*(topic for one in self.inputs for topic in one["topics"]))
            wait_for(lambda: len(peer.received) >= count, what=f"{count} messages", timeout=60)
            return [self._parse(topic, json.loads(payload)) for topic, payload, _ in peer.received]

    def _parse(self, topic: str, value: Any) -> tuple[str, dict[str, str], dict[str, Any]]:
        (one,) = (one for one in self.inputs if any(_matches(name, topic) for name in one["topics"]))
        tags: dict[str, str] = {}
        for rule in one.get("topic_parsing", []):
            names = rule["tags"].split("/")
            assert len(names) == len(topic.split("/")) == len(rule["topic"].split("/"))
            tags |= {name: level for name, level in zip(names, topic.split("/"), strict=True) if name != "_"}
        (parser,) = one["json_v2"]
        tags |= {tag["path"]: str(_at(value, tag)) for tag in parser.get("tag", [])}
        fields = {}
        for field in parser["field"]:
            found = _at(value, field)
            if found is not None:
                fields[field.get("rename", field["path"])] = _TYPES[field["type"]](found)
        if "timestamp_path" in parser:
            assert isinstance(value[parser["timestamp_path"]], float | int) and parser["timestamp_format"] == "unix"
        return parser["measurement_name"], tags, fields


def _at(value: Any, rule: dict[str, Any]) -> Any:
    """What is at a GJSON path; one that is not optional must be there."""
    for name in rule["path"].split("."):
        if not isinstance(value, dict) or name not in value:
            assert rule.get("optional"), rule
            return None
        value = value[name]
    return value


def _matches(pattern: str, topic: str) -> bool:
    return re.fullmatch(pattern.replace("+", "[^/]+"), topic) is not None


def test_telegraf_makes_metrics_of_every_status(broker):
    now = time.time()
    status = {"connection": 1, "instance": "i", "ts": now, "slots": 2, "free": 1, "running": 1}
    retained = {
        TOPICS.worker("edge-1", TopicKind.STATUS): WorkerStatus(state="running", **status, health=HEALTHY),
        TOPICS.worker("edge-2", TopicKind.STATUS): WorkerStatus(
            state="offline", reason="lost", maintenance=True, **status
        ),
        TOPICS.queue_status("a/b.c"): QueueStatus(
            queued=3, running=1, oldest_age=1.5, workers_online=1, free_slots=0, note="why", ts=now
        ),
        TOPICS.bridge_status: BridgeStatus(state="leading", instance="site-1", epoch=7, ts=now, version="1"),
    }
    with Peer(broker.url("bridge")) as peer:
        for topic, message in retained.items():
            peer.publish(topic, message.encode(), retain=True)
    metrics = {(name, *tags.values()): fields for name, tags, fields in Telegraf(broker).metrics(len(retained))}
    busy = metrics["airflow_mqtt_worker", "edge-1"]
    assert busy == {"state": "running", "slots": 2, "free": 1, "running": 1, "ts": now, **HEALTHY}
    gone = metrics["airflow_mqtt_worker", "edge-2"]
    assert (gone["state"], gone["reason"], gone["maintenance"]) == ("offline", "lost", True)
    assert metrics["airflow_mqtt_queue", "a%2Fb%2Ec"] == {
        "queued": 3, "running": 1, "oldest_age": 1.5, "workers_online": 1, "free_slots": 0, "note": "why",
    }  # fmt: skip
    assert metrics["airflow_mqtt_bridge", "site-1"] == {"state": "leading", "epoch": 7, "version": "1"}
