"""The broker's limit: what is kept of it, and what follows for all that waits.

A message that has no way fails its own call, or says less, and nothing waits behind it: of calls, of events and of logs
each first one is one that the broker takes. What was learnt from being cut off is in the journal for a day: learning
costs some connections, and a broker may be given another limit.
"""

from collections.abc import Mapping

from airflow_mqtt.protocol.messages import Event
from airflow_mqtt.protocol.packets import LEAST, PacketLimit
from airflow_mqtt.worker.core import calls
from airflow_mqtt.worker.core.effects import SaveEvent, SaveMeta
from airflow_mqtt.worker.core.state import State, say, shortened, wall

KEY = "packet_limit"

#: Seconds for which what was learnt is believed.
LEARNT_FOR = 24 * 3600.0


def known(meta: Mapping[str, str]) -> int | None:
    """Return the limit in the journal, whether or not it holds any more."""
    learnt = meta.get(KEY, "").partition(" ")[0]
    return int(learnt) if learnt.isdecimal() else None


def restored(meta: Mapping[str, str], broker: str, wall_time: float) -> PacketLimit:
    """Return what the journal says of `broker`, if that still holds at `wall_time`."""
    match meta.get(KEY, "").split(" ", 2):
        case [_, since, of] if of == broker and since.isdecimal() and 0 <= wall_time - int(since) <= LEARNT_FOR:
            return PacketLimit(learnt=known(meta))
    return PacketLimit()


def keep(state: State, limit: PacketLimit, now: float) -> bool:
    """Take what is known of the broker's limit; return whether that was news."""
    state.limit = limit
    if limit.learnt is not None and limit.learnt == state.learnt_limit and now - state.learnt_at > LEARNT_FOR:
        limit.learnt = None
    if limit.learnt != state.learnt_limit:
        state.learnt_limit, state.learnt_at = limit.learnt, now
        text = "" if limit.learnt is None else f"{limit.learnt} {wall(state, now):.0f} {state.config.broker}"
        state.out.append(SaveMeta(KEY, text))
    if limit.payload == state.payload_limit:
        return False
    state.payload_limit = limit.payload
    _say(state, limit)
    for job in state.jobs.values():
        calls.refuse_too_large(state, job, now)
        calls.pump(state, job, now)
    _shorten_events(state)
    return True


def _say(state: State, limit: PacketLimit) -> None:
    if limit.packet is None or state.max_message_bytes == state.config.max_message_bytes:
        return
    how = "it says" if limit.packet == limit.announced else "was learnt from what it cut off or refused"
    text = f"the broker takes packets of {limit.packet} bytes at most, as {how}; max_message_bytes is more"
    if limit.packet < LEAST:
        text += f". That is too little: it must take {LEAST} bytes (max_packet_size)"
    say(state, "warning", text)


def _shorten_events(state: State) -> None:
    for seq, payload in state.outbox.events.items():
        if len(payload) > state.max_message_bytes:
            state.outbox.events[seq] = shortened(state, Event.decode(payload))
            state.out.append(SaveEvent(seq, state.outbox.events[seq]))
