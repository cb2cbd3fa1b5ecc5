"""What workers do and what happens to them; each step yields (what happened, the state after it)."""

from collections.abc import Iterator

from model.edit import begin, disturb, leave_ask, send, with_gone, with_hold, with_report, with_row, with_worker
from model.state import Hold, Instance, Message, Report, Rules, State, Worker

Step = tuple[str, State]


def steps(state: State, rules: Rules, instance: Instance, workers: range) -> Iterator[Step]:
    for message in state.net:
        if message[1] in workers:
            yield from _receive(state, message, rules, instance)
    for number in workers:
        yield from _run(state, number, rules)
        yield from _acknowledged(state, number, rules)
        yield from _introduce(state, number, rules)
        yield from _suffer(state, number, rules, instance)


# --- messages ---------------------------------------------------------------------------------------------


def _receive(state: State, message: Message, rules: Rules, instance: Instance) -> Iterator[Step]:
    match message:
        case ("run", number, job, attempt):
            yield from _ordered(state, number, job, attempt, instance)
        case ("cancel", number, job, attempt):
            yield from _cancelled(state, number, job, attempt, rules)
        case ("pass", number, job, attempt, launch):
            hold = state.workers[number].holds[job]
            if hold == Hold(attempt, "accepted", launch):
                yield f"worker {number}: job {job} begins", _begun(state, number, job)


def _ordered(state: State, number: int, job: int, attempt: int, instance: Instance) -> Iterator[Step]:
    worker = state.workers[number]
    hold = worker.holds[job]
    if worker.gone[job] >= attempt:
        return
    if hold is not None and (attempt <= hold.attempt or hold.phase in ("running", "stopping")):
        return
    state = leave_ask(state, number, job, hold)
    accepted = with_hold(worker, job, Hold(attempt, "accepted", (worker.journal, worker.boot)))
    accepted = with_report(accepted, "accepted", job, attempt)
    yield f"worker {number}: accepts job {job} attempt {attempt}", with_worker(state, number, accepted)
    spent = disturb(state)
    if spent is not None and attempt < instance.attempts:
        rejected = with_report(with_gone(with_hold(worker, job, None), job, attempt), "rejected", job, attempt)
        yield f"worker {number}: rejects job {job} attempt {attempt}", with_worker(spent, number, rejected)


def _cancelled(state: State, number: int, job: int, attempt: int, rules: Rules) -> Iterator[Step]:
    worker = state.workers[number]
    hold = worker.holds[job]
    what = f"worker {number}: is told to end job {job} attempt {attempt}"
    if hold is None or hold.attempt < attempt:
        if worker.gone[job] < attempt and rules.confirms_absent:
            absent = with_gone(with_report(worker, "cancelled", job, attempt), job, attempt)
            yield f"{what}, which it does not hold", with_worker(state, number, absent)
    elif hold.attempt == attempt and hold.phase == "accepted":
        dropped = with_report(with_hold(worker, job, None), "cancelled", job, attempt)
        state = leave_ask(state, number, job, hold)
        yield f"{what}, and drops it", with_worker(state, number, with_gone(dropped, job, attempt))
    elif hold.attempt == attempt and hold.phase == "running":
        stopping = with_hold(worker, job, hold._replace(phase="stopping"))
        yield f"{what}, and asks it to stop", with_worker(state, number, stopping)


# --- runners ----------------------------------------------------------------------------------------------


def _begun(state: State, number: int, job: int) -> State:
    worker = state.workers[number]
    hold = worker.holds[job]
    assert hold is not None
    state = with_worker(state, number, with_hold(worker, job, hold._replace(phase="running")))
    return begin(state, number, job, hold.attempt)


def _run(state: State, number: int, rules: Rules) -> Iterator[Step]:
    for job, hold in enumerate(state.workers[number].holds):
        if hold is None:
            continue
        if hold.phase == "accepted" and not rules.waits_for_gate:
            yield f"worker {number}: job {job} begins without an answer", _begun(state, number, job)
        if hold.phase == "running":
            yield f"worker {number}: job {job} ends", _ended(_code_ended(state, number, job), number, job, "finished")
            spent = disturb(state)
            if spent is not None:
                yield f"worker {number}: the supervisor of job {job} dies", _ended(spent, number, job, "failed")
        if hold.phase == "stopping":
            yield f"worker {number}: job {job} has stopped", _ended(state, number, job, "cancelled")


def _code_ended(state: State, number: int, job: int) -> State:
    row, hold = state.rows[job], state.workers[number].holds[job]
    assert hold is not None
    return with_row(state, job, row._replace(ended=True)) if row.ran_on == (number, hold.attempt) else state


def _ended(state: State, number: int, job: int, report: str) -> State:
    worker = state.workers[number]
    hold = worker.holds[job]
    assert hold is not None
    worker = with_hold(worker, job, hold._replace(phase="ended"))
    return with_worker(state, number, with_report(worker, report, job, hold.attempt))


# --- the outbox and the link ------------------------------------------------------------------------------


def _acknowledged(state: State, number: int, rules: Rules) -> Iterator[Step]:
    """An acknowledgement arrives: of all that is committed, since less of it is the same as one that came earlier."""
    worker = state.workers[number]
    if worker.known != worker.journal:
        return
    count = worker.applied if rules.acks_after_commit else len(worker.outbox)
    if count <= 0:
        return
    outbox = worker.outbox[count:]
    after = worker._replace(outbox=outbox, applied=worker.applied - count)
    for job, hold in enumerate(worker.holds):
        if hold is not None and hold.phase == "ended" and all(report[1] != job for report in outbox):
            after = with_gone(with_hold(after, job, None), job, hold.attempt)
    broken = "" if count <= worker.applied else f"worker {number} deleted a report that was never applied"
    yield (
        f"worker {number}: {count} reports are acknowledged",
        with_worker(state, number, after)._replace(broken=broken),
    )


def _introduce(state: State, number: int, rules: Rules) -> Iterator[Step]:
    worker = state.workers[number]
    if worker.epoch < state.epoch:
        seen = with_worker(state, number, worker._replace(epoch=state.epoch))
        after = _born(seen, number) if rules.born_to_new_leader else seen
        yield f"worker {number}: sees epoch {state.epoch}", after
    if worker.births > 0 and rules.repeats_birth and not _birth_under_way(state, number, worker.births):
        again = with_worker(state, number, worker._replace(births=worker.births - 1))
        yield f"worker {number}: introduces itself again", _born(again, number)


def _birth_under_way(state: State, number: int, order: int) -> bool:
    return any(message[:3] == ("born", number, order) for message in state.net)


def _born(state: State, number: int) -> State:
    """Send a birth. `behind` counts the reports from the database's position to it."""
    worker = state.workers[number]
    order = worker.births + 1
    same = worker.known == worker.journal
    behind = len(worker.outbox) - (worker.applied if same else 0)
    holds = tuple((job, hold.attempt, hold.phase) for job, hold in enumerate(worker.holds) if hold is not None)
    state = with_worker(state, number, worker._replace(births=order))
    return send(state, ("born", number, order, worker.journal, behind, holds))


# --- what happens to workers ------------------------------------------------------------------------------


def _suffer(state: State, number: int, rules: Rules, instance: Instance) -> Iterator[Step]:
    spent = disturb(state)
    if spent is None:
        return
    crashed = _crashed(spent, number, rules)
    yield f"worker {number}: its process is killed and started again", _born(crashed, number)
    yield (
        f"worker {number}: loses power and starts again",
        _born(_darkened(_renamed(crashed, number), number, rules), number),
    )
    if instance.wipes:
        yield f"worker {number}: starts again with an empty disk", _born(_wiped(spent, number), number)


def _crashed(state: State, number: int, rules: Rules) -> State:
    """Memory is lost. Runners live, and ask again under the same id."""
    worker = state.workers[number]
    worker = worker._replace(gone=(0,) * len(worker.gone), epoch=state.epoch, boot=worker.boot + 1)
    if not rules.keeps_outbox:
        worker = worker._replace(outbox=worker.outbox[: max(worker.applied, 0)])
    return with_worker(state, number, worker)


def _renamed(state: State, number: int) -> State:
    """The journal takes a new name: what waits is numbered anew, with what was applied and not heard to be."""
    worker = state.workers[number]
    after = worker._replace(journal=worker.journal + 1, applied=0, old=_under_way(worker))
    return with_worker(state, number, after)


def _under_way(worker: Worker) -> tuple[Report, ...]:
    """Return the reports of the journal that the bridge knows which may still arrive."""
    return worker.outbox[max(worker.applied, 0) :] if worker.known == worker.journal else worker.old


def _darkened(state: State, number: int, rules: Rules) -> State:
    """Runners are gone too: those before the gate are started again, those beyond it have failed."""
    for job, hold in enumerate(state.workers[number].holds):
        if hold is None or hold.phase == "ended":
            continue
        if hold.phase == "accepted":
            state = leave_ask(state, number, job, hold)
            state = _with_launch(state, number, job, hold)
        elif hold.phase == "running" and not rules.knows_ended:
            state = begin(state, number, job, hold.attempt)
        else:
            state = _ended(state, number, job, "failed" if hold.phase == "running" else "cancelled")
    return state


def _with_launch(state: State, number: int, job: int, hold: Hold) -> State:
    worker = state.workers[number]
    fresh = hold._replace(launch=(worker.journal, worker.boot))
    return with_worker(state, number, with_hold(worker, job, fresh))


def _wiped(state: State, number: int) -> State:
    """All is gone but what is under way: requests, births, and the reports of the journal that the bridge knows."""
    before = state.workers[number]
    for job, hold in enumerate(before.holds):
        state = leave_ask(state, number, job, hold)
    after = Worker(
        journal=before.journal + 1,
        holds=(None,) * len(before.holds),
        gone=(0,) * len(before.gone),
        births=before.births,
        epoch=state.epoch,
        known=before.known,
        old=_under_way(before),
    )
    return with_worker(state, number, after)
