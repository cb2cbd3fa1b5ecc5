"""The bridge's decisions about jobs and workers, each as a script over one transaction.

A script reads, asks the pure functions (`fleet`, `placement`, `sweep`, `protocol.jobs`), writes by compare-and-set,
and returns what to publish *after* the commit. It takes `now` and touches neither sockets nor clocks, so that the
simulation runs the very same code over a database and a broker of its own.

What is kept in memory between transactions (`_pauses`, `_early`, `_wishes`, `_refused`) is a convenience: a new
leader starts without it and comes to the same end.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from airflow_mqtt.bridge.dispatch import fleet, placement, timeouts
from airflow_mqtt.bridge.mqtt.outbox import Outgoing, Post
from airflow_mqtt.bridge.store import Tx
from airflow_mqtt.config.bridge import BridgeSettings
from airflow_mqtt.database.records import Job, Worker
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.jobs import HELD, JobEvent, JobState, Verdict, settle
from airflow_mqtt.protocol.messages import (
    Born,
    Event,
    EventType,
    FinishOutcome,
    HeldState,
    LogChunk,
    UnsupportedBirth,
    WorkerInfo,
    WorkerStatus,
    decode_order,
)
from airflow_mqtt.protocol.topics import Topics
from airflow_mqtt.protocol.workers import GONE

log = logging.getLogger(__name__)

#: Jobs looked at in one round of placement; the next round follows at once while jobs were placed.
PLACEMENT_BATCH = 500

#: What a report asks of the job. `started` is information: only the start gate starts a job.
_EVENTS = {
    EventType.REJECTED: JobEvent.REJECT,
    EventType.CANCELLED: JobEvent.CONFIRM,
}

#: How many attempts that a worker must let go of it is told at a birth. What is more, the next birth tells.
_DROPS = 256

#: How often a report is settled again when somebody else moved the job in between.
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Heard:
    """One message of a worker.

    `live` is false for what the broker had retained, `job` is that of a log topic, `size` that of its text in bytes.
    """

    worker: str
    message: WorkerStatus | WorkerInfo | Born | UnsupportedBirth | Event | LogChunk
    live: bool = True
    job: str = ""
    size: int = 0


@dataclass(slots=True)
class _Round:
    """What one batch of messages has done so far."""

    workers: dict[str, Worker]
    jobs: dict[str, Job]
    moved: list[Job] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    logs: dict[str, dict[str, int]] = field(default_factory=dict)
    births: dict[str, Born] = field(default_factory=dict)  # the newest of each worker
    out: list[Outgoing] = field(default_factory=list)


class Dispatcher:
    """Scripts of the leader with one `epoch`."""

    def __init__(self, settings: BridgeSettings, epoch: int) -> None:
        self._settings = settings
        self._epoch = epoch
        self._by = f"bridge:{settings.instance}"
        self._post = Post(Topics(settings.root), int(settings.accept_timeout * settings.accept_tries) + 1)
        self._pauses: dict[str, placement.Pause] = {}
        self._early: dict[str, WorkerStatus] = {}
        self._wishes: dict[str, tuple[int, float]] = {}
        self._refused: dict[str, str] = {}
        #: Whether workers came or went, or introduced themselves, in the last batch that was heard.
        self.stirred = False
        self._renewed: dict[str, str] = {}

    # --- messages of workers ------------------------------------------------------------------------------

    async def take_over(self, tx: Tx, now: float) -> None:
        """Begin to lead: since the bridge before us heard anybody, nobody could be heard."""
        last = await tx.last_heard()
        if last is not None:
            await tx.forgive(now - last, now)

    async def hear(self, tx: Tx, batch: Sequence[Heard], *, now: float, deaf: float) -> list[Outgoing]:
        """Apply what arrived together, in one transaction; the acknowledgements come out with the rest.

        `deaf` is `Listening.deaf`, for which the next `tick` makes allowance.
        """
        names = list(dict.fromkeys(heard.worker for heard in batch))
        self.stirred = any(isinstance(heard.message, Born) for heard in batch)
        known = await tx.workers(names)
        state = _Round(
            workers={name: known.get(name, Worker.unheard(name)) for name in names},
            jobs=await tx.jobs({id_ for heard in batch for id_ in _job_ids(heard)}),
        )
        for heard in batch:
            await self._hear_one(tx, heard, state, now)
        for name, born in state.births.items():
            await self._settle_birth(tx, name, born, state, now)
        for name in names:
            await self._save(tx, known.get(name), state.workers[name], now, deaf)
        acks = [
            self._post.ack(state.workers[name], self._epoch, state.logs.get(name, {}))
            for name in names
            if name in state.answered and state.workers[name].journal
        ]
        return [*acks, *state.out, *self._post.statuses(state.moved, now)]

    async def _hear_one(self, tx: Tx, heard: Heard, state: _Round, now: float) -> None:
        worker = state.workers[heard.worker]
        match heard.message:
            case WorkerStatus() as status:
                if heard.live and not fleet.knows(worker, status):
                    self._early[worker.name] = status
                state.workers[worker.name] = fleet.hear_status(worker, status, live=heard.live, now=now)
            case WorkerInfo() as info:
                state.workers[worker.name] = fleet.hear_info(worker, info)
                self._pauses.pop(worker.name, None)
            case UnsupportedBirth() as stranger:
                self._refuse(worker, stranger, state, now)
            case Born() as born:
                self._refused.pop(worker.name, None)
                state.answered.add(worker.name)
                if born.journal in worker.past_journals:
                    self._renew(worker.name, born.journal, state)
                elif not fleet.is_late(worker, born):
                    state.workers[worker.name] = self._hear_birth(worker, born, now)
                    state.births[worker.name] = born  # settled once: it says all that those before it said
            case Event() as event:
                await self._hear_event(tx, worker, event, state, now)
            case LogChunk() as chunk:
                await self._hear_log(tx, worker, heard.job, chunk, state)

    def _refuse(self, worker: Worker, stranger: UnsupportedBirth, state: _Round, now: float) -> None:
        """Answer a worker that cannot be taken. A task that it ran before lives, and its events go on to count."""
        why = fleet.refusal(stranger.protocol)
        if self._refused.get(worker.name) != why:
            self._refused[worker.name] = why
            log.error("worker %s is refused: %s", worker.name, why)
        if stranger.journal == worker.journal:
            state.workers[worker.name] = replace(worker, seen_at=now)
        state.out.append(self._post.refuse(worker.name, stranger.journal, self._epoch, why))

    def _renew(self, name: str, journal: str, state: _Round) -> None:
        """Tell a journal that another has replaced, if it still lives, to come as a new one."""
        if self._renewed.get(name) != journal:
            self._renewed[name] = journal
            log.info(
                "worker %s: its journal %s was replaced by another; if it is back, it takes a new name", name, journal
            )
        state.out.append(self._post.renew(name, journal, self._epoch))

    def _hear_birth(self, worker: Worker, born: Born, now: float) -> Worker:
        after = fleet.hear_birth(worker, born, now)
        early = self._early.pop(worker.name, None)
        return after if early is None else fleet.hear_status(after, early, live=True, now=now)

    async def _hear_event(self, tx: Tx, worker: Worker, event: Event, state: _Round, now: float) -> None:
        """Apply a numbered event, if its number is the next one."""
        if event.journal != worker.journal:
            if event.journal not in worker.past_journals:
                state.out.append(self._post.ask_birth(worker.name, event.journal, self._epoch))
            return
        state.answered.add(worker.name)
        if event.seq != worker.seq + 1:
            return  # known already, or beyond a gap: the acknowledgement says where we are
        await self._apply_event(tx, worker, event, state, now)
        state.workers[worker.name] = _at(worker, event.seq, now)

    async def _apply_event(self, tx: Tx, worker: Worker, event: Event, state: _Round, now: float) -> None:
        for _ in range(_TRIES):
            job = state.jobs.get(event.job)
            if job is None or job.worker != worker.name:
                self._drop_stale(worker, event, job, state)
                return
            intent = _intent(job, event)
            if intent is None:
                return
            job_event, reason, values = intent
            if job.state is JobState.CANCELLING:
                reason = job.reason  # who wanted the end, the executor reads there
            verdict = settle(job.state, job.attempt, job_event, event.attempt)
            if verdict is not Verdict.APPLY:
                self._note_verdict(verdict, worker, event, job, state)
                return
            after = await tx.move(job, job_event, now=now, by=f"worker:{worker.name}", reason=reason, **values)
            if after is not None:
                self._note_move(worker, event, after, state, now)
                return
            state.jobs |= await tx.jobs([event.job])
        log.warning("job %s: %s of worker %s could not be settled", event.job, event.type, worker.name)

    def _note_move(self, worker: Worker, event: Event, after: Job, state: _Round, now: float) -> None:
        state.jobs[after.id] = after
        state.moved.append(after)
        if event.type == EventType.REJECTED:
            self._pauses[worker.name] = placement.after_rejection(now)
        else:
            self._pauses.pop(worker.name, None)
        log.info("job %s: %s by worker %s%s", after.id, after.state, worker.name, _because(after.reason))

    def _note_verdict(self, verdict: Verdict, worker: Worker, event: Event, job: Job, state: _Round) -> None:
        if verdict is Verdict.DUPLICATE:
            return
        if verdict is Verdict.REFUSED:
            log.warning(
                "job %s: worker %s says %s of attempt %d, but the job is %s in attempt %d",
                job.id, worker.name, event.type, event.attempt, job.state, job.attempt,
            )  # fmt: skip
        self._drop_stale(worker, event, job, state)

    def _drop_stale(self, worker: Worker, event: Event, job: Job | None, state: _Round) -> None:
        """Tell a worker that goes on with what is not its own to stop."""
        if event.type in (EventType.ACCEPTED, EventType.STARTED):
            queue = job.queue if job else "unknown"
            state.out.append(self._post.drop(worker.name, queue, event.job, event.attempt, "not held any more"))

    async def _hear_log(self, tx: Tx, worker: Worker, job_id: str, chunk: LogChunk, state: _Round) -> None:
        """Append a chunk of log, if it is that of the current attempt and continues what is there."""
        job = state.jobs.get(job_id)
        state.answered.add(worker.name)
        marks = state.logs.setdefault(worker.name, {})
        data = chunk.data
        end = chunk.offset + len(data)
        if job is None or job.worker != worker.name or job.attempt < chunk.attempt:
            marks[job_id] = end  # nobody will ever read it: let the worker forget it
            return
        if chunk.attempt < job.attempt:
            return  # a mark names no attempt: it would be taken for one of the newer, which this worker gets or has
        marks[job_id] = job.log_bytes
        if not chunk.offset <= job.log_bytes < end:
            return
        fresh = data[job.log_bytes - chunk.offset :]
        kept = _within(fresh, job.log_bytes, self._settings.log_limit)
        if await tx.append_log(job, job.log_bytes, kept, end):
            state.jobs |= await tx.jobs([job_id])
            marks[job_id] = end

    async def _settle_birth(self, tx: Tx, name: str, born: Born, state: _Round, now: float) -> None:
        """Settle what a worker says that it holds with what we say that it holds."""
        held = {(item.job, item.attempt) for item in born.held()}
        for job in await tx.jobs_of(name):
            if (job.id, job.attempt) not in held and fleet.should_hold(job, born):
                await self._forgotten(tx, job, state.workers[name], state, now)
        known = await tx.jobs({item.job for item in born.held()})
        strange = [
            item
            for item in born.held()
            if not _holds(known.get(item.job), name, item.attempt)
            and not (item.job in known and item.state == HeldState.ENDED)
        ]
        for item in strange[:_DROPS]:
            queue = known[item.job].queue if item.job in known else "unknown"
            state.out.append(self._post.drop(name, queue, item.job, item.attempt, "not held any more"))

    async def _forgotten(self, tx: Tx, job: Job, worker: Worker, state: _Round, now: float) -> None:
        """A job that we gave to `worker` and that it does not hold."""
        if job.state is JobState.DISPATCHED:
            await tx.published([job.id], now)
            state.out.append(self._post.run(job, (await tx.workloads([job.id]))[job.id]))
            return
        event = {
            JobState.ACCEPTED: JobEvent.RELEASE,
            JobState.RUNNING: JobEvent.LOSE,
            JobState.CANCELLING: JobEvent.CONFIRM,
        }[job.state]
        cancelling = job.state is JobState.CANCELLING
        reason = job.reason if cancelling else f"worker {worker.name} came back without it"
        after = await tx.move(job, event, now=now, by=self._by, reason=reason)
        if after is not None:
            state.jobs[after.id] = after
            state.moved.append(after)

    async def _save(self, tx: Tx, before: Worker | None, worker: Worker, now: float, deaf: float) -> None:
        after = _judged(worker, now, deaf)
        if after == before:
            return
        await tx.save_worker(after)
        if before is None or before.state != after.state:
            self.stirred = True
            log.info("worker %s: %s", after.name, after.state)

    # --- time and new rows --------------------------------------------------------------------------------

    async def tick(self, tx: Tx, *, now: float, deaf: float, connected_since: float) -> tuple[list[Outgoing], bool]:
        """Do what is due and place what is queued. Returns what to publish, and whether more may be placed."""
        if deaf:
            await tx.forgive(deaf, now)
        workers = await self._judge_all(tx, now)
        out = self._wishes_due(workers, now)
        out += await self._sweep(tx, workers, now, connected_since)
        placed, more = await self._place(tx, workers, now)
        return out + placed, more

    async def _judge_all(self, tx: Tx, now: float) -> dict[str, Worker]:
        workers = await tx.workers()
        for name, worker in workers.items():
            workers[name] = _judged(worker, now)
            if workers[name].state != worker.state:
                await tx.save_worker_state(workers[name])
                log.info("worker %s: %s", name, workers[name].state)
        return workers

    def _wishes_due(self, workers: dict[str, Worker], now: float) -> list[Outgoing]:
        """Publish what an operator wishes: once for each change, and again until the worker says that it knows it.

        Retained messages do not outlive a broker's store. A new leader publishes all wishes that there are.
        """
        due = [worker for worker in workers.values() if self._is_wish_due(worker, now)]
        self._wishes |= {worker.name: (worker.desired.revision, now) for worker in due}
        return [self._post.desired(worker.name, worker.desired) for worker in due]

    def _is_wish_due(self, worker: Worker, now: float) -> bool:
        revision = worker.desired.revision
        said, at = self._wishes.get(worker.name, (0, 0.0))
        if revision != said:
            return True
        unheard = worker.state not in GONE and worker.status is not None and worker.status.revision != revision
        return unheard and now - at >= self._settings.accept_timeout

    async def _sweep(self, tx: Tx, workers: dict[str, Worker], now: float, connected_since: float) -> list[Outgoing]:
        gone = [name for name, worker in workers.items() if worker.state in GONE]
        moved, again = [], []
        for job in await tx.due(gone):
            worker = workers.get(job.worker or "") or Worker.unheard(job.worker or "")
            due = timeouts.due(job, worker, self._rules(job), now=now, connected_since=connected_since)
            if due.event is not None:
                after = await tx.move(job, due.event, now=now, by=self._by, reason=due.reason)
                if after is not None:
                    log.warning("job %s: %s%s", job.id, after.state, _because(due.reason))
                    moved.append(after)
                    if worker.state not in GONE:
                        self._pauses[worker.name] = placement.after_silence(self._pauses.get(worker.name), now)
            elif due.resend is not None:
                again.append((job, due.resend))
        return await self._send_again(tx, again, now) + self._post.statuses(moved, now)

    async def _send_again(self, tx: Tx, again: Sequence[tuple[Job, timeouts.Resend]], now: float) -> list[Outgoing]:
        await tx.published([job.id for job, _ in again], now)
        workloads = await tx.workloads([job.id for job, what in again if what is timeouts.Resend.RUN])
        return [
            self._post.run(job, workloads[job.id]) if what is timeouts.Resend.RUN else self._post.cancel(job)
            for job, what in again
        ]

    def _rules(self, job: Job) -> timeouts.Rules:
        settings = self._settings
        return timeouts.Rules(settings.accept_timeout, settings.accept_tries, settings.lost_after_of(job.queue))

    async def _place(self, tx: Tx, workers: dict[str, Worker], now: float) -> tuple[list[Outgoing], bool]:
        """Place what is queued; return what to publish, and whether more may be placed."""
        used = await tx.used_slots()
        offered = [offer for offer in placement.offers(workers.values(), used, self._pauses, now) if offer.free > 0]
        queued = await tx.queued(placement.room(offered), PLACEMENT_BATCH)
        claimed = []
        for job, name in placement.place(queued, offered):
            after = await tx.move(
                job, JobEvent.DISPATCH, now=now, by=self._by, worker=name, published_at=now, publishes=1
            )
            if after is not None:
                claimed.append(after)
                log.info("job %s: dispatched to worker %s, attempt %d", after.id, name, after.attempt)
        workloads = await tx.workloads([job.id for job in claimed])
        orders = []
        for job in claimed:
            order, problem = self._order(job, workloads[job.id])
            if order is not None:
                orders.append(order)
            else:
                await self._set_aside(tx, job, problem, now)
        return orders + self._post.statuses(claimed, now), bool(claimed) and len(queued) == PLACEMENT_BATCH

    def _order(self, job: Job, workload: str) -> tuple[Outgoing | None, str]:
        """Return the message that gives `job` to its worker, or what is wrong with it."""
        limit = self._settings.max_message_bytes
        try:
            order = self._post.run(job, workload)
            decode_order(order.payload)  # what a worker drops would be offered, and taken back, for ever
        except (ValueError, TypeError, PayloadError) as error:
            return None, f"its workload cannot be sent: {error}"
        if len(order.payload) > limit:  # a larger packet ends the connection to the broker, again and again
            size = len(order.payload)
            return None, f"its workload is a message of {size} bytes; max_message_bytes of the bridge is {limit}"
        return order, ""

    async def _set_aside(self, tx: Tx, job: Job, reason: str, now: float) -> None:
        """Fail a job that cannot be given to any worker."""
        await tx.move(job, JobEvent.FAIL, now=now, by=self._by, reason=reason)
        log.error("job %s: failed: %s", job.id, reason)

    # --- Airflow's wishes ---------------------------------------------------------------------------------

    async def cancel(self, tx: Tx, job: Job, reason: str, now: float) -> list[Outgoing]:
        """Ask the worker to end `job`, since Airflow does not want it any more."""
        after = await tx.move(job, JobEvent.CANCEL, now=now, by=self._by, reason=reason)
        if after is None:
            return []
        await tx.published([after.id], now)
        log.info("job %s: %s%s", after.id, after.state, _because(reason))
        return [self._post.cancel(after), *self._post.statuses([after], now)]


def _job_ids(heard: Heard) -> list[str]:
    match heard.message:
        case Event() as event:
            return [event.job]
        case LogChunk():
            return [heard.job]
        case Born() as born:
            return [item.job for item in born.held()]
    return []


def _at(worker: Worker, seq: int, now: float) -> Worker:
    return replace(worker, seq=seq, seen_at=now)


def _judged(worker: Worker, now: float, deaf: float = 0.0) -> Worker:
    return replace(worker, state=fleet.judge(worker, now=now, deaf=deaf))


def _holds(job: Job | None, worker: str, attempt: int) -> bool:
    return job is not None and job.worker == worker and job.attempt == attempt and job.state in HELD


def _intent(job: Job, event: Event) -> tuple[JobEvent, str, dict[str, object]] | None:
    """Return what `event` asks of `job`: the transition, its reason, further columns. None: it asks nothing."""
    if event.type == EventType.STARTED:
        return None
    if event.type == EventType.ACCEPTED:
        return JobEvent.ACCEPT, "", {"accept_journal": event.journal, "accept_seq": event.seq}
    if event.type != EventType.FINISHED:
        return _EVENTS[EventType(event.type)], event.reason, {}
    values: dict[str, object] = {"exit_code": event.exit_code}
    if event.outcome != FinishOutcome.SUCCEEDED:
        return JobEvent.FAIL, event.reason or "the worker's supervisor failed", values
    if job.is_task and job.final_state is None:
        return JobEvent.FAIL, "ended without a final state that the Execution API accepted", values
    return JobEvent.SUCCEED, event.reason, values


def _within(data: bytes, offset: int, limit: int) -> bytes:
    """Return what of `data`, at `offset` of a log, is kept under `limit`; a line says where the rest is missing."""
    if offset >= limit:
        return b""
    if offset + len(data) <= limit:
        return data
    kept = data[: limit - offset]
    note = b'\n{"level":"warning","logger":"airflow_mqtt.bridge","event":"Log cut here: log_limit of the bridge."}\n'
    return kept + note


def _because(reason: str) -> str:
    """What to log of a reason, which may be a worker's own words: those begin no line, and move no cursor."""
    if not reason:
        return ""
    return f": {reason if reason.isprintable() else ascii(reason):.300}"
