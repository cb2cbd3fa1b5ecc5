"""What a worker says of itself: status, info, and the introduction at each connection."""

from dataclasses import replace
from typing import Any

from airflow_mqtt.protocol.messages import PARCELS, Born, Probe, ReportedState, WorkerInfo, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core import maintenance
from airflow_mqtt.worker.core.effects import Publish, Reconnect
from airflow_mqtt.worker.core.jobs import HELD_STATE, Phase
from airflow_mqtt.worker.core.state import NEVER, Stage, State, say, wall

#: Changes within this time make one status.
SETTLE = 0.2

#: … and those of what runs, on which nothing depends: a task that ends within this time makes none.
SETTLE_RUNNING = 5.0

#: Intervals of silence after which a worker asks itself something through the broker, and after which it takes itself
#: for deaf: connected, but not receiving.
ASK_AFTER = 4
DEAF_AFTER = 5

#: A status of ours that somebody else overwrote is repaired at most this often.
REPAIR_PAUSE = 1.0


def of(state: State, now: float, reported: ReportedState | None = None, reason: str = "") -> WorkerStatus:
    """Return the status at `now`; `reported` for the will and the farewell."""
    own = maintenance.reason(state)
    running = sum(1 for job in state.jobs.values() if job.phase is not Phase.ENDED)
    return WorkerStatus(
        state=_reported(state, running) if reported is None else reported,
        reason=reason or own,
        connection=state.connection,
        instance=state.config.instance,
        ts=wall(state, now),
        interval=state.config.heartbeat_interval,
        slots=state.slots,
        free=max(0, state.slots - state.used),
        running=running,
        maintenance=state.maintenance,
        own_maintenance=bool(own),
        revision=state.desired.revision,
    )


def _reported(state: State, running: int) -> ReportedState:
    if state.stage is not Stage.NONE:
        return ReportedState.TERMINATING
    return ReportedState.RUNNING if running else ReportedState.IDLE


def publish(state: State, now: float) -> None:
    status = replace(of(state, now), health=_health(state, now))
    state.status_said = _figures(status)
    state.status_news = NEVER
    state.status_due = now + state.config.heartbeat_interval
    state.out.append(Publish(state.topic(TopicKind.STATUS), status.encode(), retain=True))


def _health(state: State, now: float) -> dict[str, Any]:
    """Return the figures of the device, if it is time to tell them: what is new of the worker need not carry them."""
    if not state.config.health_interval or not state.health or now < state.health_due:
        return {}
    state.health_due = now + state.config.health_interval
    return dict(state.health)


def _figures(status: WorkerStatus) -> tuple[object, ...]:
    shape = (status.slots, status.maintenance, status.reason, status.revision)
    return (shape, status.state, status.free, status.running)


def changed(state: State, now: float) -> None:
    """Bring the next status forward when there is something new to say, and not if it is the old again."""
    if not state.connected:
        return
    status = of(state, now)
    if _figures(status) == state.status_said:
        state.status_news = NEVER
    else:
        state.status_news = min(state.status_news, now + (SETTLE if _is_waited_for(state, status) else SETTLE_RUNNING))


def _is_waited_for(state: State, status: WorkerStatus) -> bool:
    """Whether what is new of `status` is more than what runs, or somebody waits for the end of that."""
    return state.stage is not Stage.NONE or status.maintenance or _figures(status)[:1] != state.status_said[:1]


def tick(state: State, now: float) -> None:
    if not state.connected or state.stage is Stage.STOPPED:
        return
    if now >= min(state.status_due, state.status_news):
        publish(state, now)
    _listen(state, now)


def _listen(state: State, now: float) -> None:
    """Find out whether we receive: "connected" is not that."""
    silent_for = now - state.heard_at
    if silent_for > DEAF_AFTER * state.config.heartbeat_interval:
        state.heard_at = now
        say(state, "warning", "connected, but nothing arrives from the broker; connecting anew")
        state.out.append(Reconnect("nothing arrives"))
    elif silent_for > ASK_AFTER * state.config.heartbeat_interval and state.asked_at <= state.heard_at:
        state.asked_at = now
        state.out.append(Publish(state.topic(TopicKind.PROBE), Probe(instance=state.config.instance).encode()))


def info(state: State) -> None:
    message = WorkerInfo(
        version=state.config.version,
        instance=state.config.instance,
        queues=list(state.queues),
        kinds=list(state.config.kinds),
        slots=state.slots,
        labels=dict(state.config.labels),
        platform=dict(state.config.platform),
    )
    state.out.append(Publish(state.topic(TopicKind.INFO), message.encode(), retain=True))


def born(state: State, now: float) -> None:
    """Introduce this worker: what it holds, and which events are still to come."""
    state.births += 1
    state.born_at = now
    message = Born(
        journal=state.config.journal,
        first=state.outbox.acked + 1,
        last=state.outbox.last,
        instance=state.config.instance,
        connection=state.connection,
        number=state.births,
        queues=list(state.queues),
        kinds=list(state.config.kinds),
        holds=[
            {"job": job.id, "attempt": job.attempt, "state": HELD_STATE[job.phase].value}
            for job in state.jobs.values()
            if not (job.closed and job.last_seq <= state.outbox.acked)
        ],
        features=[PARCELS],
        version=state.config.version,
        labels=dict(state.config.labels),
    )
    state.out.append(Publish(state.topic(TopicKind.EVENTS), message.encode()))


def seen(state: State, status: WorkerStatus, now: float, *, live: bool) -> None:
    """Take a status on our own topic: an echo, or one that says something untrue of us.

    A will of an earlier connection that fired late, or of another worker of our name, must not stand. Of two that are
    here at once, the one with the lower connection asks whether it may go on; that way not both do.
    """
    is_ours = status.instance == state.config.instance and status.connection == state.connection
    if is_ours and status.state != ReportedState.OFFLINE:
        return
    if not state.connected or state.stage is Stage.STOPPED:
        return
    another = status.instance != state.config.instance and status.state != ReportedState.OFFLINE
    if live and another and status.connection > state.connection:
        state.out.append(Reconnect("another worker speaks under this name"))
    else:
        state.status_due = min(state.status_due, now + REPAIR_PAUSE)
