"""Small changes to a state, shared by what the bridge, the workers and chance do to it."""

from airflow_mqtt.protocol import jobs
from airflow_mqtt.protocol.jobs import JobEvent
from airflow_mqtt.protocol.jobs import JobState as S
from model import real
from model.state import Hold, Launch, Message, Row, Rules, State, Worker

#: As plain texts, whose hash is not that of the enum's members.
HELD = frozenset(state.value for state in jobs.HELD)
TERMINAL = frozenset(state.value for state in jobs.TERMINAL)
QUEUED, DISPATCHED, ACCEPTED = S.QUEUED.value, S.DISPATCHED.value, S.ACCEPTED.value
RUNNING, CANCELLING, SUCCEEDED = S.RUNNING.value, S.CANCELLING.value, S.SUCCEEDED.value


def with_row(state: State, job: int, row: Row) -> State:
    rows = state.rows
    return state._replace(rows=(*rows[:job], row, *rows[job + 1 :]))


def with_worker(state: State, number: int, worker: Worker) -> State:
    workers = state.workers
    return state._replace(workers=(*workers[:number], worker, *workers[number + 1 :]))


def send(state: State, *messages: Message) -> State:
    return state._replace(net=state.net.union(messages))


def disturb(state: State) -> State | None:
    """Return `state` with one disturbance less to come; None when there is none left."""
    return state._replace(left=state.left - 1) if state.left else None


def with_hold(worker: Worker, job: int, hold: Hold | None) -> Worker:
    return worker._replace(holds=(*worker.holds[:job], hold, *worker.holds[job + 1 :]))


def with_gone(worker: Worker, job: int, attempt: int) -> Worker:
    newest = max(worker.gone[job], attempt)
    return worker._replace(gone=(*worker.gone[:job], newest, *worker.gone[job + 1 :]))


def with_report(worker: Worker, kind: str, job: int, attempt: int) -> Worker:
    return worker._replace(outbox=(*worker.outbox, (kind, job, attempt)))


def moved(row: Row, event: JobEvent) -> Row | None:
    """Return `row` after `event`, as `transitions.move` changes it; None when the table has no such move."""
    after = real.next_state(row.state, event.value)
    if after is None:
        return None
    if after == QUEUED:
        return row._replace(state=after, attempt=row.attempt + 1, worker=None, gate=None, accepted_in=None, since=0)
    if after == RUNNING:
        return row._replace(state=after, begun=True)
    return row._replace(state=after, pending=row.pending or after in TERMINAL)


def is_held(row: Row, worker: int, attempt: int) -> bool:
    return row.worker == worker and row.attempt == attempt and row.state in HELD


def leave_ask(state: State, number: int, job: int, hold: Hold | None) -> State:
    """A runner that waits at the gate goes away: copies of its request may still arrive."""
    if hold is None or hold.phase != "accepted":
        return state
    return send(state, ("ask", number, job, hold.attempt, hold.launch))


def begin(state: State, number: int, job: int, attempt: int) -> State:
    """User code begins. That it does so once for each job is the promise."""
    row = state.rows[job]
    row = row._replace(starts=row.starts + 1, ran_on=(number, attempt), ended=False)
    state = with_row(state, job, row)
    return state if row.starts == 1 else state._replace(broken=f"user code of job {job} began twice")


def undisturbed(state: State) -> State:
    """Return `state` when all that is under way has been lost, with no disturbance to come.

    What only the past knows, or only tells past launches apart, is made the same in all such states.
    """
    rows = tuple(_future_of(state, row, job) for job, row in enumerate(state.rows))
    workers = tuple(_future_of_worker(state, worker) for worker in state.workers)
    return State(rows=rows, workers=workers, net=frozenset(), epoch=1, left=0)


def _future_of(state: State, row: Row, job: int) -> Row:
    gate = row.gate
    if gate is not None and row.worker is not None:
        hold = state.workers[row.worker].holds[job]
        gate = (gate[0], 0) if hold is not None and hold.launch == gate else (-1, 0)
    return row._replace(gate=gate, starts=0, ran_on=None, ended=False)


def _future_of_worker(state: State, worker: Worker) -> Worker:
    holds = tuple(
        hold and hold._replace(launch=(hold.launch[0], 0 if hold.launch == row.gate else 1))
        for hold, row in zip(worker.holds, state.rows, strict=True)
    )
    gone = tuple(
        row.attempt if attempt >= row.attempt else 0 for attempt, row in zip(worker.gone, state.rows, strict=True)
    )
    epoch = 1 if worker.epoch == state.epoch else 0
    return worker._replace(holds=holds, gone=gone, epoch=epoch, boot=2, old=())


def tidied(state: State, rules: Rules) -> State:
    """Drop messages that can do nothing any more, so that states which differ only by them are one."""
    forgets = state.left > 0
    net = frozenset(message for message in state.net if _matters(state, message, forgets, rules))
    state = state if len(net) == len(state.net) else state._replace(net=net)
    return _without_useless_ages(state)


def _without_useless_ages(state: State) -> State:
    """Forget how long ago jobs were accepted, beyond what the oldest birth under way makes a difference to."""
    for job, row in enumerate(state.rows):
        if row.since:
            births = (message[4] for message in state.net if message[:2] == ("born", row.worker))
            since = min(row.since, max((-behind for behind in births), default=0)) if row.state in HELD else 0
            state = state if since == row.since else with_row(state, job, row._replace(since=max(0, since)))
    return state


def _matters(state: State, message: Message, forgets: bool, rules: Rules) -> bool:
    kind = message[0]
    if kind == "born":
        return True
    number: int = message[1]
    job: int = message[2]
    attempt: int = message[3]
    worker, row = state.workers[number], state.rows[job]
    hold = worker.holds[job]
    if kind == "ask":
        return not rules.guards_gate or _may_open(row, worker, number, attempt, message[4], rules)
    if kind == "pass":
        return hold is not None and hold.phase == "accepted" and hold[0::2] == (attempt, message[4])
    if forgets:
        return True
    if kind == "run":
        return (hold is None or hold.attempt < attempt) and worker.gone[job] < attempt
    if hold is not None and hold.attempt >= attempt:
        return hold.attempt == attempt and hold.phase in ("accepted", "running")
    return worker.gone[job] < attempt


def _may_open(row: Row, worker: Worker, number: int, attempt: int, launch: Launch, rules: Rules) -> bool:
    if rules.gate_checks_journal and launch[0] < worker.known:
        return False
    return row.attempt == attempt and row.worker == number and row.state in (DISPATCHED, ACCEPTED)
