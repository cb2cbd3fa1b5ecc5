"""Is a worker of this name alive? Asked with a connection of its own, before ours could take its session over.

`docs/reference/protocol.md`, "Identity": the retained status says who was there last; a living worker answers a
`Probe` by publishing its status.
"""

import logging
import os
import selectors
from dataclasses import dataclass
from enum import Enum

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Probe as Question
from airflow_mqtt.protocol.messages import ReportedState, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind, Topics
from airflow_mqtt.worker.mqtt.connection import Arrived, Connection, Phase
from airflow_mqtt.worker.settings import WorkerSettings

log = logging.getLogger(__name__)

#: The retained status follows the SUBACK at once; this is for slow links.
RETAINED_WAIT = 1.0
ANSWER_WAIT = 5.0


class Verdict(Enum):
    """What a probe found out."""

    FREE = "free"  # no other living worker has the name
    TAKEN = "taken"
    UNKNOWN = "unknown"  # the broker cannot be asked
    UNANSWERED = "unanswered"  # as before, and another version of MQTT may help


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a probe, and why nothing was found out."""

    verdict: Verdict
    why: str = ""


class Probe:
    """One question. It begins when it is made; `ours` are instances that are or were this worker."""

    def __init__(
        self,
        settings: WorkerSettings,
        selector: selectors.BaseSelector,
        ours: frozenset[str],
        instance: str,
        now: float,
        *,
        v5: bool,
    ) -> None:
        self._settings = settings
        self._ours = ours
        self._instance = instance
        self._topics = Topics(settings.root)
        self._listens_since: float | None = None
        self._asked_at: float | None = None
        self._retained: WorkerStatus | None = None
        self._answered = False
        client_id = f"{settings.root.replace('/', '-')}-worker-{settings.name}-probe-{os.urandom(4).hex()}"
        filters = [self._topics.worker(settings.name, TopicKind.STATUS)]
        self._connection = Connection(settings, selector, client_id, filters, now, v5=v5)

    def service(self, now: float) -> Outcome | None:
        """Do what is due; return what came out, once. Call it in each round of the loop."""
        self._connection.service(now)
        for message in self._connection.messages:
            self._hear(message)
        self._connection.messages = []
        if self._connection.phase is Phase.UP and self._listens_since is None:
            self._listens_since = now
        outcome = self._judge(now)
        if outcome is not None:
            self._connection.disconnect()
        return outcome

    def _judge(self, now: float) -> Outcome | None:
        ended = self._connection.phase is Phase.ENDED
        if self._listens_since is None:
            return self._failed() if ended else None
        if self._asked_at is not None:
            if self._answered:
                return Outcome(Verdict.TAKEN)
            return Outcome(Verdict.FREE) if ended or now - self._asked_at >= ANSWER_WAIT else None
        if self._retained is not None and self._foreign(self._retained) and not ended:
            self._ask(now)
            return None
        over = self._retained is not None or ended or now - self._listens_since >= RETAINED_WAIT
        return Outcome(Verdict.FREE) if over else None

    def _failed(self) -> Outcome:
        connection = self._connection
        unanswered = connection.reached and not connection.answered
        return Outcome(Verdict.UNANSWERED if unanswered else Verdict.UNKNOWN, connection.why)

    def _ask(self, now: float) -> None:
        log.info("the last status of %s is another instance's; asking whether it lives", self._settings.name)
        self._asked_at = now
        question = Question(instance=self._instance)
        self._connection.publish(self._topics.worker(self._settings.name, TopicKind.PROBE), question.encode())

    def _hear(self, message: Arrived) -> None:
        try:
            status = WorkerStatus.decode(message.payload)
        except PayloadError:
            return
        if message.retained:
            self._retained = status
        else:
            self._answered = self._answered or self._foreign(status)

    def _foreign(self, status: WorkerStatus) -> bool:
        return status.state != ReportedState.OFFLINE and status.instance not in self._ours

    def deadline(self, now: float) -> float:
        if self._asked_at is not None:
            return self._asked_at + ANSWER_WAIT
        if self._listens_since is not None:
            return self._listens_since + RETAINED_WAIT
        return self._connection.deadline(now)

    def drop(self) -> None:
        self._connection.drop()
