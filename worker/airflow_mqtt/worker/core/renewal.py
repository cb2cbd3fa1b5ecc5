"""A new name for the journal, under which its numbers begin anew.

A number names an event only as long as the disk does not go back: from an old image, or on a card that forgets what it
said was written. Afterwards new events would have numbers that the bridge knows, and it would drop them without a
word. An acknowledgement cannot always show that: the journal may have caught up before it is heard. But a disk goes
back only while the power is off, or with another file in its place. So a journal that wakes up after that takes a new
name, always.

The events that wait are numbered from 1. Some of them the bridge may have applied under the old name, unheard: a report
that comes twice changes nothing (`protocol.jobs.settle`), as its job and attempt say what it is about.
"""

import hashlib
from dataclasses import replace

from airflow_mqtt.protocol.messages import MAX_POSITION, Event
from airflow_mqtt.worker.core.effects import DropEvents, SaveEvent, SaveMeta
from airflow_mqtt.worker.core.outbox import Outbox
from airflow_mqtt.worker.core.state import State, save


def at_start(state: State, boot: str) -> None:
    """Take a new name, unless the journal was last used in this very `boot`."""
    if boot and boot == state.config.boot:
        return
    state.out.append(SaveMeta("boot", state.config.boot))
    renew(state)


def renew(state: State, connection: int = 0) -> None:
    """Take a new name. The next connection is counted above `connection`, as far as that leaves room to count on.

    The name is made from the old one and the random name of this process: no other line of time comes to it.
    """
    name = hashlib.sha256(f"{state.config.journal} {state.config.instance}".encode()).hexdigest()[:32]
    state.config = replace(state.config, journal=name)
    state.connections_seen = max(state.connection, min(connection, MAX_POSITION))
    state.out.append(SaveMeta("journal", name))
    state.out.append(SaveMeta("connection", str(state.connections_seen)))
    before, state.outbox = state.outbox, Outbox()
    state.out.append(DropEvents(before.last))
    for _, payload in sorted(before.events.items()):
        event = replace(Event.decode(payload), journal=name, seq=state.outbox.last + 1).encode()
        state.outbox.add(event)
        state.out.append(SaveEvent(state.outbox.last, event))
    state.out.append(SaveMeta("acked", "0"))
    for job in state.jobs.values():
        job.last_seq = max(0, job.last_seq - before.acked)
        save(state, job)
