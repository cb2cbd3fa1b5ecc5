"""The topics of protocol version 1, built and parsed in one place.

Levels are joined with `/`; `{root}` may itself have several levels. Queue names are percent-encoded into one
level, since Airflow lets them hold anything (MQTT 3.1.1 section 4.7: `/`, `+`, `#` and NUL have a meaning).
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

from airflow_mqtt.protocol import TOPIC_VERSION
from airflow_mqtt.protocol.errors import PayloadError

WORKER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
ROOT = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")

#: MQTT allows 65,535 bytes for a topic; a queue name past this is a mistake.
MAX_QUEUE_LENGTH = 256


class TopicKind(StrEnum):
    """What a topic carries. The value is its last fixed level."""

    JOBS = "jobs"
    QUEUE_STATUS = "queue-status"
    STATUS = "status"
    INFO = "info"
    EVENTS = "events"
    ACK = "ack"
    DESIRED = "desired"
    LOGS = "logs"
    REQUEST = "request"
    RESPONSE = "response"
    PROBE = "probe"
    TELEMETRY = "telemetry"
    JOB_STATUS = "job-status"
    BRIDGE_STATUS = "bridge-status"
    BRIDGE_ECHO = "bridge-echo"


#: What brokers keep for whoever subscribes later. On all other topics, what a broker had retained was put there by
#: somebody who wants to be heard at another time than now.
RETAINED = frozenset(
    {TopicKind.QUEUE_STATUS, TopicKind.STATUS, TopicKind.INFO, TopicKind.DESIRED, TopicKind.BRIDGE_STATUS}
)

_OF_WORKER = {
    kind.value: kind
    for kind in (
        TopicKind.STATUS,
        TopicKind.INFO,
        TopicKind.EVENTS,
        TopicKind.ACK,
        TopicKind.DESIRED,
        TopicKind.REQUEST,
        TopicKind.RESPONSE,
        TopicKind.PROBE,
        TopicKind.TELEMETRY,
    )
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A parsed topic. `worker`, `queue` and `job` are empty where the kind has none."""

    kind: TopicKind
    worker: str = ""
    queue: str = ""
    job: str = ""


@dataclass(frozen=True, slots=True)
class Topics:
    """Builds and parses the topics below one `root`."""

    root: str = "airflow"

    @property
    def base(self) -> str:
        return f"{self.root}/{TOPIC_VERSION}"

    def jobs(self, queue: str, worker: str) -> str:
        return f"{self.base}/queue/{encode_queue(queue)}/jobs/{worker}"

    def jobs_of(self, worker: str) -> str:
        """The filter with which a worker hears of its jobs, whatever their queue."""
        return f"{self.base}/queue/+/jobs/{worker}"

    def queue_status(self, queue: str) -> str:
        return f"{self.base}/queue/{encode_queue(queue)}/status"

    def worker(self, worker: str, kind: TopicKind) -> str:
        """One of a worker's own topics; `worker` may be `+` for the bridge's subscriptions."""
        return f"{self.base}/worker/{worker}/{kind.value}"

    def logs(self, worker: str, job: str) -> str:
        return f"{self.base}/worker/{worker}/logs/{job}"

    def job_status(self, job: str) -> str:
        return f"{self.base}/job/{job}/status"

    @property
    def bridge_status(self) -> str:
        return f"{self.base}/bridge/status"

    def bridge_echo(self, instance: str) -> str:
        """Where a bridge sends itself a message through the broker, to know that it receives."""
        return f"{self.base}/bridge/echo/{instance}"

    def of_bridge(self, *, telemetry: bool = False) -> dict[str, TopicKind]:
        """The filters that a leading bridge subscribes to, besides its own echo, with what comes of each.

        `telemetry`: it has somewhere to pass that on to.
        """
        kinds = [TopicKind.STATUS, TopicKind.INFO, TopicKind.EVENTS, TopicKind.REQUEST]
        kinds += [TopicKind.TELEMETRY] if telemetry else []
        filters = {self.worker("+", kind): kind for kind in kinds}
        return filters | {self.logs("+", "+"): TopicKind.LOGS, self.bridge_status: TopicKind.BRIDGE_STATUS}

    def of_monitor(self) -> list[str]:
        """The filters of who only looks: the status of workers, queues and jobs, and that of the bridge."""
        return [f"{self.base}/+/+/{TopicKind.STATUS.value}", self.bridge_status]

    def of_worker(self, worker: str) -> list[str]:
        """The filters that a worker subscribes to: its jobs, what the bridge tells it, and its own status."""
        kinds = (TopicKind.ACK, TopicKind.DESIRED, TopicKind.RESPONSE, TopicKind.STATUS, TopicKind.PROBE)
        return [self.jobs_of(worker), *(self.worker(worker, kind) for kind in kinds), self.bridge_status]

    def parse(self, topic: str) -> Topic:
        """Return what `topic` names; `PayloadError` when it is none of this protocol's version and root."""
        prefix = self.base + "/"
        if not topic.startswith(prefix):
            raise PayloadError(f"topic {topic[:200]!r} is not below {prefix}")
        match topic[len(prefix) :].split("/"):
            case ["worker", worker, "logs", job] if _named(worker) and JOB_ID.fullmatch(job):
                return Topic(TopicKind.LOGS, worker=worker, job=job)
            case ["worker", worker, level] if _named(worker) and level in _OF_WORKER:
                return Topic(_OF_WORKER[level], worker=worker)
            case ["queue", queue, "jobs", worker] if queue and _named(worker):
                return Topic(TopicKind.JOBS, worker=worker, queue=unquote(queue))
            case ["queue", queue, "status"] if queue:
                return Topic(TopicKind.QUEUE_STATUS, queue=unquote(queue))
            case ["job", job, "status"] if JOB_ID.fullmatch(job):
                return Topic(TopicKind.JOB_STATUS, job=job)
            case ["bridge", "status"]:
                return Topic(TopicKind.BRIDGE_STATUS)
            case ["bridge", "echo", _]:
                return Topic(TopicKind.BRIDGE_ECHO)
        raise PayloadError(f"topic {topic[:200]!r} is not one of {TOPIC_VERSION}")


def encode_queue(queue: str) -> str:
    """Return `queue` as one topic level: everything but letters, digits, `_`, `-` and `~` percent-encoded.

    The dot is encoded too, since brokers that map topics to dotted subjects (NATS, RabbitMQ) split there.
    """
    return quote(queue, safe="").replace(".", "%2E")


def _named(worker: str) -> bool:
    return WORKER_NAME.fullmatch(worker) is not None
