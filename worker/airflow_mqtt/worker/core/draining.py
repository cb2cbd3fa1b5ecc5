"""The way to a clean stop: take nothing, wait, TERM, KILL, send what is left, say goodbye."""

from airflow_mqtt.protocol.messages import OfflineReason, RejectReason, ReportedState
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core import completion, orders, status
from airflow_mqtt.worker.core.effects import Force, Stop
from airflow_mqtt.worker.core.jobs import Phase
from airflow_mqtt.worker.core.state import Stage, State, say


def signal(state: State, now: float) -> None:
    """Take a signal to stop. The first begins a drain, the second asks what runs to end, the third kills it."""
    if state.stage is Stage.NONE:
        _wait(state, now)
    elif state.stage is Stage.WAIT:
        _term(state, now, "a second signal")
    elif state.stage is Stage.TERM:
        _kill(state, now)
    advance(state, now)


def _wait(state: State, now: float) -> None:
    state.stage = Stage.WAIT
    state.stage_until = now + state.config.drain_timeout
    for job in list(state.jobs.values()):
        if job.phase is Phase.ACCEPTED and not job.gate_sent:
            completion.reject(state, job, RejectReason.DRAINING, now)
    running = len(_alive(state))
    say(state, "info", f"stopping: no more jobs are taken; {running} running, waiting {state.config.drain_timeout:g} s")


def _alive(state: State) -> list[str]:
    return [job.id for job in state.jobs.values() if job.phase is not Phase.ENDED]


def _term(state: State, now: float, why: str) -> None:
    state.stage = Stage.TERM
    state.stage_until = now + state.config.kill_grace
    _use(state, Force.TERM, now, f"The worker is stopping ({why}); the task is sent TERM.")


def _kill(state: State, now: float) -> None:
    """Kill the tasks; `orders.escalate` kills those supervisors that do not end with them."""
    state.stage = Stage.KILL
    state.stage_until = now + 2 * state.config.kill_grace
    _use(state, Force.KILL_TASK, now, "The worker is stopping and the task has not ended; it is killed.")


def _use(state: State, force: Force, now: float, text: str) -> None:
    for job in state.jobs.values():
        if job.phase is not Phase.ENDED and job.force < force:
            orders.make_end(state, job, force, now, text)


def advance(state: State, now: float) -> None:
    """Go to the next stage when it is time, or when nothing runs any more."""
    if state.stage in (Stage.NONE, Stage.STOPPED):
        return
    if state.stage < Stage.FLUSH and not _alive(state):
        state.stage = Stage.FLUSH
        state.stage_until = now + state.config.flush_timeout
    overdue = now >= state.stage_until
    if state.stage is Stage.WAIT and overdue:
        _term(state, now, f"waited {state.config.drain_timeout:g} s")
    elif state.stage is Stage.TERM and overdue:
        _kill(state, now)
    elif state.stage is Stage.KILL and overdue:
        say(state, "error", "stopping although runners could not be killed; they are looked for at the next start")
        _stop(state, now)
    elif state.stage is Stage.FLUSH and (overdue or not state.connected or _flushed(state)):
        _stop(state, now)


def _flushed(state: State) -> bool:
    return not state.jobs and not state.outbox.events


def _stop(state: State, now: float) -> None:
    state.stage = Stage.STOPPED
    left = len(state.outbox.events)
    if left:
        say(state, "warning", f"stopping with {left} reports unacknowledged; they are sent at the next start")
    farewell = status.of(state, now, ReportedState.OFFLINE, OfflineReason.STOPPED)
    state.out.append(Stop(state.topic(TopicKind.STATUS), farewell.encode()))
