"""The commands that say which worker may serve what, and what jobs of a queue may call."""

import time
from argparse import Namespace
from collections.abc import Callable

from airflow_mqtt.database import operations
from airflow_mqtt.database.acts import Act
from airflow_mqtt.database.operations import Wish
from airflow_mqtt.executor import acting, compat
from airflow_mqtt.executor.cli.command import command, who
from airflow_mqtt.executor.cli.output import print_rows, refuse, say
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.execution_api import RIGHTS
from airflow_mqtt.protocol.messages import cut


@command
def allow(args: Namespace) -> None:
    """Let workers serve queues, or print which may."""
    if args.list:
        with compat.own_session() as session:
            known = operations.allowed(session, args.team_name)
        if not known.listed and args.output == "table":  # the other forms are read by programs
            say("Nobody is listed yet: every worker may serve every queue, unless the bridge runs with allow=listed")
        print_rows([{"worker": worker, "queue": queue} for worker, queue in known.serve], args.output)
        return
    if not args.pattern or not args.queues:
        refuse(
            "Say which worker may serve which queues: airflow mqtt allow WORKER QUEUE…; --list shows what is allowed"
        )
    _change(args, Act.ALLOW, operations.allow, args.pattern, args.queues)


@command
def disallow(args: Namespace) -> None:
    """Take back what was allowed."""
    if not args.pattern:
        refuse(
            "Say what to take back, in the words of `airflow mqtt allow --list`: airflow mqtt disallow WORKER [QUEUE…]"
        )
    _change(args, Act.DISALLOW, operations.disallow, args.pattern, args.queues)
    with compat.own_session() as session:
        left = operations.allowed(session, args.team_name).lines_for(args.pattern)
    if left:
        say(f"Still allowed: {', '.join(f'{worker} {queue}' for worker, queue in left)}")


@command
def allow_calls(args: Namespace) -> None:
    """Say what jobs of a queue may call, or print it."""
    if args.list:
        with compat.own_session() as session:
            known = operations.allowed(session, args.team_name)
        rows = [{"queue": queue, "rights": sorted(rights)} for queue, rights in sorted(known.calls.items())]
        print_rows(rows, args.output)
        return
    if not args.queue or (args.rights and args.all):
        refuse("Say what jobs of which queue may call: airflow mqtt allow-calls QUEUE [RIGHT…], or QUEUE --all")
    unknown = [right for right in args.rights if right not in RIGHTS]
    if unknown:
        refuse(f"There is no right {cut(unknown[0])}: {', '.join(RIGHTS)}")
    _change(args, Act.ALLOW_CALLS, operations.allow_calls, args.queue, None if args.all else args.rights)


def _change(args: Namespace, act: Act, operation: Callable[..., Wish], subject: str, words: list[str] | None) -> None:
    try:
        with compat.own_session() as session:
            wish = operation(session, args.team_name, subject, words)
            detail = "all" if words is None else ", ".join(words)
            acting.record(session, args.team_name, act, {subject: wish}, by=who(), detail=detail, now=time.time())
    except PayloadError as error:
        refuse(str(error))
    match wish:
        case Wish.WISHED:
            say(f"Done; `airflow mqtt {args.subcommand.removeprefix('dis')} --list` shows what is allowed now")
        case Wish.WISHED_BEFORE:
            say("That is so already; nothing was changed")
        case _:
            refuse("Others keep changing what is allowed; try again")
