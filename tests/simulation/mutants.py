"""Deliberate defects, each of which the simulation must catch: what it cannot see broken, it does not hold."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import bridge as sim_bridge
import device
import memory
import runner
import scenario

from airflow_mqtt.bridge import refresh, writer
from airflow_mqtt.bridge.calls import gate, heartbeats
from airflow_mqtt.bridge.calls.gate import Refusal
from airflow_mqtt.bridge.dispatch import duties, fleet, outage, reports, timeouts
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.database.ledger import Waiting
from airflow_mqtt.protocol.execution_api import Does
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from airflow_mqtt.protocol.jobs import settle as real_settle
from airflow_mqtt.worker.core import calls, completion, machine, orders, outbox, renewal, status
from airflow_mqtt.worker.core import effects as fx

Patch = contextlib.AbstractContextManager
MUTANTS: dict[str, Callable[[], Patch]] = {}


def mutant(name: str):
    def keep(make: Callable[[], Patch]) -> Callable[[], Patch]:
        MUTANTS[name] = make
        return make

    return keep


#: Defect -> the seed that caught it when `python -m simulation --mutants --note` ran last. Whatever changes what a
#: schedule does may make it another, which is then looked for.
CAUGHT_FILE = Path(__file__).parent / "caught.json"
CAUGHT: dict[str, int] = json.loads(CAUGHT_FILE.read_text())


def caught_at(work: tuple[str, range]) -> tuple[int, str] | None:
    """Return a seed that catches the defect, with what it violates: the one that did last, or the first that does."""
    name, seeds = work
    known = [CAUGHT[name]] if name in CAUGHT else []
    with MUTANTS[name]():
        for seed in [*known, *seeds]:
            try:
                outcome = scenario.run(seed)
            except Exception as error:
                return seed, f"{type(error).__name__}: {error}"
            if outcome.violations:
                return seed, outcome.violations[0]
    return None


@mutant("gate: opens for any request, not once")
def _():
    def verdict(job, request):
        return job if job.state in (JobState.ACCEPTED, JobState.RUNNING) else Refusal(409, "x", "x")

    return mock.patch.object(gate, "_gate_verdict", verdict)


@mutant("gate: the attempt is not checked")
def _():
    def admit(job, call, match, rights=None):
        if job is not None:
            call = replace(call, request=replace(call.request, attempt=job.attempt))
            return real_admit(replace(job, worker=call.worker), call, match)
        return real_admit(job, call, match)

    real_admit = gate.admit
    return mock.patch.object(gate, "admit", admit)


@mutant("bridge: reports of older attempts count")
def _():
    return mock.patch.object(
        reports, "settle", lambda state, attempt, event, _reported: real_settle(state, attempt, event, attempt)
    )


@mutant("bridge: acknowledges before it commits")
def _():
    real = writer.Writer._commit

    async def commit(self, draft):
        acks = [
            self.reports.messages.ack(draft.worker(n), self.reports.epoch, draft.marks.get(n, {}))
            for n in draft.answered
        ]
        self._publish([*draft.out, *acks])
        return await real(self, draft)

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(writer.Writer, "_commit", commit))
    stack.enter_context(_killed_before_commits())
    return stack


def _killed_before_commits():
    """Bridges die more often at the moment that matters."""
    real = sim_bridge.SimBridge.fate

    def fate(self, when):
        if when == "before" and self.broker.chaos and self.sim.chance(0.01, "bridge killed before commit"):
            self.die()
            return sim_bridge.Future()
        return real(self, when)

    return mock.patch.object(sim_bridge.SimBridge, "fate", fate)


@mutant("bridge: acknowledges numbers beyond a gap")
def _():
    real = reports.Reports._event

    def hear_event(self, draft, worker, event):
        if event.journal == worker.journal and event.seq > worker.seq:
            worker = replace(worker, seq=event.seq - 1)
        real(self, draft, worker, event)

    return mock.patch.object(reports.Reports, "_event", hear_event)


@mutant("bridge: `connection` is ignored, a late will counts")
def _():
    def hear(worker, message, *, live, now):
        seen = now if live and message.state != "offline" else worker.seen_at
        return replace(worker, status=message, connection=message.connection, instance=message.instance, seen_at=seen)

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(fleet, "after_status", hear))
    stack.enter_context(mock.patch.object(timeouts, "due", _lose_at_once))
    return stack


def _lose_at_once(job, worker, rules, **times):
    """With it: a running job of an offline worker is lost without waiting, as a bridge that trusts wills would do."""
    result = _real_due(job, worker, rules, **times)
    gone = worker.status is not None and worker.status.state == "offline"
    if job.state is JobState.RUNNING and gone:
        return timeouts.Due(JobEvent.LOSE, "its will was published")
    return result


_real_due = timeouts.due


@mutant("bridge: labels are ignored")
def _():
    return mock.patch.object(Waiting, "group", property(lambda self: (self.queue, ())))


@mutant("bridge: a job begins after its deadline")
def _():
    def admit(job, call, match, rights=None):
        admitted = real_admit(job, call, match, rights)
        return admitted if isinstance(admitted, Refusal) else replace(admitted, not_after=None)

    def due(job, worker, rules, **times):
        return _real_due(replace(job, not_after=None), worker, rules, **times)

    real_admit = gate.admit
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(gate, "admit", admit))
    stack.enter_context(mock.patch.object(timeouts, "due", due))
    stack.enter_context(mock.patch.object(duties.Duties, "end_late", lambda *_: None))
    return stack


@mutant("bridge: a running job goes back to the queue when its worker is gone")
def _():
    from airflow_mqtt.protocol import jobs

    def due(job, worker, rules, **times):
        if job.state is JobState.RUNNING and worker.state in timeouts.GONE:
            return timeouts.Due(JobEvent.RELEASE, "gone")
        return _real_due(job, worker, rules, **times)

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(timeouts, "due", due))
    stack.enter_context(mock.patch.dict(jobs.TABLE, {(JobState.RUNNING, JobEvent.RELEASE): JobState.QUEUED}))
    return stack


@mutant("bridge: what is claimed is never published again")
def _():
    def due(job, worker, rules, **times):
        result = _real_due(job, worker, rules, **times)
        return timeouts.NOTHING if job.state is JobState.DISPATCHED else result

    return mock.patch.object(timeouts, "due", due)


@mutant("bridge: its own deafness counts as the fleet's silence")
def _():
    return mock.patch.object(Draft, "excuse", lambda self, seconds: setattr(self, "excused", seconds))


@mutant("bridge: its own sleep counts as the fleet's silence")
def _():
    return mock.patch.object(outage, "GAP", float("inf"))


@mutant("bridge: a birth does not settle what was forgotten")
def _():
    return mock.patch.object(reports.Reports, "_settle_birth", lambda *_: None)


@mutant("bridge: a birth counts however late it comes")
def _():
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(fleet, "is_late", lambda _worker, _born: False))
    stack.enter_context(mock.patch.object(fleet, "_past", lambda _worker, _born: ()))
    stack.enter_context(mock.patch.object(fleet, "should_hold", lambda _job, _born: True))
    return stack


@mutant("bridge: a deposed leader still writes")
def _():
    async def begin(self):
        await self._pause()

    real = memory.MemoryLedger.commit

    async def commit(self, writes):
        epoch, self._epoch = self._epoch, self._db.epoch
        try:
            return await real(self, writes)
        finally:
            self._epoch = epoch

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(memory.MemoryLedger, "_begin", begin))
    stack.enter_context(mock.patch.object(memory.MemoryLedger, "commit", commit))
    return stack


@mutant("bridge: writes are no compare-and-set")
def _():
    return mock.patch.object(memory.MemoryLedger, "_is_as_seen", lambda *_: True)


@mutant("bridge: heartbeats before Airflow has accepted the start")
def _():
    def wanted(jobs):
        return [job for job in jobs if job.state is JobState.RUNNING and job.final_state is None]

    return mock.patch.object(heartbeats, "wanted", wanted)


@mutant("bridge: the finished event counts without an accepted final state")
def _():
    real = gate.note_answer

    def note_answer(draft, job, *, started, final_state, token):
        real(draft, job, started=started, final_state=None, token=token)

    return mock.patch.object(gate, "note_answer", note_answer)


@mutant("bridge: says that a final state has ended a job, and leaves it as it is")
def _():
    return mock.patch.object(reports.Reports, "end", lambda *_: True)


@mutant("memory: changes before the commit")
def _():
    async def commit(self, draft):
        writes = draft.writes()
        for job in draft.jobs.values():
            self.living.put_job(job)
        for worker in draft.workers.values():
            self.living.put_worker(worker)
        return await self._ledger.commit(writes) if writes else writer.Committed({})

    return mock.patch.object(writer.Writer, "_commit", commit)


@mutant("memory: what a lost answer to a commit did is not read again")
def _():
    async def make_sure(self):
        self.unsure = set()

    return mock.patch.object(refresh.Refresh, "make_sure", make_sure)


@mutant("memory: it is not loaded anew at a takeover")
def _():
    real = memory.MemoryLedger.snapshot

    async def snapshot(self):
        return replace(await real(self), jobs=[])

    return mock.patch.object(memory.MemoryLedger, "snapshot", snapshot)


@mutant("memory: what others have changed is read neither after a conflict nor as news")
def _():
    async def after_conflict(self, conflict, *, last):
        return frozenset(conflict.jobs)

    real = refresh.Refresh._take_in

    def take_in(self, news):
        known = {*self._living.jobs, *self._living.waiting}
        real(self, replace(news, jobs=[job for job in news.jobs if job.id not in known]))

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(refresh.Refresh, "after_conflict", after_conflict))
    stack.enter_context(mock.patch.object(refresh.Refresh, "_take_in", take_in))
    return stack


@mutant("memory: a wish of the scheduler is overlooked")
def _():
    real = memory.MemoryLedger._is_as_seen

    def is_as_seen(self, change):
        seen = replace(change.seen, cancel_reason=self._db.rows[change.id]["cancel_reason"])
        return real(self, replace(change, seen=seen))

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(memory.MemoryLedger, "_is_as_seen", is_as_seen))
    stack.enter_context(mock.patch.object(duties.Duties, "carry_out_wishes", lambda *_: None))
    return stack


@mutant("memory: the gate opens before the commit")
def _():
    def submit(self, name, script):
        draft = Draft(self.living, self._clock())
        result = script(draft)
        real(self, name, script)
        future = self._future()
        future.set_result(result)
        return future

    real = writer.Writer.submit
    return mock.patch.object(writer.Writer, "submit", submit)


@mutant("memory: the gate opens for a job whose end is wished")
def _():
    real = gate.open_gate

    def open_gate(draft, call, match):
        job = draft.job(call.request.job)
        if job is None or job.cancel_reason is None:
            return real(draft, call, match)
        with mock.patch.object(Draft, "job", lambda self, id_: replace(job, cancel_reason=None)):
            return real(draft, call, match)

    return mock.patch.object(gate, "open_gate", open_gate)


@mutant("memory: a job is placed that the scheduler has ended in its queue")
def _():
    real = memory.MemoryLedger._is_as_seen

    def is_as_seen(self, change):
        return change.seen.state == "queued" or real(self, change)

    return mock.patch.object(memory.MemoryLedger, "_is_as_seen", is_as_seen)


@mutant("worker: no resend after a new epoch or connection")
def _():
    def introduce(self, now):
        if self.state.births == 0 and self.state.connection <= 1:
            return real(self, now)
        self.state.born_heard = True
        return None

    real = machine.Core._introduce
    return mock.patch.object(machine.Core, "_introduce", introduce)


@mutant("worker: an introduction that got lost is not repeated")
def _():
    real_born = status.born

    def born(state, now):
        real_born(state, now)
        state.born_heard = True

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(status, "born", born))
    stack.enter_context(mock.patch.object(machine, "BIRTH_PAUSE", float("inf")))
    return stack


@mutant("worker: events are deleted when sent, not when acknowledged")
def _():
    real = outbox.Outbox.to_send

    def to_send(self, now):
        found = real(self, now)
        if found:
            self.acknowledge(self.sent, now)
        return found

    return mock.patch.object(outbox.Outbox, "to_send", to_send)


@mutant("worker: events are not in the journal")
def _():
    real = device.Device._keep

    def keep(self, effect):
        if not isinstance(effect, fx.SaveEvent):
            real(self, effect)

    return mock.patch.object(device.Device, "_keep", keep)


@mutant("worker: publishes before the journal's commit")
def _():
    def perform(self):
        while effects := self.core.take():
            for effect in effects:
                self._act(effect)
                if not self.up:
                    return
            if self.broker.chaos and self.sim.chance(0.005, "killed before the journal's commit"):
                self.crash(power=False)
                return
            for effect in effects:
                self._keep(effect)

    return mock.patch.object(device.Device, "_perform", perform)


@mutant("worker: a final state is answered and not stored")
def _():
    real = device.Device._keep

    def keep(self, effect):
        if not isinstance(effect, fx.SaveCall):
            real(self, effect)

    return mock.patch.object(device.Device, "_keep", keep)


@mutant("worker: `finished` does not wait for what the task wrote")
def _():
    def close(state, job, now):
        if job.phase is not completion.Phase.ENDED or job.closed:
            return
        kind, details = completion.closing(job)
        job.last_seq = completion.report(state, kind, job.run, now, **details)
        job.closed = True
        completion.save(state, job)

    return mock.patch.object(completion, "close_if_ready", close)


@mutant("worker: any answer to a final state is the end of its job")
def _():
    real = calls._settle

    def settle(state, job, call, response, now):
        real(state, job, call, replace(response, ended=call.does is Does.END), now)

    return mock.patch.object(calls, "_settle", settle)


@mutant("worker: calls are not sent again")
def _():
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(calls, "RESEND_CALL_AFTER", float("inf")))
    stack.enter_context(mock.patch.object(calls, "resend", lambda *_: None))
    return stack


@mutant("worker: user code starts without waiting for the gate")
def _():
    def through(self, status):
        real(self, 200)

    real = runner.Runner._through
    return mock.patch.object(runner.Runner, "_through", through)


@mutant("worker: a runner is started again after a crash, past the gate")
def _():
    def found(self, job, *, alive, result, log_size, now):
        held = self.state.jobs[job]
        if not alive and result is None and held.phase is machine.Phase.RUNNING:
            held.phase = machine.Phase.ACCEPTED
        real(self, job, alive=alive, result=result, log_size=log_size, now=now)

    real = machine.Core.found

    def verdict(job, request):
        return job if job.state in (JobState.ACCEPTED, JobState.RUNNING) else Refusal(409, "x", "x")

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(machine.Core, "found", found))
    stack.enter_context(mock.patch.object(gate, "_gate_verdict", verdict))
    return stack


@mutant("worker: a copy of an order is a new order")
def _():
    real = orders.run

    def run(state, queue, order, now):
        job = state.jobs.get(order.job)
        if job is not None and job.attempt == order.attempt and job.phase is not orders.Phase.ENDED:
            completion.discard(state, job)
        state.gone.pop(order.job, None)
        real(state, queue, order, now)

    return mock.patch.object(orders, "run", run)


@mutant("worker: log offsets are not rewound")
def _():
    from airflow_mqtt.worker.core import logs

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(logs, "rewind", lambda *_: None))
    stack.enter_context(mock.patch.object(logs, "_rewind_stalled", lambda *_: None))
    return stack


@mutant("worker: its journal keeps its name when the power comes back")
def _():
    return mock.patch.object(renewal, "at_start", lambda *_: None)


@mutant("worker: … and what the bridge knows of it is not compared")
def _():
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(renewal, "at_start", lambda *_: None))
    stack.enter_context(mock.patch.object(machine.Core, "_superseded", lambda *_: ""))
    return stack


@mutant("worker: told that its journal is past, it keeps it")
def _():
    return mock.patch.object(machine.Core, "_superseded", lambda *_: "")


@mutant("worker: what waits is not carried over to a journal's new name")
def _():
    def renew(state, connection=0):
        state.outbox.events.clear()
        real(state, connection)

    real = renewal.renew
    return mock.patch.object(renewal, "renew", renew)


@mutant("bridge: a journal that was replaced is not told")
def _():
    return mock.patch.object(reports.Reports, "_renew", lambda *_: None)
