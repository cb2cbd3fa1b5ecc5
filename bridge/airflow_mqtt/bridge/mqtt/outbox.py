"""What is published after a commit."""

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from airflow_mqtt.database.records import Job, Worker
from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.clocks import Clock
from airflow_mqtt.protocol.codec import JsonObject
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Ack, Cancel, Desired, Run
from airflow_mqtt.protocol.topics import TopicKind, Topics


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish. `expiry` is in seconds and needs MQTT 5; None: the broker keeps it for ever."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expiry: int | None = None


@dataclass(frozen=True, slots=True)
class Messages:
    """Builds messages for the topics below one root. `order_expiry` is in seconds."""

    topics: Topics
    order_expiry: int

    def run(self, job: Job, workload: str, max_bytes: int, clock: Clock) -> Outgoing:
        """Return the order that gives `job` to its worker, whose `clock` may be another than ours.

        Raises `PayloadError` when no worker would understand it, or it is larger than a message may be: it would be
        offered, and taken back, for ever.
        """
        try:
            message = Run(
                job=job.id,
                attempt=job.attempt,
                kind=job.kind,
                slots=job.slots,
                workload=orjson.loads(workload),
                not_after=_by(clock, job.not_after),
            )
            plain = message.plain()
            Run.from_object(codec.decode(plain))
        except (ValueError, TypeError, PayloadError) as error:
            raise PayloadError(f"its workload cannot be sent: {error}") from None
        payload = codec.pack(plain)
        if len(payload) > max_bytes:  # a larger packet ends the connection to the broker, again and again
            raise PayloadError(
                f"its workload is a message of {len(payload)} bytes; {max_bytes} may be sent (the least of"
                " max_message_bytes of the bridge and of what the broker takes)"
            )
        return self._order(job, payload)

    def cancel(self, job: Job) -> Outgoing:
        return self._order(job, Cancel(job=job.id, attempt=job.attempt, reason=job.reason[:1000]).encode())

    def _order(self, job: Job, payload: bytes) -> Outgoing:
        return Outgoing(self.topics.jobs(job.queue, job.worker or ""), payload, expiry=self.order_expiry)

    def drop(self, worker: str, queue: str, job_id: str, attempt: int, reason: str) -> Outgoing:
        """Tell `worker` to let go of an attempt that is not its own any more."""
        message = Cancel(job=job_id, attempt=attempt, reason=reason)
        return Outgoing(self.topics.jobs(queue, worker), message.encode(), expiry=self.order_expiry)

    def ack(self, worker: Worker, epoch: int, logs: dict[str, int], answers: Iterable[JsonObject] = ()) -> Outgoing:
        """Return what is committed of what a worker said, with `answers` to its requests."""
        message = Ack(
            journal=worker.journal,
            seq=worker.seq,
            epoch=epoch,
            connection=worker.connection,
            birth=worker.birth,
            logs=logs,
            answers=[
                {name: value for name, value in answer.items() if name != "journal" or value != worker.journal}
                for answer in answers
            ],
        )
        return Outgoing(self.topics.worker(worker.name, TopicKind.ACK), message.encode())

    def ask_birth(self, worker: str, journal: str, epoch: int) -> Outgoing:
        """Ask a worker whose `journal` we do not know to introduce itself: an acknowledgement of no birth at all."""
        message = Ack(journal=journal, seq=0, epoch=epoch)
        return Outgoing(self.topics.worker(worker, TopicKind.ACK), message.encode())

    def refuse(self, worker: str, journal: str, epoch: int, why: str) -> Outgoing:
        """Tell a worker that this bridge does not take it."""
        message = Ack(journal=journal, seq=0, epoch=epoch, refused=why)
        return Outgoing(self.topics.worker(worker, TopicKind.ACK), message.encode())

    def renew(self, worker: str, journal: str, epoch: int) -> Outgoing:
        """Tell a worker that its `journal` is past: another of its name has replaced it."""
        message = Ack(journal=journal, seq=0, epoch=epoch, past=True)
        return Outgoing(self.topics.worker(worker, TopicKind.ACK), message.encode())

    def desired(self, worker: str, desired: Desired) -> Outgoing:
        topic = self.topics.worker(worker, TopicKind.DESIRED)
        return Outgoing(topic, desired.encode(), retain=True)

    def statuses(self, jobs: Iterable[Job], now: float) -> list[Outgoing]:
        """Return where each of `jobs` is now. Of transitions that commit together only the last one is told."""
        return [Outgoing(self.topics.job_status(job.id), job.status(now).encode(), qos=0) for job in jobs]

    def response(self, worker: str, payload: bytes) -> Outgoing:
        return Outgoing(self.topics.worker(worker, TopicKind.RESPONSE), payload)


def _by(clock: Clock, at: float | None) -> float | None:
    """Return a time of ours by a worker's clock; None while that is not known."""
    return None if at is None or not clock.heard else max(0.0, at - clock.correction)
