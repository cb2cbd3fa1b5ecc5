"""How attempts end: the runner's result, cancels, the closing report, and forgetting."""

from typing import Any

from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.messages import EventType, FinishOutcome, RejectReason
from airflow_mqtt.worker.core.effects import DropCall, DropJob, Force, Launch, RemoveFiles, Signal
from airflow_mqtt.worker.core.jobs import Job, Phase, Result
from airflow_mqtt.worker.core.state import Stage, State, note, remember, report, save, say

#: A runner that dies before the gate has run nothing of the user's; it is started again, but not for ever.
MAX_LAUNCHES = 3

#: Log chunks sent again this often without an acknowledgement: the bridge does not want them.
MAX_LOG_STALLS = 20


def launch(state: State, job: Job) -> None:
    job.launches += 1
    job.alive = True
    save(state, job)
    state.out.append(Launch(job.run))


def ended(state: State, job: Job, result: Result | None, log_size: int, now: float) -> None:
    """Take the end of a runner; without `result` it died."""
    if job.phase is Phase.ENDED:
        return
    job.alive = False
    before_gate = job.phase is Phase.ACCEPTED
    wanted = job.cancel is None and state.stage is Stage.NONE
    if result is None and before_gate and wanted and job.launches < MAX_LAUNCHES:
        say(state, "warning", f"job {job.id}: its runner died before the task began; starting another")
        _drop_unstored(job)
        launch(state, job)
        return
    if result is None and before_gate and job.cancel is None and not job.gate_sent:
        # Not the job's fault: another device may do better, and this one is left alone for a while.
        say(state, "error", f"job {job.id}: no runner for it lives long enough to begin; given back")
        reject(state, job, RejectReason.RUNNER, now)
        return
    if result is None:
        job.died = "the runner died" + (" before the task began" if before_gate else "")
    _end(job, result, log_size)
    if result is None and job.cancel is None:
        note(state, job, now, f"{job.died.capitalize()}: it was killed, ran out of memory, or the device restarted.")
    if result is not None and not result.returned:
        say(state, "warning", f"job {job.id}: {result.reason}")
    save(state, job)
    close_if_ready(state, job, now)


def _end(job: Job, result: Result | None, log_size: int) -> None:
    job.phase = Phase.ENDED
    job.result = result
    job.log_size = max(log_size, job.log_acked)
    job.signal_at = None
    job.log_due = 0.0
    _drop_unstored(job)


def _drop_unstored(job: Job) -> None:
    """Forget calls that nobody waits for any more. A gate's may have let it through all the same: `gate_sent` stays."""
    job.calls.drop_waiting()


def close_if_ready(state: State, job: Job, now: float) -> None:
    """Send the last event of `job`, once all that it wrote has been answered."""
    if job.phase is not Phase.ENDED or job.closed or job.stored_calls:
        return
    kind, details = closing(job)
    job.last_seq = report(state, kind, job.run, now, **details)
    job.closed = True
    save(state, job)


def closing(job: Job) -> tuple[EventType, dict[str, Any]]:
    """Return the last event of an ended job."""
    if job.cancel is not None:
        return EventType.CANCELLED, {"reason": job.cancel, "log_size": job.log_size}
    ended_as, reason = outcome(job)
    exit_code = None if job.result is None else job.result.exit_code
    details = {"outcome": ended_as, "reason": reason, "exit_code": exit_code, "log_size": job.log_size}
    return EventType.FINISHED, details


def outcome(job: Job) -> tuple[FinishOutcome, str]:
    """Return how the supervisor of an ended job ended, and why so."""
    if job.result is None:
        return FinishOutcome.FAILED, job.died
    if not job.result.returned:
        return FinishOutcome.FAILED, job.result.reason
    work = kinds.of(job.run.workload.get("type"))
    if work is not None and not work.tracked:
        failed = job.result.exit_code != 0
        return (FinishOutcome.FAILED if failed else FinishOutcome.SUCCEEDED), job.result.reason
    if job.final is None:
        return FinishOutcome.FAILED, "the supervisor ended without a final state"
    if job.final_refused:
        return FinishOutcome.FAILED, job.refused
    return FinishOutcome.SUCCEEDED, job.refused


def reject(state: State, job: Job, why: RejectReason, now: float) -> None:
    """Give back an accepted job that has not asked for the gate."""
    report(state, EventType.REJECTED, job.run, now, reason=why.value)
    remember(state.refused, job.id, (job.attempt, why.value))
    discard(state, job)


def discard(state: State, job: Job) -> None:
    """Drop an attempt that has not run: its runner, its calls, its files."""
    if job.alive:
        state.out.append(Signal(job.id, job.attempt, Force.KILL))
    state.out.extend(DropCall(call.id) for call in job.calls if call.stored)
    state.out.append(DropJob(job.id))
    state.out.append(RemoveFiles(job.id, job.attempt))
    del state.jobs[job.id]


def forget_done(state: State) -> None:
    """Forget jobs of which all is acknowledged: the last event, and the log."""
    for job in list(state.jobs.values()):
        if not job.closed or job.last_seq > state.outbox.acked:
            continue
        if job.log_acked < job.log_size and job.log_stalls <= MAX_LOG_STALLS:
            continue
        if job.log_acked < job.log_size:
            say(state, "warning", f"job {job.id}: the bridge does not take its log; what is left is dropped")
        remember(state.gone, job.id, job.attempt)
        discard(state, job)
