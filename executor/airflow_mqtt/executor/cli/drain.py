"""`airflow mqtt drain`: maintenance, and wait until nothing runs any more."""

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Final, NamedTuple

from airflow_mqtt.config.printing import plain
from airflow_mqtt.database.acts import Act, Order
from airflow_mqtt.database.queries import workers
from airflow_mqtt.executor import acting, compat
from airflow_mqtt.executor.cli.acts import selected, tell
from airflow_mqtt.executor.cli.command import command, confirm, who
from airflow_mqtt.executor.cli.output import refuse, say
from airflow_mqtt.protocol.workers import GONE, WorkerState

#: Seconds between two looks.
_INTERVAL: Final = 1.0

#: Exit codes of who did not wait to the end: as timeout(1) has it, and a shell of SIGINT.
TIMED_OUT: Final = 124
INTERRUPTED: Final = 130

_NAMED: Final = 5


class Progress(NamedTuple):
    """How far it is: of so many, the workers that are not drained yet, and how many jobs these hold."""

    workers: int
    left: tuple[str, ...]
    jobs: int

    def __str__(self) -> str:
        drained = f"{self.workers - len(self.left)} of {self.workers} drained"
        if not self.left:
            return drained
        more = f" and {len(self.left) - _NAMED} more" if len(self.left) > _NAMED else ""
        return f"{drained}; {self.jobs} jobs on {', '.join(self.left[:_NAMED])}{more}"


def progress(found: Sequence[tuple[str, str, int]], wanted: int) -> Progress:
    """Return how far (name, state, jobs held) of these workers are. One that is gone has nothing left to do."""
    left = [(name, jobs) for name, state, jobs in found if not _is_drained(state, jobs)]
    return Progress(wanted, tuple(name for name, _ in left), sum(jobs for _, jobs in left))


def _is_drained(state: str, jobs: int) -> bool:
    return not jobs and (state == WorkerState.MAINTENANCE_MODE or state in GONE)


@command
def drain(args: Namespace) -> None:
    """Have workers take no more jobs, and wait until they have none."""
    names = selected(args)
    if not names:
        refuse("No worker is like that; `airflow mqtt list-workers` shows them")
    if not any((args.name, args.state, args.queue, args.label)):
        confirm(f"Drain all {len(names)} workers?", yes=args.yes)
    order = Order(Act.REQUEST_MAINTENANCE, comment=args.comment)
    results = acting.on_workers(args.team_name, order, names, by=who())
    try:
        _wait(args.team_name, [result.name for result in results if result.is_done], args.timeout)
    except KeyboardInterrupt:
        _end("Not waited for any longer", INTERRUPTED)
    tell([result for result in results if not result.is_done])  # the others are drained all the same


def _wait(team_name: str, names: Sequence[str], timeout: float | None) -> None:
    began = time.monotonic()
    said = ""
    while True:
        with compat.own_session() as session:
            now = progress(workers.held_jobs(session, team_name, names), len(names))
        if str(now) != said:
            said = str(now)
            say(said)
        if not now.left:
            return
        if timeout is not None and time.monotonic() - began >= timeout:
            _end(f"Not drained after {timeout:g} s", TIMED_OUT)
        time.sleep(_INTERVAL)


def _end(text: str, code: int) -> None:
    print(  # noqa: T201 - a command's answer
        plain(f"{text}; they stay in maintenance until `airflow mqtt exit-maintenance`"), file=sys.stderr
    )
    raise SystemExit(code)
