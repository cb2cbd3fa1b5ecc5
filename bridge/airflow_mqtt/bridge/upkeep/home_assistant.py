"""Home Assistant's MQTT discovery: a retained message for each worker makes a device of it there. Pure.

What Home Assistant reads is documented at https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery: the one
message for a device with all its entities is there since 2024.11. The entities show what the worker's own status topic
says, so nothing is published here but when a worker is new, or says something else of what it is.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.config.version import VERSION
from airflow_mqtt.database.records import Worker
from airflow_mqtt.protocol.messages import ReportedState
from airflow_mqtt.protocol.topics import TopicKind, Topics
from airflow_mqtt.protocol.workers import SILENT_AFTER_INTERVALS

#: Devices of which it is told at once: the rest follows, so that ten thousand do not hold up what counts.
_ROUND: Final = 200

#: Characters of what a worker says of itself. Home Assistant shows some hundred.
_LONGEST: Final = 100

_OFFLINE: Final = f"value_json.state == '{ReportedState.OFFLINE.value}'"
_MEASURED: Final = {"state_class": "measurement"}
_BYTES: Final = {"device_class": "data_size", "unit_of_measurement": "B"}
_PERCENT: Final = {"unit_of_measurement": "%", **_MEASURED}


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity of a device, and what it shows of a status."""

    name: str
    template: str
    options: Mapping[str, Any] = field(default_factory=dict)
    platform: str = "sensor"


#: Of each worker. That of connectivity is there when the worker is not.
ENTITIES: Final[Mapping[str, Entity]] = {
    "connectivity": Entity(
        "Connectivity",
        f"{{{{ 'OFF' if {_OFFLINE} else 'ON' }}}}",
        {"device_class": "connectivity"},
        "binary_sensor",
    ),
    "state": Entity(
        "State",
        "{{ value_json.state }}",
        {"device_class": "enum", "options": [state.value for state in ReportedState]},
    ),
    "running": Entity("Jobs", "{{ value_json.running }}", _MEASURED),
    "free": Entity("Free slots", "{{ value_json.free }}", _MEASURED),
    "slots": Entity("Slots", "{{ value_json.slots }}", {"entity_category": "diagnostic"}),
    "maintenance": Entity(
        "Maintenance", "{{ 'ON' if value_json.maintenance | default(false) else 'OFF' }}", platform="binary_sensor"
    ),
}

#: Of a worker whose status has them: the keys of its health.
HEALTH: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "cpu": ("CPU", _PERCENT),
    "load": ("Load", _MEASURED),
    "memory_used": ("Memory used", {**_BYTES, **_MEASURED}),
    "memory_total": ("Memory", {**_BYTES, "entity_category": "diagnostic"}),
    "disk_free": ("Disk free", {**_BYTES, **_MEASURED}),
    "disk_total": ("Disk", {**_BYTES, "entity_category": "diagnostic"}),
    "temperature": ("Temperature", {"device_class": "temperature", "unit_of_measurement": "°C", **_MEASURED}),
    "battery": ("Battery", {"device_class": "battery", **_PERCENT}),
    "uptime": ("Uptime", {"device_class": "duration", "unit_of_measurement": "s", "entity_category": "diagnostic"}),
    "link_in": ("Link in", {**_BYTES, "state_class": "total_increasing"}),
    "link_out": ("Link out", {**_BYTES, "state_class": "total_increasing"}),
    "journal": ("Journal", {**_BYTES, "entity_category": "diagnostic"}),
}


@dataclass(frozen=True, slots=True)
class Announcement:
    """A message of one worker. `mark` is what it was made from; None: the worker is gone."""

    worker: str
    mark: object
    message: Outgoing


class Announcer:
    """Knows what was said of which worker, by this leader."""

    def __init__(self, prefix: str, topics: Topics) -> None:
        self._prefix = prefix
        self._topics = topics
        self._said: dict[str, object] = {}

    def connect(self) -> None:
        """There is a new connection, and perhaps a broker that has nothing retained: all of it is said anew."""
        self._said = dict.fromkeys(self._said)

    def due(self, workers: Mapping[str, Worker]) -> list[Announcement]:
        """Return what is to be said of `workers` now, a part of it if that is much."""
        due = [Announcement(name, None, self._message(name, b"")) for name in self._said.keys() - workers.keys()]
        for name, worker in workers.items():
            if len(due) >= _ROUND:
                break
            mark = _mark(worker)
            if mark is not None and self._said.get(name) != mark:
                due.append(Announcement(name, mark, self._message(name, self._payload(worker))))
        return due

    def done(self, announcements: Iterable[Announcement]) -> None:
        """Remember what is on its way to the broker."""
        for one in announcements:
            if one.mark is None:
                self._said.pop(one.worker, None)
            else:
                self._said[one.worker] = one.mark

    def _node(self, worker: str) -> str:
        """A name as Home Assistant takes it in a topic and an identity: letters, digits, `_` and `-`."""
        return f"{self._topics.root.replace('/', '-')}_{worker}"

    def _message(self, worker: str, payload: bytes) -> Outgoing:
        return Outgoing(f"{self._prefix}/device/{self._node(worker)}/config", payload, retain=True)

    def _payload(self, worker: Worker) -> bytes:
        status, info = worker.status, worker.info
        assert status is not None
        assert info is not None
        node = self._node(worker.name)
        topic = self._topics.worker(worker.name, TopicKind.STATUS)
        silent = math.ceil(SILENT_AFTER_INTERVALS * max(status.interval, 1.0))
        entities = dict(ENTITIES) | {
            key: Entity(name, _figure(key), options) for key, (name, options) in HEALTH.items() if key in status.health
        }
        return orjson.dumps(
            {
                "device": {
                    "identifiers": [node],
                    "name": worker.name,
                    "manufacturer": "airflow-mqtt",
                    "model": info.platform.get("machine", "")[:_LONGEST] or "worker",
                    "sw_version": info.version[:_LONGEST],
                },
                "origin": {"name": "airflow-mqtt", "sw_version": VERSION},
                "components": {
                    key: _component(f"{node}_{key}", entity, topic, silent) for key, entity in entities.items()
                },
                "state_topic": topic,
                "qos": 1,
            }
        )


def _mark(worker: Worker) -> object:
    """Return what a message is made from; None for a worker of which too little is known."""
    status, info = worker.status, worker.info
    if status is None or info is None:
        return None
    return info.version, info.platform.get("machine", ""), status.interval, frozenset(status.health) & HEALTH.keys()


def _figure(key: str) -> str:
    """A status need not say its health: what renders to nothing leaves the state as it was."""
    return f"{{{{ (value_json.health | default({{}})).{key} | default('') }}}}"


def _component(unique_id: str, entity: Entity, topic: str, silent: int) -> dict[str, Any]:
    component = {
        "platform": entity.platform,
        "unique_id": unique_id,
        "name": entity.name,
        "value_template": entity.template,
        "expire_after": silent,
        **entity.options,
    }
    if entity is ENTITIES["connectivity"]:
        return component
    return component | {
        "availability_topic": topic,
        "availability_template": f"{{{{ 'offline' if {_OFFLINE} else 'online' }}}}",
    }
