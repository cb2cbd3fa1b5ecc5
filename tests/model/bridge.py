"""What bridge and Airflow do, one transaction a step; each yields (what happened, the state after it).

A deposed leader needs no steps of its own where the lease fences it: its transactions fail, and what it had
published is under way anyhow. `sleeper` is the one that tries.
"""

from collections.abc import Iterator

from airflow_mqtt.bridge.dispatch.timeouts import Resend
from airflow_mqtt.protocol.jobs import JobEvent as E
from airflow_mqtt.protocol.jobs import Verdict
from model import real
from model.edit import (
    ACCEPTED,
    CANCELLING,
    DISPATCHED,
    QUEUED,
    RUNNING,
    disturb,
    is_held,
    moved,
    send,
    with_row,
    with_worker,
)
from model.state import Instance, Launch, Message, Report, Row, Rules, State

Step = tuple[str, State]

_INTENT = {"accepted": E.ACCEPT, "rejected": E.REJECT, "finished": E.SUCCEED, "failed": E.FAIL, "cancelled": E.CONFIRM}

_FORGOTTEN = {ACCEPTED: E.RELEASE, RUNNING: E.LOSE, CANCELLING: E.CONFIRM}


def steps(state: State, rules: Rules, instance: Instance, jobs: range, workers: range) -> Iterator[Step]:
    for job in jobs:
        yield from _of_job(state, job, rules, instance, workers)
    for number in workers:
        yield from _hear_reports(state, number, rules)
        yield from _hear_birth_of(state, number, rules)
        yield from _gate(state, number, rules)
    yield from _lead(state, rules)


# --- jobs -------------------------------------------------------------------------------------------------


def _of_job(state: State, job: int, rules: Rules, instance: Instance, workers: range) -> Iterator[Step]:
    row = state.rows[job]
    if row.state == QUEUED:
        for number in workers:
            yield _place(state, job, number)
    elif row.worker is not None:
        yield from _doubt(state, job, instance)
        if rules.resends_orders:
            yield from _resend(state, job)
    yield from _cancel(state, job)


def tell(state: State) -> Iterator[Step]:
    """Airflow hears of an end. Nothing else depends on when, so it does so before anything else happens."""
    for job, row in enumerate(state.rows):
        if row.pending:
            heard = with_row(state, job, row._replace(pending=False, told=row.told + 1))
            broken = "" if row.told == 0 else f"Airflow hears of the end of job {job} twice"
            yield f"Airflow hears that job {job} is {row.state}", heard._replace(broken=broken)
            return


def _place(state: State, job: int, number: int) -> Step:
    row = moved(state.rows[job], E.DISPATCH)
    assert row is not None
    state = with_row(state, job, row._replace(worker=number))
    return f"bridge: job {job} to worker {number}, attempt {row.attempt}", send(
        state, ("run", number, job, row.attempt)
    )


def _doubt(state: State, job: int, instance: Instance) -> Iterator[Step]:
    """The bridge takes the worker for gone. It may be wrong about that at any time."""
    row = state.rows[job]
    event = real.given_up(row.state, row.begun)
    after = None if event is None else moved(row, event)
    spent = disturb(state)
    if after is not None and spent is not None and after.attempt <= instance.attempts:
        yield f"bridge: takes worker {row.worker} for gone; job {job} is {after.state}", with_row(spent, job, after)


def _resend(state: State, job: int) -> Iterator[Step]:
    row = state.rows[job]
    match real.resent(row.state):
        case Resend.RUN:
            message: Message = ("run", row.worker, job, row.attempt)
        case Resend.CANCEL:
            message = ("cancel", row.worker, job, row.attempt)
        case _:
            return
    if message not in state.net:
        yield f"bridge: {message[0]} of job {job} is published again", send(state, message)


def _cancel(state: State, job: int) -> Iterator[Step]:
    row = state.rows[job]
    after, spent = moved(row, E.CANCEL), disturb(state)
    if after is None or spent is None:
        return
    spent = with_row(spent, job, after)
    if after.state == CANCELLING:
        spent = send(spent, ("cancel", row.worker, job, row.attempt))
    yield f"Airflow wants job {job} ended: it is {after.state}", spent


# --- reports ----------------------------------------------------------------------------------------------


def _hear_reports(state: State, number: int, rules: Rules) -> Iterator[Step]:
    """The next report of the stream arrives; all others change nothing."""
    worker = state.workers[number]
    same = worker.known == worker.journal
    if worker.applied < 0:
        return
    stream = worker.outbox[worker.applied :] if same else worker.old
    for skipped, report in enumerate(stream if not rules.stops_at_gap else stream[:1]):
        after = _apply(state, number, report, rules)
        after = _advance(after, number, skipped + 1, rules)
        yield f"bridge: applies '{_words(report)}' of worker {number}", after


def _words(report: Report) -> str:
    return f"job {report[1]} attempt {report[2]} {report[0]}"


def _apply(state: State, number: int, report: Report, rules: Rules) -> State:
    kind, job, attempt = report
    row = state.rows[job]
    if rules.checks_worker and row.worker != number:
        return _drop_stale(state, number, report)
    reported = attempt if rules.checks_attempt else row.attempt
    verdict = real.settle(row.state, row.attempt, _INTENT[kind].value, reported)
    if verdict is Verdict.APPLY:
        after = moved(row, _INTENT[kind])
        assert after is not None
        if kind == "accepted":
            after = after._replace(accepted_in=state.workers[number].known, since=-1)  # `_advance` makes it 0
        return with_row(state, job, after)
    return state if verdict is Verdict.DUPLICATE else _drop_stale(state, number, report)


def _drop_stale(state: State, number: int, report: Report) -> State:
    kind, job, attempt = report
    return send(state, ("cancel", number, job, attempt)) if kind == "accepted" else state


def _advance(state: State, number: int, count: int, rules: Rules) -> State:
    """Store the position, `count` further, for the stream, the births that wait, and those under way."""
    worker = state.workers[number]
    if worker.known == worker.journal:
        after = worker._replace(applied=worker.applied + count)
    else:
        after = worker._replace(old=worker.old[count:])
    net = frozenset(
        (*message[:4], message[4] - count, message[5])
        if message[0] == "born" and message[1] == number and message[3] == worker.known
        else message
        for message in state.net
    )
    sleeper = state.sleeper
    if sleeper is not None and sleeper[1] == number and not rules.loses_no_position:
        sleeper = (sleeper[0], number, sleeper[2] + count)
    rows = tuple(
        row._replace(since=row.since + count)
        if is_held(row, number, row.attempt) and row.accepted_in == worker.known
        else row
        for row in state.rows
    )
    return with_worker(state._replace(rows=rows, net=net, sleeper=sleeper), number, after)


# --- births -----------------------------------------------------------------------------------------------


def _hear_birth_of(state: State, number: int, rules: Rules) -> Iterator[Step]:
    for message in state.net:
        if message[0] == "born" and message[1] == number:
            after = _hear_birth(state, message, rules)
            if after is not None:
                yield f"bridge: hears birth of worker {number}, holding {_held(message)}", after


def _held(message: Message) -> str:
    return ", ".join(f"job {job} attempt {attempt}" for job, attempt, _ in message[5]) or "nothing"


def _hear_birth(state: State, message: Message, rules: Rules) -> State | None:
    _, number, order, journal, behind, holds = message
    worker = state.workers[number]
    if journal > worker.known and not rules.new_disk_is_new:
        return None  # its numbers begin anew, and look old
    state = _forget_births(state, number, order, journal, rules)
    if journal != worker.known:
        state = with_worker(state, number, state.workers[number]._replace(known=journal, applied=0, old=()))
    worker = state.workers[number]
    state = with_worker(state, number, worker._replace(applied=max(worker.applied, 0)))
    return _settle_birth(state, number, behind, holds, rules)


def _forget_births(state: State, number: int, order: int, journal: int, rules: Rules) -> State:
    """Count births from the one heard now; what is not newer will be ignored."""
    net = set()
    for message in state.net:
        if message[0] != "born" or message[1] != number:
            net.add(message)
            continue
        keep = not rules.ignores_late_birth if message[3] == journal else not rules.old_disk_is_old
        if message[2] > order or keep:
            net.add((message[0], number, max(0, message[2] - order), *message[3:]))
    worker = state.workers[number]
    worker = worker._replace(births=max(0, worker.births - order))
    return with_worker(state._replace(net=frozenset(net)), number, worker)


def _settle_birth(
    state: State, number: int, behind: int, holds: tuple[tuple[int, int, str], ...], rules: Rules
) -> State:
    listed = {(job, attempt) for job, attempt, _ in holds}
    known = state.workers[number].known
    for job, row in enumerate(state.rows):
        if is_held(row, number, row.attempt) and (job, row.attempt) not in listed:
            since = row.since if rules.compares_acceptance else 1000
            if real.should_hold(row.accepted_in, since, known, behind):
                state = _forgotten(state, number, job)
    for job, attempt, phase in holds:
        if not is_held(state.rows[job], number, attempt) and phase != "ended":
            state = send(state, ("cancel", number, job, attempt))
    return state


def _forgotten(state: State, number: int, job: int) -> State:
    """The database says that the worker holds the job, the worker does not."""
    row, worker = state.rows[job], state.workers[number]
    if row.state == DISPATCHED:
        return send(state, ("run", number, job, row.attempt))
    after = moved(row, _FORGOTTEN[row.state])
    assert after is not None
    hold = worker.holds[job]
    holds_it = hold is not None and hold.attempt == row.attempt and worker.journal == worker.known
    wrong = holds_it and hold is not None and hold.phase != "ended" and hold.launch == row.gate
    state = with_row(state, job, after)
    return state._replace(broken=f"a birth ended job {job}, which its worker runs") if wrong else state


# --- the start gate ---------------------------------------------------------------------------------------


def _gate(state: State, number: int, rules: Rules) -> Iterator[Step]:
    for job, hold in enumerate(state.workers[number].holds):
        if hold is not None and hold.phase == "accepted":
            yield from _ask(state, number, job, hold.attempt, hold.launch, rules)
    for message in state.net:
        if message[0] == "ask" and message[1] == number:
            _, _, job, attempt, launch = message
            yield from _ask(state, number, job, attempt, launch, rules)


def _ask(state: State, number: int, job: int, attempt: int, launch: Launch, rules: Rules) -> Iterator[Step]:
    """A gate request arrives. A refusal is final, so it may as well reach the runner at once."""
    row, worker = state.rows[job], state.workers[number]
    if rules.gate_checks_journal and launch[0] != worker.known:
        return  # not answered: the worker asks again
    answer: Message = ("pass", number, job, attempt, launch)
    if not _admitted(row, number, attempt, launch, rules):
        hold = worker.holds[job]
        if hold is not None and hold.phase == "accepted" and hold[0::2] == (attempt, launch):
            yield f"gate: refuses job {job} on worker {number}", _refused(state, number, job)
    elif row.state == RUNNING or not rules.gate_moves_job:
        if answer not in state.net:
            yield f"gate: lets job {job} on worker {number} through, again", send(state, answer)
    else:
        after = moved(row, E.START)
        if after is None:
            return  # the report of acceptance has not come yet: not answered either
        state = with_row(state, job, after._replace(gate=launch))
        yield f"gate: lets job {job} attempt {attempt} on worker {number} through", send(state, answer)


def _admitted(row: Row, number: int, attempt: int, launch: Launch, rules: Rules) -> bool:
    if not rules.checks_worker and row.worker is not None:
        number = row.worker
    if not rules.checks_attempt:
        attempt = row.attempt
    if not rules.checks_gate_request and row.gate is not None:
        launch = row.gate
    return real.admitted(row.state, row.attempt, row.worker, row.gate, number, attempt, launch)


def _refused(state: State, number: int, job: int) -> State:
    """The runner ends without having begun."""
    worker = state.workers[number]
    hold = worker.holds[job]
    assert hold is not None
    holds = (*worker.holds[:job], hold._replace(phase="ended"), *worker.holds[job + 1 :])
    outbox = (*worker.outbox, ("failed", job, hold.attempt))
    return with_worker(state, number, worker._replace(holds=holds, outbox=outbox))


# --- who leads --------------------------------------------------------------------------------------------


def _lead(state: State, rules: Rules) -> Iterator[Step]:
    spent = disturb(state)
    if spent is not None:
        yield f"the other bridge leads, epoch {state.epoch + 1}", spent._replace(epoch=state.epoch + 1)
    spent = disturb(state) if state.sleeper is None else None
    if spent is not None:
        for number in range(len(state.workers)):
            yield (
                f"bridge: reads the row of worker {number} and sleeps",
                spent._replace(sleeper=(state.epoch, number, 0)),
            )
    if state.sleeper is not None:
        yield "the bridge that slept writes", _wake(state, rules)


def _wake(state: State, rules: Rules) -> State:
    """A transaction goes on that read a worker's row long ago: it fails, or the row had been locked."""
    assert state.sleeper is not None
    epoch, number, missed = state.sleeper
    state = state._replace(sleeper=None)
    held_off = rules.locks_row if epoch == state.epoch else rules.fences
    return state if held_off else _advance(state, number, -missed, rules)
