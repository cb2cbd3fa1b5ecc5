"""What goes to the bridge together.

Nobody waits for most of what a worker says: that a job is accepted or has started, what its task wrote and was told
is stored, its log. All of that waits for up to `GATHER` seconds, and goes in one message with what somebody waits for.
A bridge that does not announce that it takes parcels gets each by itself, and at once.
"""

from collections.abc import Iterable

from airflow_mqtt.protocol.messages import Event, LogChunk, LogPart, Parcel, Part, Request
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core.effects import Publish
from airflow_mqtt.worker.core.state import NEVER, State

#: Bytes of text in a parcel, about, and how many messages. What does not go into one goes into the next.
MAX_BYTES = 48 * 1024
MAX_PARTS = 64

#: A chunk of log up to this size goes along; a larger one goes by itself, as it has no part in being small.
SMALL_LOG = 8 * 1024


def send(state: State, now: float, groups: Iterable[list[Part]]) -> None:
    """Send all that waits, in its order: events, logs, and the `groups` of calls, none of which may be divided."""
    chunks, state.chunks, state.send_at = state.chunks, [], NEVER
    events = [Event.decode(payload) for payload in state.outbox.to_send(now)]
    single: list[Part] = [*events, *chunks]
    together: list[list[Part]] = [[]]
    size = 0
    for group in [*([part] for part in single), *groups]:
        weight = sum(map(_weight, group))
        if size + weight > MAX_BYTES or len(together[-1]) + len(group) > MAX_PARTS or not state.gathers:
            together.append([])
            size = 0
        together[-1] += group
        size += weight
    for parts in together:
        if len(parts) == 1:
            _send_alone(state, parts[0])
        elif parts:
            parcel = Parcel.of(state.config.journal, parts)
            state.out.append(Publish(state.topic(TopicKind.EVENTS), parcel.encode()))


def _weight(part: Part) -> int:
    match part:
        case Event():
            return 256 + len(part.reason)
        case LogPart():
            return len(part.text or part.base64 or "")
    return 256 + len(part.body or "") + len(part.query) + len(part.path)


def _send_alone(state: State, part: Part) -> None:
    match part:
        case Event():
            message = Publish(state.topic(TopicKind.EVENTS), part.encode())
        case Request():
            message = Publish(state.topic(TopicKind.REQUEST), part.encode())
        case LogPart():
            chunk = LogChunk(**{name: value for name, value in vars(part).items() if name != "job"})
            message = Publish(state.topics.logs(state.config.name, part.job), chunk.encode())
    state.out.append(message)
