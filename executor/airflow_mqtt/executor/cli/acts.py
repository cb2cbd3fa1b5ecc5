"""The commands that change something about workers and jobs, by `acting`: done to many, and recorded."""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, Final

from airflow_mqtt.config.printing import plain
from airflow_mqtt.database.access import EVERY
from airflow_mqtt.database.acts import Act, Order, Result
from airflow_mqtt.database.operations import Ending, Wish
from airflow_mqtt.database.queries import workers
from airflow_mqtt.database.queries.workers import Workers
from airflow_mqtt.executor import acting, compat
from airflow_mqtt.executor.cli.command import command, confirm, who
from airflow_mqtt.executor.cli.looks import no_worker, wanted_workers
from airflow_mqtt.executor.cli.output import refuse, say
from airflow_mqtt.protocol.workers import GONE, WorkerState

_SEE_WORKERS: Final = "`airflow mqtt list-workers` shows"

#: What a person may do next. Two tables: outcomes of workers and of jobs are equal where they have the same word.
_HINTS: Final[Mapping[Wish | Ending, str]] = {
    Wish.WISHED: f"{_SEE_WORKERS} how it goes",
    Wish.WISHED_BEFORE: f"{_SEE_WORKERS} how it goes",
    Wish.GONE: f"{_SEE_WORKERS} them",
}
_HINTS_OF_JOBS: Final[Mapping[Wish | Ending, str]] = {Ending.GONE: "`airflow mqtt list-jobs` shows them"}

#: Of which something is heard.
ONLINE: Final = tuple(state.value for state in WorkerState if state not in GONE)


@command
def request_maintenance(args: Namespace) -> None:
    """Have workers take no more jobs."""
    _act(args, args.names, Act.REQUEST_MAINTENANCE, comment=args.comment)


@command
def exit_maintenance(args: Namespace) -> None:
    """Have workers take jobs again."""
    _act(args, args.names, Act.EXIT_MAINTENANCE)


@command
def shutdown_worker(args: Namespace) -> None:
    """Have workers stop."""
    _act(args, args.names, Act.SHUTDOWN, question="Stop {}?", comment=args.comment)


@command
def shutdown_all_workers(args: Namespace) -> None:
    """Have all workers stop of which something is heard, or those of a queue or with a label."""
    wanted = Workers(states=ONLINE, queue=args.queue or "", labels=args.label or ())
    with compat.own_session() as session:
        names = workers.names_of(session, args.team_name, wanted)
    if not names:
        refuse(f"Nothing is heard of any such worker; {_SEE_WORKERS} them")
    confirm(f"Stop {_several(names)}? Their jobs end in order first.", yes=args.yes)
    _do(args, names, Order(Act.SHUTDOWN, comment=args.comment))


@command
def remove_worker(args: Namespace) -> None:
    """Have workers forgotten."""
    _act(args, args.names, Act.REMOVE, question="Have {} forgotten?")


@command
def set_comment(args: Namespace) -> None:
    """Say something of workers."""
    _act(args, [args.name], Act.SET_COMMENT, comment=args.comment)


@command
def set_slots(args: Namespace) -> None:
    """Have workers run more or fewer tasks at once."""
    _act(args, [args.name], Act.SET_SLOTS, slots=args.slots)


@command
def add_queues(args: Namespace) -> None:
    """Have workers serve more queues."""
    _act(args, [args.name], Act.ADD_QUEUES, queues=args.queues)


@command
def remove_queues(args: Namespace) -> None:
    """Have workers serve fewer queues."""
    _act(args, [args.name], Act.REMOVE_QUEUES, queues=args.queues)


@command
def reset_queues(args: Namespace) -> None:
    """Have workers serve the queues with which they were started."""
    _act(args, args.names, Act.RESET_QUEUES)


@command
def cancel_job(args: Namespace) -> None:
    """End jobs. Their tasks fail, or are tried again if they have retries left."""
    tell(acting.on_jobs(args.team_name, args.jobs, by=who(), reason=args.reason))


def named(team_name: str, names: Sequence[str]) -> list[str]:
    """Return the workers that `names` stand for; a pattern for all that it fits, a name for itself."""
    found = []
    with compat.own_session() as session:
        for name in names:
            fits = workers.names_of(session, team_name, Workers(name=name)) if EVERY in name else [name]
            found += fits or no_worker(name)
    return sorted(set(found))


def selected(args: Namespace) -> list[str]:
    """Return the workers that names and filters of a command leave together."""
    with compat.own_session() as session:
        return workers.names_of(session, args.team_name, wanted_workers(args))


def _act(args: Namespace, names: Sequence[str], act: Act, question: str = "", **values: Any) -> None:
    """Do `act`. Where it cannot be taken back easily, a person is asked first what a pattern stands for."""
    found = named(args.team_name, names)
    if question and any(EVERY in name for name in names):
        confirm(question.format(_several(found)), yes=args.yes)
    _do(args, found, Order(act, **values))


def _do(args: Namespace, names: Sequence[str], order: Order) -> None:
    tell(acting.on_workers(args.team_name, order, names, by=who()))


def _several(names: Sequence[str]) -> str:
    shown = 10
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} worker{'s' if len(names) != 1 else ''} ({', '.join(names[:shown])}{more})"


def tell(results: Sequence[Result]) -> None:
    """Say what came of each; end with exit code 1 if anything came to nothing."""
    failed = [_told(result) for result in results if not result.is_done]
    for result in results:
        if result.is_done:
            say(_told(result))
    for text in failed[:-1]:
        print(plain(text), file=sys.stderr)  # noqa: T201 - a command's answer
    if failed:
        refuse(failed[-1])


def _told(result: Result) -> str:
    hint = (_HINTS if result.job is None else _HINTS_OF_JOBS).get(result.outcome)
    text = result.text[:1].upper() + result.text[1:]
    return f"{text}; {hint}" if hint else text
