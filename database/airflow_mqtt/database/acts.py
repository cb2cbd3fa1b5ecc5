"""What people do to workers and jobs, and the record of it: who, when, what, on what, what came of it.

`on_workers` and `on_jobs` do one act to many, in one transaction: a row of `mqtt_act` for each, also where nothing came
of it. `operations` has the acts themselves, which a scheduler uses too; what it does is in a job's own history.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final

from sqlalchemy import insert
from sqlalchemy.orm import Session

from airflow_mqtt.database import desired, operations, tables
from airflow_mqtt.database.access import checked_queue
from airflow_mqtt.database.operations import Cancellation, Ending, Wish
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import MAX_SHORT_TEXT, MAX_SLOTS, MAX_TEXT, MAX_TEXTS, Desired, cut, sanitise


class Act(StrEnum):
    """What a person can do."""

    REQUEST_MAINTENANCE = "request-maintenance"  # take no more jobs
    EXIT_MAINTENANCE = "exit-maintenance"  # take jobs again
    SET_COMMENT = "set-comment"
    ADD_QUEUES = "add-queues"
    REMOVE_QUEUES = "remove-queues"
    RESET_QUEUES = "reset-queues"
    SET_SLOTS = "set-slots"
    SHUTDOWN = "shutdown"  # end the jobs, then stop
    REMOVE = "remove"  # forget the worker
    CANCEL = "cancel"  # end a job
    ALLOW = "allow"
    DISALLOW = "disallow"
    ALLOW_CALLS = "allow-calls"
    PURGE = "purge"  # delete what ended long ago


@dataclass(frozen=True, slots=True)
class Order:
    """One act, and what it needs. `seen` says of a worker which revision of what is wished was looked at."""

    act: Act
    comment: str = ""
    queues: Sequence[str] = ()
    slots: int | None = None
    seen: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an act for one worker or job. `text` says it to a person; `job` is how the job was before."""

    name: str
    outcome: Wish | Ending
    text: str
    job: Cancellation | None = None

    @property
    def is_done(self) -> bool:
        """Whether it is as it was to be, or on its way."""
        return self.outcome in (Wish.WISHED, Wish.WISHED_BEFORE, *_DONE)


_DONE: Final = (Ending.CANCELLED, Ending.WISHED, Ending.WISHED_BEFORE)


@dataclass(frozen=True, slots=True)
class _Way:
    """How an act is done: what of the order goes with it, and whether it may be left out."""

    operation: Callable[..., Wish]
    value: str = ""
    mandatory: bool = False


_ON_WORKERS: Final = {
    Act.REQUEST_MAINTENANCE: _Way(operations.request_maintenance, "comment", mandatory=True),
    Act.EXIT_MAINTENANCE: _Way(operations.exit_maintenance),
    Act.SET_COMMENT: _Way(operations.set_comment, "comment"),
    Act.ADD_QUEUES: _Way(operations.add_queues, "queues", mandatory=True),
    Act.REMOVE_QUEUES: _Way(operations.remove_queues, "queues", mandatory=True),
    Act.RESET_QUEUES: _Way(operations.reset_queues),
    Act.SET_SLOTS: _Way(operations.set_slots, "slots"),
    Act.SHUTDOWN: _Way(operations.shutdown_worker, "comment"),
    Act.REMOVE: _Way(operations.remove_worker),
}

#: What a worker takes, said to whoever ordered something else.
_LIMITS: Final = {
    "comment": f"a comment has at most {MAX_TEXT} characters",
    "queues": f"a worker has at most {MAX_TEXTS} queues, with names of at most {MAX_SHORT_TEXT} characters",
    "slots": f"a worker has 0 to {MAX_SLOTS} slots",
}

#: The acts that are done to workers.
ON_WORKERS: Final = tuple(_ON_WORKERS)

_WISHES: Final = {
    Wish.WISHED: "{act} is on its way to worker {name}",
    Wish.WISHED_BEFORE: "that is wished of worker {name} already",
    Wish.GONE: "there is no worker {name}",
    Wish.UNHEARD: "worker {name} has not said yet which queues it serves; try again once it has been online",
    Wish.CONTESTED: "others keep changing what is wished of worker {name}; try again",
    Wish.CHANGED: "somebody else has changed what is wished of worker {name} meanwhile; look again",
    Wish.UNFIT: "worker {name} cannot be told: {why}",
}

_ENDINGS: Final = {
    Ending.CANCELLED: "job {name} is cancelled",
    Ending.WISHED: "job {name} is to be ended on worker {worker}; the leading bridge sees to it",
    Ending.WISHED_BEFORE: "job {name} is being ended on worker {worker} already",
    Ending.GONE: "there is no job {name}",
    Ending.CONTESTED: "others keep moving job {name}; try again",
    Ending.STARTED: "job {name} has started",
    Ending.ENDED: "job {name} has already ended: it is {state}",
}


def on_workers(
    session: Session, team_name: str, order: Order, names: Iterable[str], *, by: str, now: float
) -> list[Result]:
    """Do one act to workers. Raises `PayloadError`, and has written nothing then, for what no worker could read.

    In the order of their names, for all alike: two operators who act on the same workers must not wait for each other.
    """
    do = partial(_ON_WORKERS[order.act].operation, session, team_name)
    values = values_of(order)
    results = [_done(order, name, values, do) for name in sorted(set(names))]
    record(session, team_name, order.act, outcomes_of(results), detail=detail_of(order), by=by, now=now)
    return results


def values_of(order: Order) -> tuple[Any, ...]:
    """Return what goes with an act on workers. Raises `PayloadError` for what is missing, or no worker could read."""
    way = _ON_WORKERS[order.act]
    if not way.value:
        return ()
    value = getattr(order, way.value)
    if way.mandatory and not (value.strip() if isinstance(value, str) else value):
        raise PayloadError(f"{order.act} needs {way.value}: say it")
    if order.act is Act.ADD_QUEUES:
        for queue in value:
            checked_queue(queue)
    try:
        desired.revised(replace(Desired(revision=0), **{way.value: value}))
    except PayloadError:
        raise PayloadError(_LIMITS[way.value]) from None
    return (value,)


def _done(order: Order, name: str, values: tuple[Any, ...], do: Callable[..., Wish]) -> Result:
    why = ""
    try:
        wish = do(name, *values, seen=order.seen.get(name))
    except PayloadError as error:  # of this one alone: others are done, or have been
        wish, why = Wish.UNFIT, str(error)
    return Result(name, wish, _WISHES[wish].format(act=order.act, name=cut(name), why=why))


def detail_of(order: Order) -> str:
    """Return, for the record, what goes with an act on workers."""
    way = _ON_WORKERS[order.act]
    if not way.value:
        return ""
    value = getattr(order, way.value)
    if way.value == "queues":
        return ", ".join(value)
    return "as started" if value is None else str(value)


def on_jobs(
    session: Session, team_name: str, job_ids: Iterable[str], *, by: str, now: float, reason: str
) -> list[Result]:
    """End jobs."""
    cancel = partial(operations.cancel, session, team_name, now=now, by=by, reason=reason)
    results = [_ended(job_id, cancel(job_id)) for job_id in sorted(set(job_ids))]
    record(session, team_name, Act.CANCEL, outcomes_of(results), detail=reason, by=by, now=now)
    return results


def _ended(job_id: str, done: Cancellation) -> Result:
    text = _ENDINGS[done.ending].format(name=cut(job_id), worker=done.worker, state=done.state)
    return Result(job_id, done.ending, text, done)


def record(
    session: Session, team_name: str, act: Act, outcomes: Mapping[str, str], *, detail: str, by: str, now: float
) -> None:
    """Write down what was done: subject -> what came of it."""
    rows = [
        {
            "team_name": team_name,
            "at": now,
            "by": by,
            "act": act.value,
            "subject": cut(subject),  # what no name can be may not fit into its index
            "detail": sanitise(detail),
            "outcome": str(outcome),
        }
        for subject, outcome in outcomes.items()
    ]
    if rows:
        session.execute(insert(tables.act), rows)


def outcomes_of(results: Iterable[Result]) -> dict[str, str]:
    """Return what came of an act for each."""
    return {result.name: result.outcome.value for result in results}
