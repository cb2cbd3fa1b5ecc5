"""What operators and schedulers do: one function each, for commands, pages and APIs alike.

Each works in a session that it is given and leaves the commit to its owner. It writes what is wished once: what is
wished already is an outcome, as is a job or a worker that is not there. When it has written something, it wakes the
bridge on commit. The leading bridge carries wishes out; what needs no bridge happens here: the end of a job that
waits in its queue.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, CursorResult, Delete, Update, func, insert, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from airflow_mqtt.database import access, desired, tables
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.documents import sound
from airflow_mqtt.database.transitions import move, wish_for_end
from airflow_mqtt.protocol.jobs import TERMINAL, JobEvent, JobState
from airflow_mqtt.protocol.messages import Desired

_job = tables.job.c
_worker = tables.worker.c
_access = tables.access.c

#: Somebody else may write between a look and a write; who was second looks again, this often.
_TRIES: Final = 8

#: States in which a job has not passed the start gate.
UNSTARTED: Final = frozenset({JobState.QUEUED, JobState.DISPATCHED, JobState.ACCEPTED})


def changed(session: Session, statement: Update | Delete) -> int:
    """Execute `statement` and return how many rows it changed."""
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount


def notify(session: Session, team_name: str) -> None:
    """Wake the bridge when this session commits. Elsewhere than on PostgreSQL it looks for itself."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_notify(tables.NOTIFY_CHANNEL, team_name)))


# --- jobs -------------------------------------------------------------------------------------------------


class Ending(StrEnum):
    """What came of the wish that a job ends."""

    CANCELLED = "cancelled"  # it waited in its queue, and has ended now
    WISHED = "wished"  # a worker holds it: the leading bridge has it ended
    WISHED_BEFORE = "wished before"  # its end is on its way already; nothing was written
    CONTESTED = "contested"  # others kept moving it; nothing was written
    STARTED = "started"  # it has passed the start gate, and was to end before that only
    ENDED = "ended"  # it had ended before
    GONE = "gone"  # there is no such job


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What came of `cancel`. State and worker are those that the job had before; None if there is no such job."""

    ending: Ending
    state: JobState | None = None
    worker: str | None = None


def cancel(
    session: Session, team_name: str, job_id: str, *, now: float, by: str, reason: str, unstarted_only: bool = False
) -> Cancellation:
    """End a job that waits, or wish for the end of one that a worker holds.

    With `unstarted_only`, one that has passed the start gate is left alone. Each write is a compare-and-set on the
    state that was seen, and the gate opens only for a job whose end nobody has wished: of the two the first wins.
    """
    done = Cancellation(Ending.GONE)
    for _ in range(_TRIES):
        job = _seen(session, team_name, job_id)
        if job is None:
            return Cancellation(Ending.GONE)
        ending = _settled(job, unstarted_only=unstarted_only) or _end(session, job, now=now, by=by, reason=reason)
        done = Cancellation(ending or Ending.CONTESTED, JobState(job.state), job.worker)
        if ending in (Ending.CANCELLED, Ending.WISHED):
            notify(session, team_name)
        if ending is not None:
            break
    return done


def _seen(session: Session, team_name: str, job_id: str) -> Any:
    columns = (_job.id, _job.state, _job.attempt, _job.worker, _job.cancel_reason)
    return session.execute(select(*columns).where(_job.id == job_id, _job.team_name == team_name)).one_or_none()


def _settled(job: Any, *, unstarted_only: bool) -> Ending | None:
    """Return the outcome for which nothing has to be written; None when something has."""
    state = JobState(job.state)
    if state in TERMINAL:
        return Ending.ENDED
    if unstarted_only and state not in UNSTARTED:
        return Ending.STARTED
    if state is JobState.CANCELLING or (job.cancel_reason is not None and state is not JobState.QUEUED):
        return Ending.WISHED_BEFORE
    return None


def _end(session: Session, job: Any, *, now: float, by: str, reason: str) -> Ending | None:
    """Write the end, or the wish; None when somebody else has moved the job since it was seen."""
    state = JobState(job.state)
    if state is not JobState.QUEUED:
        wish = wish_for_end(job.id, state, job.attempt, by=by, reason=reason)
        return Ending.WISHED if changed(session, wish) else None
    # One that came back to its queue with a wish ends for the reason that was told first.
    told = reason if job.cancel_reason is None else job.cancel_reason
    step = move(job.id, state, job.attempt, JobEvent.CANCEL, now=now, by=by, reason=told)
    if not changed(session, step.statement):
        return None
    session.execute(step.record)
    return Ending.CANCELLED


# --- workers ----------------------------------------------------------------------------------------------


class Wish(StrEnum):
    """What came of a wish for a worker."""

    WISHED = "wished"  # the leading bridge carries it on
    WISHED_BEFORE = "wished before"  # it is wished already; nothing was written
    GONE = "gone"  # there is no such worker
    UNHEARD = "unheard"  # it has never said which queues it was started with
    CONTESTED = "contested"  # others kept writing; nothing was written
    CHANGED = "changed"  # it is not what was seen any more: somebody else was first; nothing was written
    UNFIT = "unfit"  # with what is wished of it already, no worker could read it; nothing was written


def request_maintenance(
    session: Session, team_name: str, worker: str, comment: str = "", *, seen: int | None = None
) -> Wish:
    """Have a worker take no more jobs; those that run go on. Raises `PayloadError`: see `desired.revised`.

    With `seen`, here and below, only while what is wished has this revision: an operator has looked at that one.
    """
    return _wish(session, team_name, worker, lambda now, _: desired.request_maintenance(now, comment), seen)


def exit_maintenance(session: Session, team_name: str, worker: str, *, seen: int | None = None) -> Wish:
    """Have a worker take jobs again, and not stop."""
    return _wish(session, team_name, worker, lambda now, _: desired.exit_maintenance(now), seen)


def shutdown_worker(
    session: Session, team_name: str, worker: str, comment: str = "", *, seen: int | None = None
) -> Wish:
    """Have a worker end its jobs in order, and stop. Raises `PayloadError`: see `desired.revised`."""
    return _wish(session, team_name, worker, lambda now, _: desired.shutdown(now, comment), seen)


def set_comment(session: Session, team_name: str, worker: str, comment: str, *, seen: int | None = None) -> Wish:
    """Say something of a worker to whoever looks at it. Raises `PayloadError`: see `desired.revised`."""
    return _wish(session, team_name, worker, lambda now, _: desired.set_comment(now, comment), seen)


def set_slots(session: Session, team_name: str, worker: str, slots: int | None, *, seen: int | None = None) -> Wish:
    """Have a worker run as many tasks at once; None: as many as it was started with. Raises `PayloadError`."""
    return _wish(session, team_name, worker, lambda now, _: desired.set_slots(now, slots), seen)


def add_queues(
    session: Session, team_name: str, worker: str, queues: Sequence[str], *, seen: int | None = None
) -> Wish:
    """Have a worker serve more queues. Raises `PayloadError`: see `desired.revised`."""
    return _wish(session, team_name, worker, partial(_queues_changed, desired.add_queues, queues), seen)


def remove_queues(
    session: Session, team_name: str, worker: str, queues: Sequence[str], *, seen: int | None = None
) -> Wish:
    """Have a worker serve fewer queues; jobs that it holds go on."""
    return _wish(session, team_name, worker, partial(_queues_changed, desired.remove_queues, queues), seen)


def reset_queues(session: Session, team_name: str, worker: str, *, seen: int | None = None) -> Wish:
    """Have a worker serve the queues with which it was started."""
    return _wish(session, team_name, worker, lambda now, _: desired.reset_queues(now), seen)


def remove_worker(session: Session, team_name: str, worker: str, *, seen: int | None = None) -> Wish:
    """Have a worker forgotten: the leading bridge does so once nothing is heard of it and it holds no job."""
    this = (_worker.team_name == team_name, _worker.name == worker)
    as_seen = true() if seen is None else _worker.revision == seen
    if changed(session, update(tables.worker).where(*this, ~_worker.removal, as_seen).values(removal=True, news=True)):
        notify(session, team_name)
        return Wish.WISHED
    known = session.execute(select(_worker.removal).where(*this)).one_or_none()
    if known is None:
        return Wish.GONE
    return Wish.WISHED_BEFORE if known.removal else Wish.CHANGED


#: What is wished now, and the worker's row, to what is wished then; None when its own queues would have to be known.
_Change = Callable[[Desired, Any], Desired | None]


def _queues_changed(
    change: Callable[[Desired, Iterable[str], Iterable[str]], Desired], queues: Sequence[str], now: Desired, row: Any
) -> Desired | None:
    own = sound(row.info).get("queues")
    return None if own is None and now.queues is None else change(now, own or (), queues)


def _wish(session: Session, team_name: str, worker: str, change: _Change, seen: int | None) -> Wish:
    """Write what is wished after `change`, once nobody else has written since it was read."""
    this = (_worker.team_name == team_name, _worker.name == worker)
    for _ in range(_TRIES):
        row = session.execute(select(_worker.desired, _worker.revision, _worker.info).where(*this)).one_or_none()
        if row is None:
            return Wish.GONE
        if seen is not None and row.revision != seen:
            return Wish.CHANGED
        before = desired.parse(row.desired, row.revision)
        wished = change(before, row)
        if wished is None:
            return Wish.UNHEARD
        if wished == before:
            return Wish.WISHED_BEFORE
        if _is_written(session, before, desired.revised(wished), *this):
            notify(session, team_name)
            return Wish.WISHED
    return Wish.CONTESTED


def _is_written(session: Session, before: Desired, after: Desired, *this: ColumnElement[bool]) -> bool:
    """Write `after` in place of `before`; False when somebody else has."""
    statement = update(tables.worker).where(*this, _worker.revision == before.revision)
    values = {"desired": desired.render(after), "revision": after.revision, "news": True}
    return changed(session, statement.values(**values)) == 1


# --- what is allowed ----------------------------------------------------------------------------------------


def allowed(session: Session, team_name: str) -> Access:
    """Return what the site allows. Raises `PayloadError` when nobody can read it."""
    query = select(_access.document, _access.revision).where(_access.team_name == team_name)
    row = session.execute(query).one_or_none()
    return Access() if row is None else access.parse(row.document, row.revision)


def allow(session: Session, team_name: str, worker: str, queues: Sequence[str]) -> Wish:
    """Let workers serve queues; patterns with `*` stand for many. Raises `PayloadError`: see `access.allow`."""
    return _change_access(session, team_name, lambda now: access.allow(now, worker, queues))


def disallow(session: Session, team_name: str, worker: str, queues: Sequence[str]) -> Wish:
    """Take back what was allowed in these words, all of it without queues. What a worker has not started it loses."""
    return _change_access(session, team_name, lambda now: access.disallow(now, worker, queues))


def allow_calls(session: Session, team_name: str, queue: str, rights: Collection[str] | None) -> Wish:
    """Let jobs of `queue` call what needs `rights`, and no more; None: as if nothing had been said of this queue."""
    return _change_access(session, team_name, lambda now: access.allow_calls(now, queue, rights))


def _change_access(session: Session, team_name: str, change: Callable[[Access], Access]) -> Wish:
    for _ in range(_TRIES):
        before = allowed(session, team_name)
        after = change(before)
        if after == before:
            return Wish.WISHED_BEFORE
        if _is_access_written(session, team_name, before, after):
            notify(session, team_name)
            return Wish.WISHED
    return Wish.CONTESTED


def _is_access_written(session: Session, team_name: str, before: Access, after: Access) -> bool:
    """Write `after` in place of `before`; False when somebody else has."""
    values = {"document": access.render(after), "revision": before.revision + 1}
    this = (_access.team_name == team_name, _access.revision == before.revision)
    if changed(session, update(tables.access).where(*this).values(**values)):
        return True
    if before.revision:
        return False
    try:
        with session.begin_nested():
            session.execute(insert(tables.access).values(team_name=team_name, **values))
    except IntegrityError:
        return False
    return True
