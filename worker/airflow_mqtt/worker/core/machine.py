"""The worker's core: everything that can happen to it, one method each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import (
    MAX_POSITION,
    PARCELS,
    TELEMETRY,
    Ack,
    BridgeState,
    BridgeStatus,
    Cancel,
    Desired,
    OfflineReason,
    Probe,
    ReportedState,
    Response,
    WorkerStatus,
    decode_order,
)
from airflow_mqtt.protocol.packets import PacketLimit
from airflow_mqtt.protocol.topics import RETAINED, Topic, TopicKind, Topics
from airflow_mqtt.worker.core import (
    calls,
    commands,
    completion,
    draining,
    limits,
    logs,
    maintenance,
    orders,
    parcels,
    renewal,
    status,
    trial,
)
from airflow_mqtt.worker.core.calls import LocalCall
from airflow_mqtt.worker.core.commands import Command
from airflow_mqtt.worker.core.effects import DropEvents, Effect, SaveMeta
from airflow_mqtt.worker.core.jobs import Call, Job, Phase, Result
from airflow_mqtt.worker.core.outbox import Outbox
from airflow_mqtt.worker.core.state import NEVER, Config, Restored, Stage, State, plan, say

#: A worker introduces itself again at most this often, when an acknowledgement shows that it was not heard.
BIRTH_PAUSE = 2.0


class Core:
    """Tell it what happened, then `take` the effects. `now` is of any clock that never goes back, in seconds."""

    def __init__(self, config: Config, restored: Restored | None = None) -> None:
        self.state = State(config=config, topics=Topics(config.root))
        if restored is not None:
            _restore(self.state, restored)

    def take(self) -> list[Effect]:
        """Return the effects since the last call, in order."""
        effects, self.state.out = self.state.out, []
        return effects

    def set_clock(self, offset: float) -> None:
        """Say how far the time of day is ahead of `now`."""
        self.state.clock_offset = offset

    # --- the process --------------------------------------------------------------------------------------

    def found(self, job: str, *, alive: bool, result: Result | None, log_size: int, now: float) -> None:
        """After a restart: what became of the runner of a job that the journal holds."""
        held = self.state.jobs[job]
        held.alive = alive and held.phase is not Phase.ENDED
        calls.refuse_too_large(self.state, held, now)
        if held.phase is Phase.ENDED:
            completion.close_if_ready(self.state, held, now)
            return
        if alive:
            orders.resume(self.state, held, now)
            return
        if result is None and held.phase is Phase.ACCEPTED:
            held.launches = 0  # it never ran user code, and the worker's end was not its fault
        completion.ended(self.state, held, result, log_size, now)

    def ended(self, job: str, attempt: int, result: Result | None, log_size: int, now: float) -> None:
        """A runner ended. `result` is what it wrote, None when it died."""
        held = self.state.jobs.get(job)
        if held is not None and held.attempt == attempt:
            completion.ended(self.state, held, result, log_size, now)
            calls.pump(self.state, held, now)
            logs.tick(self.state, now)  # what is left of its log goes with the report of its end
            self._after(now)

    def call(self, local: LocalCall, now: float) -> None:
        """A runner calls the Execution API."""
        calls.submit(self.state, local, now)
        self._after(now)

    def hung_up(self, token: int) -> None:
        """The connection that `token` stood for is closed; nobody waits there for an answer."""
        for job in self.state.jobs.values():
            for waiting in job.calls.waiting:
                if waiting.token == token:
                    waiting.token = None

    def log_read(self, job: str, attempt: int, offset: int, data: bytes, now: float, *, size: int) -> None:
        """Here is what a `ReadLog` asked for, of a log of `size` bytes; nothing when the log ends there."""
        self.state.reading -= 1
        held = self.state.jobs.get(job)
        if held is not None and held.attempt == attempt:
            logs.read(self.state, held, offset, data, now, size=size)
        self._send(now)

    def signal(self, now: float) -> None:
        """Somebody wants the process to stop."""
        draining.signal(self.state, now)
        self._after(now)

    def tick(self, now: float, disk_free: int | None = None, under_way: int = 0) -> None:
        """Time has passed.

        `disk_free` is how many bytes are free where the jobs are, None when nobody knows; `under_way` how many messages
        the broker has not acknowledged.
        """
        state = self.state
        state.disk_free = disk_free
        state.under_way = under_way
        calls.tick(state, now)
        trial.tick(state, now)
        orders.escalate(state, now)
        if state.connected and state.outbox.waiting and now - state.outbox.progress_at >= state.config.resend_after:
            state.outbox.rewind(now)
        if state.connected and not state.born_heard and now - state.born_at >= state.config.resend_after:
            self._introduce(now)
        self._plan_events(now)
        logs.tick(state, now)
        self._after(now)
        status.tick(state, now)

    def figures(self, health: Mapping[str, Any], now: float) -> None:
        """The device is like this: `protocol.messages.FIGURES`, as far as they are known."""
        maintenance.hear(self.state, health)
        self._after(now)

    def command(self, command: Command, now: float, *, link: str = "") -> None:
        """A person on the device asks something; `link` says how the connection to the broker is."""
        commands.obey(self.state, command, now, link)
        self._after(now)

    def deadline(self, now: float) -> float:
        """Return the time at which `tick` has something to do, at the latest."""
        state = self.state
        times = [calls.deadline(state), logs.deadline(state, now), trial.deadline(state)]
        times += [job.signal_at for job in state.jobs.values() if job.signal_at is not None]
        if state.stage is not Stage.NONE:
            times.append(state.stage_until)
        if state.connected:
            times += [state.status_due, state.status_news, state.send_at]
            if not state.born_heard:
                times.append(state.born_at + state.config.resend_after)
            if state.outbox.waiting:
                times.append(state.outbox.progress_at + state.config.resend_after)
        return min(times)

    # --- the link -----------------------------------------------------------------------------------------

    def connecting(self, now: float) -> tuple[str, bytes]:
        """Begin a connection: return topic and payload of its will. Commit before CONNECT."""
        state = self.state
        state.connection = max(state.connection, state.connections_seen) + 1
        state.births = 0
        state.unheard_births = 0
        state.out.append(SaveMeta("connection", str(state.connection)))
        state.out.append(SaveMeta("instance", state.config.instance))
        will = status.of(state, now, ReportedState.OFFLINE, OfflineReason.LOST)
        return state.topic(TopicKind.STATUS), will.encode()

    def connected(self, now: float) -> None:
        """The broker has granted the subscriptions."""
        self.state.connected = True
        self.state.heard_at = now
        self.state.health_due = now
        self._introduce(now)
        status.info(self.state)
        status.publish(self.state, now)

    def limited(self, limit: PacketLimit, now: float) -> None:
        """So much is known of what the broker takes."""
        if limits.keep(self.state, limit, now):
            self._after(now)

    def disconnected(self, now: float) -> None:
        """The connection is gone."""
        if self.state.connected:
            self.state.connected = False
            self.state.send_at = NEVER
            self.state.chunks = []
            calls.link_lost(self.state, now)
        self._after(now)

    def _introduce(self, now: float) -> None:
        first = self.state.unheard_births == 0
        self.state.born_heard = False
        self.state.unheard_births += 1
        status.born(self.state, now)
        self.state.outbox.rewind(now)
        calls.resend(self.state, now)
        plan(self.state, now)
        self._send(now)
        if first:  # later ones leave logs alone: they are much, and what is not acknowledged comes again by itself
            logs.rewind(self.state, now)

    def message(self, topic: str, payload: bytes, now: float, *, retained: bool = False) -> None:
        """A message arrived. One that is not of the protocol is counted, said once for each kind, and dropped."""
        kind = "unknown"
        try:
            parsed = self.state.topics.parse(topic)
            kind = parsed.kind.value
            if parsed.worker not in ("", self.state.config.name):
                raise PayloadError(f"topic {topic[:200]!r} is another worker's")
            if not retained:
                self.state.heard_at = now
            if retained and parsed.kind not in RETAINED:
                raise PayloadError("the broker had retained it, and what it says was for another time")
            self._dispatch(parsed, payload, now, retained=retained)
        except PayloadError as error:
            self._drop(kind, topic, error)
        self._after(now)

    def _drop(self, kind: str, topic: str, error: PayloadError) -> None:
        count = self.state.dropped.get(kind, 0)
        self.state.dropped[kind] = count + 1
        if count == 0:
            say(self.state, "warning", f"dropped a message on {topic[:200]!r} (said once for {kind}): {error}")

    def _dispatch(self, topic: Topic, payload: bytes, now: float, *, retained: bool) -> None:
        match topic.kind:
            case TopicKind.JOBS:
                self._order(topic.queue, payload, now)
            case TopicKind.ACK:
                self._ack(Ack.decode(payload), now)
            case TopicKind.RESPONSE:
                calls.respond(self.state, [Response.decode(payload)], now)
            case TopicKind.DESIRED:
                self._desire(payload, now)
            case TopicKind.STATUS:
                status.seen(self.state, WorkerStatus.decode(payload), now, live=not retained)
            case TopicKind.PROBE:
                self._probed(Probe.decode(payload), len(payload), now)
            case TopicKind.BRIDGE_STATUS:
                self._bridge(BridgeStatus.decode(payload), now, retained=retained)
            case _:
                raise PayloadError(f"a worker has no use for {topic.kind}")

    def _order(self, queue: str, payload: bytes, now: float) -> None:
        order = decode_order(payload)
        if isinstance(order, Cancel):
            orders.cancel(self.state, order, now)
        else:
            orders.run(self.state, queue, order, now)

    def _ack(self, ack: Ack, now: float) -> None:
        self._acknowledged(ack, now)
        calls.respond(self.state, ack.responses(), now)

    def _acknowledged(self, ack: Ack, now: float) -> None:
        if ack.journal != self.state.config.journal:
            return
        if ack.refused:
            self._turned_away(ack.refused)
            return
        if why := self._superseded(ack):
            self._renew(why, ack, now)
            return
        self.state.ack_at = now
        if self.state.outbox.acknowledge(ack.seq, now):
            self.state.out.append(DropEvents(ack.seq))
        if (ack.connection, ack.birth) == (self.state.connection, self.state.births):
            self.state.born_heard = True
            self.state.unheard_births = 0
            self.state.unwelcome = ""
        elif self.state.connected and now - self.state.born_at >= self._birth_pause():
            self._introduce(now)  # the bridge has missed it, and ignores what it cannot place
        logs.acknowledged(self.state, ack.logs, now)
        self._plan_events(now)

    def _plan_events(self, now: float) -> None:
        """Have events sent for which there is room again, or that are to be sent again."""
        if self.state.outbox.sendable and self.state.send_at == NEVER:
            plan(self.state, now)

    def _birth_pause(self) -> float:
        """Seconds until an introduction that seems to have got lost is repeated.

        It grows: on a slow link the acknowledgement of one may come after the next was sent, and so on for ever.
        """
        doublings = min(10, max(0, self.state.unheard_births - 1))
        return min(self.state.config.resend_after, BIRTH_PAUSE * 2.0**doublings)

    def _superseded(self, ack: Ack) -> str:
        """Return why our journal does not count any more: the bridge knows more of it than we do. Or nothing."""
        if ack.past:
            return "another has taken its place at the bridge"
        if ack.seq > self.state.outbox.last or ack.connection > self.state.connection:
            return "it has gone back to an older state"
        return ""

    def _renew(self, why: str, ack: Ack, now: float) -> None:
        old = self.state.config.journal
        renewal.renew(self.state, ack.connection)
        new = self.state.config.journal
        say(self.state, "error", f"journal {old}: {why}; what waits is reported under the new name {new}")
        if self.state.connected:
            self._introduce(now)

    def _turned_away(self, why: str) -> None:
        """Stay, and ask again after `resend_after`: the next bridge to lead may be a newer one."""
        if why != self.state.unwelcome:
            self.state.unwelcome = why
            say(self.state, "error", f"the bridge gives this worker no jobs: {why}")

    def _probed(self, probe: Probe, size: int, now: float) -> None:
        if probe.instance == self.state.config.instance:
            trial.came_back(self.state, size, now)
        elif self.state.connected:
            status.publish(self.state, now)

    def _bridge(self, bridge: BridgeStatus, now: float, *, retained: bool) -> None:
        """A new leader has not heard our introduction, unless it led before we came (its status was retained).

        Nor has a leader that has just connected again (the same epoch, not retained): what was published while it was
        away is gone, and without this it would come again only after `resend_after`. A lower epoch that is not
        retained is that of a database that was made anew, or restored.
        """
        if bridge.state == BridgeState.LEADING:
            self.state.gathers = PARCELS in bridge.features
            self.state.relays = TELEMETRY in bridge.features
        if bridge.state != BridgeState.LEADING or (retained and bridge.epoch <= self.state.epoch):
            return
        known = self.state.epoch == 0 and retained
        self.state.epoch = bridge.epoch
        if self.state.connected and not known:
            say(
                self.state, "info", f"the bridge begins to listen (epoch {bridge.epoch}); introducing this worker to it"
            )
            self._introduce(now)

    def _desire(self, payload: bytes, now: float) -> None:
        # Of an older bridge: it may wish for more slots than there can be.
        desired = Desired.stored(codec.decode(payload)) if payload else Desired(revision=0)
        state = self.state
        shape = (state.queues, state.slots)
        if desired.maintenance != state.desired.maintenance:
            say(state, "info", "maintenance begins" if desired.maintenance else "maintenance ends")
        if desired.shutdown and desired.revision == state.shutdown_done:
            desired = replace(desired, shutdown=False)
        state.desired = desired
        if (state.queues, state.slots) != shape and state.connected:
            status.info(state)
            self._introduce(now)
        if desired.shutdown and state.stage is Stage.NONE:
            self._shut_down(now)

    def _shut_down(self, now: float) -> None:
        """Follow a wish for shutdown once: it is retained, and must not stop the worker that is started after it."""
        self.state.shutdown_done = self.state.desired.revision
        self.state.out.append(SaveMeta("shutdown_done", str(self.state.shutdown_done)))
        say(self.state, "info", "an operator asked for a shutdown")
        draining.signal(self.state, now)

    def _after(self, now: float) -> None:
        """What follows from anything: what waits is sent, jobs that are done are forgotten, a drain goes on, the status
        may be new.
        """
        completion.forget_done(self.state)
        self._send(now)
        draining.advance(self.state, now)
        status.changed(self.state, now)

    def _send(self, now: float) -> None:
        """Send what waits for the bridge, if it is time, and all of it is there."""
        if now >= self.state.send_at and not self.state.reading:
            parcels.send(self.state, now, calls.chains(self.state, now))


def _restore(state: State, restored: Restored) -> None:
    meta = restored.meta
    state.connection = min(int(meta.get("connection", "0")), MAX_POSITION)
    state.shutdown_done = int(meta.get("shutdown_done", "-1"))
    state.learnt_limit = limits.known(meta)
    state.by_hand = meta.get(maintenance.META, "")
    acked = int(meta.get("acked", "0"))
    state.outbox = Outbox(last=max([acked, *restored.events]), acked=acked, sent=acked, events=dict(restored.events))
    for record in restored.jobs:
        job = Job.from_record(record)
        # Each is written alone, and a release that does not know the mark writes the record: the newer one is larger.
        job.log_acked = job.log_sent = max(job.log_acked, restored.log_marks.get(job.id, 0))
        state.jobs[job.id] = job
    for name, record in restored.calls:
        _restore_call(state, name, record)
    renewal.at_start(state, meta.get("boot", ""))


def _restore_call(state: State, name: str, record: Mapping[str, Any]) -> None:
    call = Call.from_record(record)
    state.positions = max(state.positions, call.position)
    if name in state.jobs:
        state.jobs[name].calls.append(call)
