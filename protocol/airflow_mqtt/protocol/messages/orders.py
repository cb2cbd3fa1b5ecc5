"""What the bridge says to one worker: jobs and their end, what it has committed, what an operator desires."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import checks
from airflow_mqtt.protocol.messages.calls import Response
from airflow_mqtt.protocol.messages.checks import Maybe
from airflow_mqtt.protocol.messages.message import Message, must_be


class JobKind(StrEnum):
    """What a worker must have to run a job."""

    AIRFLOW = "airflow"  # a workload of Airflow's, run with the Task SDK
    CONNECTION_TEST = "airflow-connection-test"  # a test of a connection, which the Task SDK of Airflow 3.3 has


class OrderType(StrEnum):
    """What a message on a jobs topic asks for."""

    RUN = "run"
    CANCEL = "cancel"


@dataclass(frozen=True, kw_only=True)
class Run(Message):
    """Run this job. `workload` is Airflow's own JSON (`airflow.executors.workloads`) without its token."""

    type: str = must_be(lambda value: value == OrderType.RUN, said=True, default=OrderType.RUN.value)
    job: str = must_be(checks.job_id)
    attempt: int = must_be(checks.ordinal)
    kind: str = must_be(checks.text)
    slots: int = must_be(checks.slots)
    workload: dict[str, Any] = must_be(checks.json_object)
    not_after: float | None = must_be(Maybe(checks.time), default=None)
    log_interval: float = must_be(checks.interval, default=2.0)


@dataclass(frozen=True, kw_only=True)
class Cancel(Message):
    """End this attempt of this job, whatever it does, and confirm."""

    type: str = must_be(lambda value: value == OrderType.CANCEL, said=True, default=OrderType.CANCEL.value)
    job: str = must_be(checks.job_id)
    attempt: int = must_be(checks.ordinal)
    reason: str = must_be(checks.text)


def decode_order(payload: bytes) -> Run | Cancel:
    """Decode a message of a jobs topic."""
    value = codec.decode(payload)
    match value.get("type"):
        case OrderType.RUN:
            return Run.from_object(value)
        case OrderType.CANCEL:
            return Cancel.from_object(value)
    raise PayloadError(f"order of unknown type {str(value.get('type'))[:80]!r}")


def _log_marks(value: Any) -> bool:
    return isinstance(value, dict) and all(checks.job_id(job) and checks.count(end) for job, end in value.items())


@dataclass(frozen=True, kw_only=True)
class Ack(Message):
    """What the bridge has committed: all events of `journal` up to `seq`; per job, log bytes up to an offset.

    `connection` and `birth` are those of the last `Born` that it heard; an older one than the worker's last says
    that this got lost, and the worker introduces itself again. `refused` says why the bridge does not take the worker
    at all, `past` that another journal has replaced this one; the rest means nothing then. `answers` are each a
    `Response`, which leaves out its journal where that is this one.
    """

    journal: str = must_be(checks.job_id)
    seq: int = must_be(checks.position)
    epoch: int = must_be(checks.count)
    connection: int = must_be(checks.position, default=0)
    birth: int = must_be(checks.position, default=0)
    logs: dict[str, int] = must_be(_log_marks, default_factory=dict)
    refused: str = must_be(checks.text, default="")
    past: bool = must_be(checks.flag, default=False)
    answers: list[codec.JsonObject] = must_be(checks.objects, default_factory=list)

    def responses(self) -> tuple[Response, ...]:
        """Return `answers`, decoded; `PayloadError` when one of them is malformed."""
        return tuple(Response.from_object({"journal": self.journal, **item}) for item in self.answers)


@dataclass(frozen=True, kw_only=True)
class Desired(Message):
    """An operator's wishes for one worker, retained. None means: as the worker was started."""

    revision: int = must_be(checks.ordinal)
    maintenance: bool = must_be(checks.flag, default=False)
    shutdown: bool = must_be(checks.flag, default=False)
    slots: int | None = must_be(Maybe(checks.slots), default=None)
    queues: list[str] | None = must_be(Maybe(checks.texts), default=None)
    comment: str = must_be(checks.text, default="")
