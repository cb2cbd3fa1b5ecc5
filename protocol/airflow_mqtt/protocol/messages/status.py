"""What workers and the bridge say to anyone: how they and their jobs are. None of it decides where a job is."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from airflow_mqtt.protocol import PROTOCOL_VERSION
from airflow_mqtt.protocol.messages import checks
from airflow_mqtt.protocol.messages.checks import Maybe
from airflow_mqtt.protocol.messages.health import is_health
from airflow_mqtt.protocol.messages.message import Message, must_be


class ReportedState(StrEnum):
    """The `state` of a worker's status."""

    STARTING = "starting"
    IDLE = "idle"
    RUNNING = "running"
    TERMINATING = "terminating"
    OFFLINE = "offline"


class OfflineReason(StrEnum):
    """Why a status says offline."""

    STOPPED = "stopped"  # a clean stop
    LOST = "lost"  # the will


@dataclass(frozen=True, kw_only=True)
class WorkerStatus(Message):
    """A worker's retained heartbeat, and its will. Flat, so that any dashboard can chart it.

    `own_maintenance`: the device has taken itself out of service, and `reason` says why.
    `health` goes with a heartbeat now and then; a status without it says nothing about it.
    """

    is_public = True

    state: str = must_be(checks.one_of(ReportedState))
    reason: str = must_be(checks.text, default="")
    connection: int = must_be(checks.position)
    instance: str = must_be(checks.job_id)
    ts: float = must_be(checks.time)
    interval: float = must_be(checks.interval, default=30.0)
    slots: int = must_be(checks.slots)
    free: int = must_be(checks.slots)
    running: int = must_be(checks.held_count)
    maintenance: bool = must_be(checks.flag, default=False)
    own_maintenance: bool = must_be(checks.flag, default=False)
    revision: int = must_be(checks.ordinal, default=0)
    health: dict[str, Any] = must_be(is_health, default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WorkerInfo(Message):
    """What a worker is, said once a connection."""

    is_public = True

    version: str = must_be(checks.text)
    protocol: int = must_be(checks.ordinal, said=True, default=PROTOCOL_VERSION)
    instance: str = must_be(checks.job_id)
    queues: list[str] = must_be(checks.texts)
    kinds: list[str] = must_be(checks.texts)
    slots: int = must_be(checks.slots)
    labels: dict[str, str] = must_be(checks.text_map, default_factory=dict)
    platform: dict[str, str] = must_be(checks.text_map, default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Probe(Message):
    """Is a worker of this name alive? A living one answers by publishing its status. See `Identity` in the docs."""

    instance: str = must_be(checks.job_id)


@dataclass(frozen=True, kw_only=True)
class JobStatus(Message):
    """Where a job is; published at each transition, not retained."""

    is_public = True

    state: str = must_be(checks.text)
    attempt: int = must_be(checks.ordinal)
    worker: str | None = must_be(Maybe(checks.worker_name), default=None)
    queue: str = must_be(checks.text)
    reason: str = must_be(checks.text, default="")
    dag_id: str = must_be(checks.text, default="")
    run_id: str = must_be(checks.text, default="")
    task_id: str = must_be(checks.text, default="")
    map_index: int = must_be(checks.int32, default=-1)
    try_number: int = must_be(checks.ordinal, default=0)
    ts: float = must_be(checks.time)


@dataclass(frozen=True, kw_only=True)
class QueueStatus(Message):
    """The figures of one queue, retained. `oldest_age` is in seconds; `note` says what an operator should know."""

    is_public = True

    queued: int = must_be(checks.count)
    running: int = must_be(checks.count)
    oldest_age: float = must_be(checks.time)
    workers_online: int = must_be(checks.count)
    free_slots: int = must_be(checks.count)
    note: str = must_be(checks.text, default="")
    ts: float = must_be(checks.time)


class BridgeState(StrEnum):
    """The `state` of the bridge's status."""

    LEADING = "leading"
    OFFLINE = "offline"


@dataclass(frozen=True, kw_only=True)
class BridgeStatus(Message):
    """Which bridge leads, retained, and its will. A worker that sees a higher `epoch` introduces itself again."""

    is_public = True

    state: str = must_be(checks.one_of(BridgeState))
    instance: str = must_be(checks.job_id)
    epoch: int = must_be(checks.count)
    ts: float = must_be(checks.time)
    protocol: int = must_be(checks.ordinal, said=True, default=PROTOCOL_VERSION)
    version: str = must_be(checks.text, default="")
    features: list[str] = must_be(checks.texts, default_factory=list)
