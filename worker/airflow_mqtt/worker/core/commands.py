"""What a person on the device asks of the running worker, over its local socket."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import orjson

from airflow_mqtt.worker.core import draining, maintenance, status
from airflow_mqtt.worker.core.effects import Answer
from airflow_mqtt.worker.core.jobs import Job, Phase
from airflow_mqtt.worker.core.state import Stage, State, say


class Act(StrEnum):
    """What may be asked. Each is answered with what the worker is after it."""

    STATUS = "status"
    MAINTENANCE_ON = "maintenance-on"
    MAINTENANCE_OFF = "maintenance-off"
    STOP = "stop"  # as a first SIGTERM


@dataclass(frozen=True, slots=True)
class Command:
    """One of them. `token` stands for the connection on which the answer is waited for."""

    token: int
    id: str
    act: Act
    comment: str = ""


def obey(state: State, command: Command, now: float, link: str) -> None:
    """Do it, and answer. `link` says how the connection to the broker is, in words."""
    match command.act:
        case Act.MAINTENANCE_ON:
            maintenance.set_by_hand(state, command.comment)
        case Act.MAINTENANCE_OFF:
            maintenance.set_by_hand(state, None)
        case Act.STOP if state.stage is Stage.NONE:
            say(state, "info", "somebody on the device asked for a stop")
            draining.signal(state, now)
    body = orjson.dumps(describe(state, now, link)).decode()
    state.out.append(Answer(command.token, command.id, 200, body))


def describe(state: State, now: float, link: str) -> dict[str, Any]:
    """Return what a person on the device wants to know of it."""
    said = asdict(status.of(state, now))
    shown = ("state", "slots", "free", "running", "maintenance", "reason", "instance", "connection", "ts")
    return {
        "name": state.config.name,
        "version": state.config.version,
        **{name: said[name] for name in shown},
        "broker": state.config.broker,
        "connected": state.connected,
        "link": link,
        "refused": state.unwelcome,
        "queues": list(state.queues),
        "wished": state.desired.maintenance,
        "comment": state.desired.comment,
        "reports": len(state.outbox.events),
        "jobs": [_job(job) for job in state.jobs.values()],
        "health": dict(state.health),
    }


def _job(job: Job) -> dict[str, Any]:
    task = job.run.workload.get("ti")
    named = task if isinstance(task, dict) else {}
    return {
        "job": job.id,
        "attempt": job.attempt,
        "state": "to be sent" if job.phase is Phase.ENDED else job.phase.value,
        "queue": job.queue,
        "stored": job.calls.stored,
        **{name: named.get(name) for name in ("dag_id", "run_id", "task_id", "map_index", "try_number")},
    }
