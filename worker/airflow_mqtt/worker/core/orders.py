"""`run` and `cancel`, as the bridge sends them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_mqtt.protocol.messages import Cancel, EventType, FinishOutcome, RejectReason, Run
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core import calls, completion
from airflow_mqtt.worker.core.effects import Force, Publish, Signal
from airflow_mqtt.worker.core.jobs import Job, Phase
from airflow_mqtt.worker.core.state import Stage, State, note, remember, report, save, say, wall

#: After a cancel the SDK hears a 410 at its next heartbeat (1 s), sends TERM, and KILL 5 s later
#: (`airflow.sdk.execution_time.supervisor.WatchedSubprocess.kill`). Only what outlives that is ours to end.
SDK_GRACE = 8.0

#: Seconds between two chunks of a log at least, whatever the order says: less is a loop that never sleeps.
LEAST_LOG_INTERVAL = 0.2


def run(state: State, queue: str, order: Run, now: float) -> None:
    """Take a job, answer a copy of an order with what became of it, or say why not."""
    order = replace(order, slots=max(1, order.slots), log_interval=max(LEAST_LOG_INTERVAL, order.log_interval))
    job = state.jobs.get(order.job)
    if job is not None and order.attempt < job.attempt:
        return
    if job is not None and order.attempt == job.attempt:
        _repeat(state, job, now)
        return
    if job is not None and not _replace(state, job, order):
        return
    if state.gone.get(order.job, -1) >= order.attempt:
        return
    if stray := strays(order.workload):
        _fail(state, order, stray, now)
        return
    why = _objection(state, queue, order, now)
    if why is None:
        _accept(state, queue, order, now)
    else:
        remember(state.refused, order.job, (order.attempt, why))
        report(state, EventType.REJECTED, order, now, reason=why)


def strays(workload: Mapping[str, Any]) -> str:
    """Return how `workload` leads out of the Dag bundle, or nothing. Airflow makes no such workload."""
    bundle = workload.get("bundle_info")
    version = bundle.get("version") if isinstance(bundle, Mapping) else None
    for name, path in (("dag_rel_path", workload.get("dag_rel_path")), ("the bundle's version", version)):
        if path is not None and not _stays_inside(path):
            return f"not run: {name} {path!a:.200} leads out of the Dag bundle"
    return ""


def _stays_inside(path: Any) -> bool:
    if not isinstance(path, str) or "\0" in path:
        return False
    return not path.startswith(("/", "\\")) and ".." not in path.replace("\\", "/").split("/")


def _fail(state: State, order: Run, why: str, now: float) -> None:
    """End a job that nobody should run, here or elsewhere: given back, it would come again for ever."""
    say(state, "error", f"job {order.job}: {why}")
    report(state, EventType.FINISHED, order, now, reason=why, outcome=FinishOutcome.FAILED, log_size=0)
    remember(state.gone, order.job, order.attempt)


def _repeat(state: State, job: Job, now: float) -> None:
    """Answer the same order again with the last event of the job."""
    payload = state.outbox.events.get(job.last_seq)
    if payload is not None:
        if state.connected:
            state.out.append(Publish(state.topic(TopicKind.EVENTS), payload))
        return
    if job.phase is not Phase.ENDED:
        kind = EventType.ACCEPTED if job.phase is Phase.ACCEPTED else EventType.STARTED
        job.last_seq = report(state, kind, job.run, now)
    elif job.closed:
        kind, details = completion.closing(job)
        job.last_seq = report(state, kind, job.run, now, **details)
    save(state, job)


def _replace(state: State, job: Job, order: Run) -> bool:
    """Make room for a newer attempt; False when the one that is here has begun, which the gate makes impossible."""
    if job.phase is Phase.RUNNING or (job.phase is Phase.ENDED and not job.closed):
        say(state, "error", f"job {job.id}: attempt {order.attempt} ordered while {job.attempt} runs; ignored")
        return False
    completion.discard(state, job)
    return True


def _objection(state: State, queue: str, order: Run, now: float) -> str | None:
    before = state.refused.get(order.job)
    if before is not None and before[0] == order.attempt:
        return before[1]  # a copy of an order that was refused already
    if state.stage is not Stage.NONE or state.maintenance or state.desired.shutdown:
        return RejectReason.DRAINING
    if queue not in state.queues:
        return RejectReason.QUEUE
    if order.kind not in state.config.kinds:
        return RejectReason.KIND
    if order.not_after is not None and wall(state, now) > order.not_after:
        return RejectReason.EXPIRED
    if state.used + order.slots > state.slots:
        return RejectReason.FULL
    if state.disk_free is not None and state.disk_free < state.config.disk_reserve:
        mib = state.disk_free // 2**20, state.config.disk_reserve // 2**20
        return f"{RejectReason.FULL.value}: {mib[0]} MiB are free on its disk, its disk_reserve is {mib[1]} MiB"
    return None


def _accept(state: State, queue: str, order: Run, now: float) -> None:
    job = Job(run=order, queue=queue)
    state.jobs[order.job] = job
    job.last_seq = report(state, EventType.ACCEPTED, order, now)
    completion.launch(state, job)


def cancel(state: State, order: Cancel, now: float) -> None:
    """End an attempt. One that is not here is confirmed at once: the bridge must not wait for it for ever."""
    job = state.jobs.get(order.job)
    if job is None or job.attempt != order.attempt:
        _confirm_absent(state, job, order, now)
        return
    if job.phase is Phase.ENDED:
        return  # its closing report is on the way, or waits for what it wrote
    if job.cancel is not None:
        return
    job.cancel = order.reason
    if job.phase is Phase.ACCEPTED and job.gate_sent:
        _stop_starting(state, job, now)
    elif job.phase is Phase.ACCEPTED:
        _drop(state, job, now)
    else:
        _stop_running(state, job, order, now)


def _confirm_absent(state: State, job: Job | None, order: Cancel, now: float) -> None:
    if job is not None and order.attempt < job.attempt:
        return  # of an attempt that the bridge itself has replaced
    report(state, EventType.CANCELLED, (order.job, order.attempt), now, reason=order.reason)
    remember(state.gone, order.job, order.attempt)


def _drop(state: State, job: Job, now: float) -> None:
    report(state, EventType.CANCELLED, job.run, now, reason=job.cancel or "", log_size=0)
    calls.refuse_waiting(state, job, job.cancel or "")
    remember(state.gone, job.id, job.attempt)
    completion.discard(state, job)


def _stop_starting(state: State, job: Job, now: float) -> None:
    """Refuse the start that its runner asks for: it says why in the task's log, where people look, and ends."""
    calls.refuse_waiting(state, job, job.cancel or "")
    job.signal_at = now + state.config.kill_grace
    save(state, job)


def _stop_running(state: State, job: Job, order: Cancel, now: float) -> None:
    note(state, job, now, f"The task is to end: {order.reason}", "warning")
    calls.refuse_waiting(state, job, order.reason)
    job.signal_at = now + SDK_GRACE + state.config.kill_grace
    save(state, job)


def resume(state: State, job: Job, now: float) -> None:
    """A runner outlived the worker: if it was to end, go on from there."""
    if job.cancel is not None:
        job.signal_at = now + SDK_GRACE + state.config.kill_grace


def escalate(state: State, now: float) -> None:
    """Go on with runners that were to end and have not: ask them, then kill the task, then its supervisor too."""
    for job in state.jobs.values():
        if job.signal_at is None or now < job.signal_at or job.phase is Phase.ENDED:
            continue
        force = Force(min(job.force + 1, Force.KILL))
        make_end(state, job, force, now, _SAID[force])


_SAID = {
    Force.TERM: "The task has not ended in time; its supervisor is sent TERM.",
    Force.KILL_TASK: "The task has not ended after TERM; its processes are killed.",
    Force.KILL: "The task's supervisor has not ended either; it is killed.",
}


def make_end(state: State, job: Job, force: Force, now: float, text: str) -> None:
    """Use `force` on a runner, say so in the task's log, and look again after `kill_grace`."""
    note(state, job, now, text, "warning")
    state.out.append(Signal(job.id, job.attempt, force))
    job.force = force
    job.signal_at = now + state.config.kill_grace
