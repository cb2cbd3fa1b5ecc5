"""A large call that nobody answers: is it the broker that drops it?

Some brokers acknowledge what they drop for its size (Mosquitto's `message_size_limit` with MQTT 3.1.1), and nothing
says so. A worker may write to its own `probe` topic and reads it. So it sends itself a message that is as large, and
when that does not come back, while smaller ones do, the limit is learnt.
"""

from dataclasses import dataclass

import orjson

from airflow_mqtt.protocol.messages import Probe
from airflow_mqtt.protocol.packets import LEAST
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core.effects import Publish
from airflow_mqtt.worker.core.state import State, say

#: A call that was sent so often without an answer is suspected. The bridge answers late when Airflow does.
SENT = 3

#: Seconds in which a message to ourselves comes back. On a narrow link it stands behind what else is on its way.
WAIT = 60.0


@dataclass(slots=True)
class Trial:
    """A message of `size` bytes that was sent to ourselves."""

    size: int
    at: float


def tick(state: State, now: float) -> None:
    """Begin a trial where one is due, and take it that a message is lost which has not come back in time."""
    if not state.connected or state.limit is None:
        state.trial = None
        state.passed = 0
    elif state.trial is not None:
        if now - state.trial.at >= WAIT:
            _judge(state, state.trial)
    elif (size := _suspect(state)) > max(LEAST, state.passed) and state.limit.fits(size):
        _begin(state, size, now)


def _suspect(state: State) -> int:
    heads = (job.calls.head for job in state.jobs.values())
    return max((head.sent_bytes for head in heads if head is not None and head.sent_times >= SENT), default=0)


def _begin(state: State, size: int, now: float) -> None:
    plain = len(orjson.dumps({"instance": state.config.instance, "padding": ""}))
    payload = orjson.dumps({"instance": state.config.instance, "padding": "x" * max(0, size - plain)})
    state.trial = Trial(len(payload), now)
    state.out.append(Publish(state.topic(TopicKind.PROBE), payload))
    # A small one behind it: when only that comes back, the large one was dropped.
    state.out.append(Publish(state.topic(TopicKind.PROBE), Probe(instance=state.config.instance).encode()))


def _judge(state: State, trial: Trial) -> None:
    """Learn, if the link has brought the small one back meanwhile."""
    state.trial = None
    if state.echoed_at < trial.at or state.limit is None:
        return
    say(state, "warning", f"the broker acknowledges a message of {trial.size} bytes and does not pass it on")
    state.limit.refused(trial.size)


def came_back(state: State, size: int, now: float) -> None:
    """A message of ours to ourselves has arrived."""
    state.echoed_at = now
    state.passed = max(state.passed, size)
    if state.trial is not None and size >= state.trial.size:
        state.trial = None


def deadline(state: State) -> float:
    return float("inf") if state.trial is None else state.trial.at + WAIT
