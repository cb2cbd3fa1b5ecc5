"""What the messages of workers do: scripts over a `Draft`. Pure.

A script asks the pure functions (`fleet`, `placement`, `protocol.jobs`), changes the draft, and adds what is published
once that has committed.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from airflow_mqtt.bridge.dispatch import fleet, placement
from airflow_mqtt.bridge.draft import ROW, Draft
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.outbox import Messages, Outgoing
from airflow_mqtt.database.records import Job, Worker, replaced
from airflow_mqtt.protocol import task_log
from airflow_mqtt.protocol.codec import JsonObject
from airflow_mqtt.protocol.jobs import HELD, TERMINAL, JobEvent, JobState, Verdict, settle
from airflow_mqtt.protocol.messages import (
    MAX_INTEGER,
    MAX_TAIL,
    Born,
    Event,
    EventType,
    FinishOutcome,
    HeldState,
    LogChunk,
    Request,
    UnsupportedBirth,
    WorkerInfo,
    WorkerStatus,
)

log = logging.getLogger(__name__)

#: Seconds in which a worker is asked once to introduce a journal.
ASK_INTERVAL: Final = 1.0

#: What a report asks of the job. `started` is information: only the start gate starts a job.
_EVENTS = {
    EventType.REJECTED: JobEvent.REJECT,
    EventType.CANCELLED: JobEvent.CONFIRM,
}

#: How many attempts that a worker must let go of it is told at a birth. What is more, the next birth tells.
_DROPS = 256

#: How many jobs one acknowledgement names: about 6 KiB.
_MARKS = 64

_NOT_HELD = "not held any more"


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


@dataclass(frozen=True, slots=True)
class Reports:
    """The scripts of the leader called `by`, with one `epoch`. `log_limit` is in bytes."""

    messages: Messages
    epoch: int
    by: str
    log_limit: int

    def unknown_jobs(self, draft: Draft, heard: Heard) -> list[str]:
        """Return the jobs whose rows must be read before `heard` can be applied: they ended long ago, if at all."""
        match heard.message:
            case LogChunk():
                ids = [heard.job]
            case Born() as born:
                ids = [item.job for item in born.held()]
            case _:
                return []
        return [id_ for id_ in ids if draft.job(id_) is None and id_ not in draft.living.waiting]

    def apply(self, draft: Draft, heard: Heard) -> None:
        """Do what one message asks for."""
        worker = draft.worker(heard.worker)
        match heard.message:
            case WorkerStatus() as status:
                self._status(draft, worker, status, live=heard.live)
            case WorkerInfo() as info:
                draft.save_worker(fleet.after_info(worker, info))
                draft.then(lambda: draft.living.resume(worker.name))
            case UnsupportedBirth() as birth:
                self._refuse(draft, worker, birth)
            case Born() as born:
                self._birth(draft, worker, born)
            case Event() as event:
                self._event(draft, worker, event)
            case LogChunk() as chunk:
                self._log(draft, worker, heard.job, chunk)

    def finish(self, draft: Draft) -> None:
        """Settle what a batch said together, when all of its messages have been applied."""
        for name, (born, script) in draft.births.items():
            draft.script = script
            self._settle_birth(draft, name, born)
        for name, worker in list(draft.workers.items()):
            self._judge(draft, name, worker)

    def acks(self, living: Living, now: float) -> list[Outgoing]:
        """Return the acknowledgements that are due. They say what has been committed by now."""
        found = []
        for name in living.due_acks(now):
            marks = living.acks.pop(name)
            worker = living.workers.get(name)
            if marks is not None and worker is not None and worker.journal:
                found += self._acks_of(worker, marks)
        return found

    def answers(self, living: Living, name: str, answers: Sequence[JsonObject]) -> list[Outgoing]:
        """Return the message with `answers` to a worker that takes several in one, and with what else it is to hear."""
        worker = living.workers[name]
        *before, last = self._parts(living.acks.pop(name) or {})
        acks = [self.messages.ack(worker, self.epoch, part) for part in before]
        return [*acks, self.messages.ack(worker, self.epoch, last, answers)]

    def end(self, draft: Draft, worker: str, request: Request) -> bool:
        """End an attempt whose last call, its final state, was accepted, as `finished` does; whether it has ended."""
        event = Event(
            type=EventType.FINISHED.value,
            journal=request.journal,
            seq=0,
            job=request.job,
            attempt=request.attempt,
            ts=0.0,
            outcome=FinishOutcome.SUCCEEDED.value,
            exit_code=request.exit_code,
        )
        self._settle(draft, draft.worker(worker), event)
        job = draft.job(request.job)
        return job is not None and job.attempt == request.attempt and job.state in TERMINAL

    def _acks_of(self, worker: Worker, marks: dict[str, int]) -> list[Outgoing]:
        return [self.messages.ack(worker, self.epoch, part) for part in self._parts(marks)]

    @staticmethod
    def _parts(marks: dict[str, int]) -> list[dict[str, int]]:
        """Several, where one would be larger than a broker may take: then none of what it says would be heard."""
        return [dict(list(marks.items())[at : at + _MARKS]) for at in range(0, len(marks), _MARKS)] or [{}]

    def _judge(self, draft: Draft, name: str, worker: Worker) -> None:
        before = draft.living.workers.get(name)
        after = fleet.judge(fleet.noted(worker, draft.living.least), now=draft.now)
        draft.workers[name] = after
        if fleet.has_shut_down(after):
            draft.followed[name] = after.desired
            draft.then(lambda: log.info("worker %s: has followed its shutdown, which is over", name))
        if before is None or before.state is not after.state:
            draft.say(name, log.info, "worker %s: %s", name, after.state)
        if after.note and (before is None or before.note != after.note):
            draft.say(name, log.warning, "worker %s: %s", name, after.note)

    # --- workers ------------------------------------------------------------------------------------------

    @staticmethod
    def _status(draft: Draft, worker: Worker, status: WorkerStatus, *, live: bool) -> None:
        if live and not fleet.knows(worker, status):
            draft.then(lambda: draft.living.early.__setitem__(worker.name, status))
        after = fleet.after_status(worker, status, live=live, now=draft.now)
        if after is not worker:
            draft.save_worker(after)
            if (note := after.clock.note) and not worker.clock.note:
                draft.then(lambda: log.warning("worker %s: %s; times in its calls are corrected", worker.name, note))

    def _refuse(self, draft: Draft, worker: Worker, birth: UnsupportedBirth) -> None:
        """Answer a worker that cannot be taken. A task that it ran before lives, and its events go on to count."""
        why = fleet.refusal(birth.protocol)
        living, name = draft.living, worker.name
        if living.refused.get(name) != why:
            draft.then(lambda: living.refused.__setitem__(name, why))
            draft.say(name, log.error, "worker %s is refused: %s", name, why)
        if birth.journal == worker.journal:
            draft.save_worker(replaced(worker, seen_at=draft.now))
        draft.refused.append("protocol")
        draft.publish(self.messages.refuse(worker.name, birth.journal, self.epoch, why))

    def _birth(self, draft: Draft, worker: Worker, born: Born) -> None:
        draft.then(lambda: draft.living.refused.pop(worker.name, None))
        draft.acknowledge(worker.name, waits=True)
        if born.journal in worker.past_journals:
            self._renew(draft, worker.name, born.journal)
        elif not fleet.is_late(worker, born):
            after = fleet.after_birth(worker, born, draft.now)
            early = draft.living.early.get(worker.name)
            if early is not None:
                after = fleet.after_status(after, early, live=True, now=draft.now)
                draft.then(lambda: draft.living.early.pop(worker.name, None))
            draft.save_worker(after)
            self._say_unallowed(draft, after)
            # Settled once: it says all that those before it said.
            draft.births[worker.name] = (born, draft.script)

    @staticmethod
    def _say_unallowed(draft: Draft, worker: Worker) -> None:
        """Say, once, that a worker will get nothing of what it says that it serves."""
        living, name = draft.living, worker.name
        unallowed = sorted(queue for queue in worker.queues if not living.access.may_serve(name, queue))

        def say() -> None:
            if living.told(name, *unallowed):
                log.warning(
                    "worker %s says that it serves %.300r, and may not; `airflow mqtt allow %s QUEUE` lets it",
                    name, unallowed, name,
                )  # fmt: skip

        if unallowed:
            draft.then(say)

    def _renew(self, draft: Draft, name: str, journal: str) -> None:
        """Tell a journal that another has replaced, if it still lives, to come as a new one."""
        if draft.living.renewed.get(name) != journal:
            draft.then(lambda: draft.living.renewed.__setitem__(name, journal))
            text = "worker %s: its journal %s was replaced by another; if it is back, it takes a new name"
            draft.say(name, log.info, text, name, journal)
        draft.publish(self.messages.renew(name, journal, self.epoch))

    def _settle_birth(self, draft: Draft, name: str, born: Born) -> None:
        """Settle what a worker says that it holds with what we say that it holds."""
        held = {(item.job, item.attempt) for item in born.held()}
        for job in draft.jobs_of(name):
            if (job.id, job.attempt) not in held and fleet.should_hold(job, born):
                self._forgotten(draft, job, name)
        strange = [
            item
            for item in born.held()
            if not _holds(draft.job(item.job), name, item.attempt)
            and not (item.state == HeldState.ENDED and (draft.job(item.job) or item.job in draft.living.waiting))
        ]
        for item in strange[:_DROPS]:
            self._drop(draft, name, item.job, item.attempt)

    def _forgotten(self, draft: Draft, job: Job, name: str) -> None:
        """A job that we gave to worker `name` and that it does not hold."""
        if job.state is JobState.DISPATCHED:
            draft.publish_again(job)
            return
        event = {
            JobState.ACCEPTED: JobEvent.RELEASE,
            JobState.RUNNING: JobEvent.LOSE,
            JobState.CANCELLING: JobEvent.CONFIRM,
        }[job.state]
        cancelling = job.state is JobState.CANCELLING
        draft.move(job, event, by=self.by, reason=job.reason if cancelling else f"worker {name} came back without it")

    # --- jobs ---------------------------------------------------------------------------------------------

    def _event(self, draft: Draft, worker: Worker, event: Event) -> None:
        """Apply a numbered event, if its number is the next one."""
        if event.journal != worker.journal:
            if event.journal not in worker.past_journals:
                self._ask_birth(draft, worker.name, event.journal)
            return
        is_next = event.seq == worker.seq + 1
        draft.acknowledge(worker.name, waits=not is_next)
        if not is_next:
            return  # known already, or beyond a gap: the acknowledgement says where we are
        self._settle(draft, worker, event)
        draft.save_worker(replaced(worker, seq=event.seq, seen_at=draft.now))

    def _ask_birth(self, draft: Draft, name: str, journal: str) -> None:
        """Once in `ASK_INTERVAL`: a worker may send its whole outbox before it hears that we do not know it."""
        living, now = draft.living, draft.now
        before, at = living.asked.get(name, ("", 0.0))
        if name in draft.asked or (before == journal and 0 <= now - at < ASK_INTERVAL):
            return
        draft.asked.add(name)
        draft.publish(self.messages.ask_birth(name, journal, self.epoch))
        draft.then(lambda: living.asked.__setitem__(name, (journal, now)))

    def _settle(self, draft: Draft, worker: Worker, event: Event) -> None:
        job = draft.job(event.job)
        if job is None or job.worker != worker.name:
            self._drop_stale(draft, worker, event)
            return
        intent = _intent(job, event)
        if intent is None:
            return
        job_event, reason, values = intent
        if job.state is JobState.CANCELLING:
            reason = job.reason  # who wanted the end, the executor reads there
        verdict = settle(job.state, job.attempt, job_event, event.attempt)
        if verdict is not Verdict.APPLY:
            self._note_verdict(draft, verdict, worker, event, job)
            return
        after = draft.move(job, job_event, by=f"worker:{worker.name}", reason=reason, **values)
        self._note_move(draft, worker, event, after)

    def _note_move(self, draft: Draft, worker: Worker, event: Event, after: Job) -> None:
        living, now, name = draft.living, draft.now, worker.name
        if event.type == EventType.REJECTED:
            draft.then(lambda: living.pause(name, placement.after_rejection(now)))
        elif name in living.pauses:
            draft.then(lambda: living.resume(name))
        if log.isEnabledFor(logging.INFO):
            why = because(after.reason)
            draft.say(after.id, log.info, "job %s: %s by worker %s%s", after.id, after.state, name, why)

    def _note_verdict(self, draft: Draft, verdict: Verdict, worker: Worker, event: Event, job: Job) -> None:
        if verdict is Verdict.DUPLICATE:
            return
        if verdict is Verdict.REFUSED:
            said = (job.id, worker.name, event.type, event.attempt, job.state, job.attempt)
            what = "job %s: worker %s says %s of attempt %d, but the job is %s in attempt %d"
            draft.say(worker.name, log.warning, what, *said)
        self._drop_stale(draft, worker, event)

    def _drop_stale(self, draft: Draft, worker: Worker, event: Event) -> None:
        """Tell a worker that goes on with what is not its own to stop."""
        if event.type in (EventType.ACCEPTED, EventType.STARTED):
            self._drop(draft, worker.name, event.job, event.attempt)

    def _drop(self, draft: Draft, worker: str, job_id: str, attempt: int) -> None:
        job = draft.job(job_id) or draft.living.waiting.get(job_id)
        queue = job.queue if job else "unknown"
        draft.publish(self.messages.drop(worker, queue, job_id, attempt, _NOT_HELD))

    def _log(self, draft: Draft, worker: Worker, job_id: str, chunk: LogChunk) -> None:
        """Append a chunk of log, if it is that of the current attempt and continues what is there."""
        job = draft.job(job_id)
        draft.acknowledge(worker.name, waits=True)
        marks = draft.marks.setdefault(worker.name, {})
        data = chunk.data
        if job is None or job.worker != worker.name or job.attempt < chunk.attempt:
            marks[job_id] = chunk.offset + len(data)  # nobody will ever read it: let the worker forget it
            return
        if chunk.attempt < job.attempt:
            return  # a mark names no attempt: it would be taken for one of the newer, which this worker gets or has
        after = after_chunk(job, chunk.offset, data, left=chunk.left, tail=chunk.tail)
        marks[job_id] = after.log_bytes
        for offset, fresh in new_bytes(job, after, chunk.offset, data):
            is_tail = after.log_bytes == job.log_bytes
            kept = tail_within(fresh, job, self.log_limit) if is_tail else within(fresh, job, self.log_limit, draft.now)
            draft.log_bytes_lost += max(0, len(fresh) - len(kept))
            draft.store_log(job, after, offset, kept)


def after_chunk(job: Job, offset: int, data: bytes, *, left: int, tail: bool) -> Job:
    """Return what is known of the job's log after this chunk of it; `job` itself when it brings nothing.

    A chunk continues what is there. The end of a log may come before its middle, once: when that has come so far, the
    log reaches to the end's end. Until then `log_size` is that, and does not grow.
    """
    end = offset + len(data)
    if tail and offset > job.log_bytes:
        new = job.log_tail is None and 0 < len(data) <= MAX_TAIL
        return replaced(job, log_tail=offset, log_size=end) if new else job
    if not offset <= job.log_bytes < end:
        return job
    if not job.waits_for_log:
        return replaced(job, log_bytes=end, log_size=max(job.log_size, min(end + left, MAX_INTEGER)))
    assert job.log_tail is not None
    return replaced(job, log_bytes=end if end < job.log_tail else job.log_size)


def new_bytes(before: Job, after: Job, offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """Return what of a chunk is new, with its offset: no byte of a log is stored twice."""
    if after is before:
        return []
    if after.log_bytes == before.log_bytes:  # the end, before the middle
        return [(offset, data)]
    upto = before.log_tail if before.waits_for_log else None
    return [(before.log_bytes, data[before.log_bytes - offset : None if upto is None else max(0, upto - offset)])]


def _holds(job: Job | None, worker: str, attempt: int) -> bool:
    return job is not None and job.worker == worker and job.attempt == attempt and job.state in HELD


def _intent(job: Job, event: Event) -> tuple[JobEvent, str, dict[str, object]] | None:
    """Return what `event` asks of `job`: the transition, its reason, further columns. None: it asks nothing."""
    if event.type == EventType.STARTED:
        return None
    if event.type == EventType.ACCEPTED:
        return JobEvent.ACCEPT, "", {"accept_journal": event.journal, "accept_seq": event.seq}
    if event.type != EventType.FINISHED:
        return _EVENTS[EventType(event.type)], event.reason, _size(job, event)
    values: dict[str, object] = {"exit_code": event.exit_code, **_size(job, event)}
    if event.outcome != FinishOutcome.SUCCEEDED:
        return JobEvent.FAIL, event.reason or "the worker's supervisor failed", values
    if job.is_tracked and job.final_state is None:
        return JobEvent.FAIL, "ended without a final state that the Execution API accepted", values
    return JobEvent.SUCCEED, event.reason, values


def _size(job: Job, event: Event) -> dict[str, object]:
    """Return what the last report says of the log's size."""
    known = not job.waits_for_log and event.log_size is not None and event.log_size > job.log_size
    return {"log_size": event.log_size} if known else {}


def tail_within(data: bytes, job: Job, limit: int) -> bytes:
    """Return what of `data`, the end of the log of `job`, is kept: all, unless others went beyond `limit` already."""
    return data if job.log_stored < limit + MAX_TAIL else b""


def within(data: bytes, job: Job, limit: int, now: float) -> bytes:
    """Return what of `data`, the next of the log of `job`, is kept under `limit`; a line says where more is missing.

    The limit is for all attempts of the job together, and for what their rows cost.
    """
    if job.log_stored >= limit and job.log_bytes:
        return b""
    if job.log_stored + ROW + len(data) <= limit:
        return data
    text = f"Log cut here: it is larger than log_limit of the bridge ({limit} bytes)."
    return data[: max(0, limit - job.log_stored)] + b"\n" + task_log.line(now, "warning", text, "airflow_mqtt.bridge")


def because(reason: str) -> str:
    """What to log of a reason, which may be a worker's own words: those begin no line, and move no cursor."""
    if not reason:
        return ""
    return f": {reason if reason.isprintable() else ascii(reason):.300}"
