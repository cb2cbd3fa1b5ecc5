"""The commands of `airflow mqtt`, without the code behind them: every `airflow` command reads this module."""

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from math import inf, nan
from typing import Final

from airflow.cli.cli_config import ARG_OUTPUT, ARG_VERBOSE, ARG_YES, ActionCommand, Arg, GroupCommand, lazy_load_command

from airflow_mqtt.protocol.execution_api import RIGHTS
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.workers import WorkerState

_PACKAGE: Final = "airflow_mqtt.executor.cli"

ARG_TEAM: Final = Arg(("--team-name",), default="", help="Team of the workers or jobs; without one, those of no team")


def _how_many(text: str) -> int:
    """Return a number of rows that any database counts. Of this error argparse says the text."""
    number = int(text) if text.isdecimal() and len(text) < 10 else 0
    if number < 1:
        raise ArgumentTypeError(f"{text[:50]!r} is no number of rows: 1 or more")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = nan
    if not 0 <= seconds < inf:
        raise ArgumentTypeError(f"{text[:50]!r} is no number of seconds")
    return seconds


def _slots(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text[:50]!r} is no number of slots") from None


def _one_of(names: Iterable[str]) -> Callable[[str], str]:
    """Return a type of arguments. Argparse's own word for what is not among `choices` repeats it whole."""
    known = tuple(map(str, names))

    def checked(text: str) -> str:
        if text not in known:
            raise ArgumentTypeError(f"{text[:50]!r} is none of {', '.join(known)}")
        return text

    return checked


# --- which workers, which jobs ------------------------------------------------------------------------------------

#: As `database.queries` has them, which needs SQLAlchemy.
WORKER_SORTS: Final = ("name", "state", "seen_at", "free", "running", "version")
JOB_SORTS: Final = ("queued_at", "state", "queue", "worker", "dag_id")

ARG_WORKER: Final = Arg(("name",), help="Name of the worker")
ARG_SOME: Final = Arg(("name",), help="Name of the worker; * stands for any text, and such a name for all that fit it")
ARG_WORKERS: Final = Arg(
    ("names",),
    nargs="+",
    metavar="name",
    help="Names of workers; * stands for any text, and such a name for all that fit",
)
ARG_NAME: Final = Arg(("name",), nargs="?", help="Only workers of this name; * stands for any text")
ARG_WORKER_STATE: Final = Arg(
    ("-s", "--state"),
    action="append",
    type=_one_of(WorkerState),
    metavar="STATE",
    help=f"Only workers in this state; may be given again: {', '.join(WorkerState)}",
)
ARG_SERVES: Final = Arg(("-q", "--queue"), help="Only workers of this queue; * stands for any text")
ARG_LABEL: Final = Arg(
    ("-l", "--label"),
    action="append",
    metavar="KEY[=VALUE]",
    help="Only workers with this label; given again, only those that have both",
)
ARG_WORKER_SORT: Final = Arg(
    ("--sort",), type=_one_of(WORKER_SORTS), default="name", help=f"By what (name): {', '.join(WORKER_SORTS)}"
)
ARG_DESCENDING: Final = Arg(("--descending",), action="store_true", help="The last, or the most, first")
ARG_MOST: Final = Arg(("-n", "--limit"), type=_how_many, help="How many; without it, all")
ARG_JOB: Final = Arg(("job",), help="Id of the job, as list-jobs shows it")
ARG_JOBS: Final = Arg(("jobs",), nargs="+", metavar="job", help="Ids of jobs, as list-jobs shows them")
ARG_STATE: Final = Arg(
    ("-s", "--state"),
    action="append",
    type=_one_of(JobState),
    metavar="STATE",
    help=f"Only jobs in this state; may be given again: {', '.join(JobState)}",
)
ARG_QUEUE: Final = Arg(("-q", "--queue"), help="Only jobs of this queue; * stands for any text, here and below")
ARG_OF_WORKER: Final = Arg(("-w", "--worker"), help="Only jobs of this worker")
ARG_DAG: Final = Arg(("--dag-id",), help="Only jobs of this Dag")
ARG_RUN: Final = Arg(("--run-id",), help="Only jobs of this run")
ARG_TASK: Final = Arg(("--task-id",), help="Only jobs of this task")
ARG_JOB_SORT: Final = Arg(
    ("--sort",), type=_one_of(JOB_SORTS), default="queued_at", help=f"By what (queued_at): {', '.join(JOB_SORTS)}"
)
ARG_ASCENDING: Final = Arg(("--ascending",), action="store_true", help="The first, or the oldest, first")
ARG_LIMIT: Final = Arg(("-n", "--limit"), type=_how_many, default=50, help="How many, the last first (50)")
ARG_SUBJECT: Final = Arg(("subject",), nargs="?", help="Only what was done to this worker or job")

# --- what goes with an act ----------------------------------------------------------------------------------------

ARG_COMMENT: Final = Arg(("-c", "--comment"), default="", help="Why; shown to whoever looks at the worker")
ARG_WHY: Final = Arg(("-c", "--comment"), required=True, help="Why; shown to whoever looks at the worker")
ARG_TEXT: Final = Arg(("comment",), help="What is shown to whoever looks at the worker; an empty one takes it away")
ARG_SLOTS: Final = Arg(
    ("slots",),
    type=_slots,
    nargs="?",
    help="How many tasks at once, counted by pool_slots; without it, as it was started",
)
ARG_QUEUES: Final = Arg(("queues",), nargs="+", metavar="queue", help="Name of a queue")
ARG_REASON: Final = Arg(("-r", "--reason"), default="cancelled by hand", help="Why; shown as the job's reason")
ARG_TIMEOUT: Final = Arg(("--timeout",), type=_seconds, help="Seconds to wait at most; without it, for ever")
ARG_OLDER_THAN: Final = Arg(("--older-than",), type=float, required=True, metavar="DAYS", help="What ended before that")

ARG_DEVICE: Final = Arg(("--device",), metavar="NAME", help="A worker whose account at the broker is looked at, too")
ARG_BROKER_URL: Final = Arg(
    ("--broker-url",),
    metavar="URL",
    help="How that device comes to the broker; better in AIRFLOW_MQTT_DEVICE_URL, since everybody here sees flags",
)

# --- what is allowed ----------------------------------------------------------------------------------------------

ARG_PATTERN: Final = Arg(("pattern",), nargs="?", metavar="worker", help="Name of a worker; * stands for any text")
ARG_ALLOWED: Final = Arg(("queues",), nargs="*", metavar="queue", help="Name of a queue; * stands for any text")
ARG_LIST: Final = Arg(("--list",), action="store_true", help="Print what is allowed, and change nothing")
ARG_CALLS_QUEUE: Final = Arg(
    ("queue",), nargs="?", help="Name of a queue; * is for all that have no entry of their own"
)
ARG_RIGHTS: Final = Arg(
    ("rights",),
    nargs="*",
    metavar="right",
    help=f"What its jobs may call beyond what is their own; without any, nothing: {', '.join(RIGHTS)}",
)
ARG_ALL: Final = Arg(("--all",), action="store_true", help="Take the queue's entry away")

_FILTERS: Final = (ARG_NAME, ARG_WORKER_STATE, ARG_SERVES, ARG_LABEL)


def _command(module: str, name: str, text: str, *args: Arg) -> ActionCommand:
    function = lazy_load_command(f"{_PACKAGE}.{module}.{name.replace('-', '_')}")
    return ActionCommand(name=name, help=text, func=function, args=(*args, ARG_TEAM, ARG_VERBOSE))


def _looks() -> tuple[ActionCommand, ...]:
    jobs = (ARG_STATE, ARG_QUEUE, ARG_OF_WORKER, ARG_DAG, ARG_RUN, ARG_TASK, ARG_JOB_SORT, ARG_ASCENDING, ARG_LIMIT)
    return (
        ActionCommand(
            name="check",
            help="Look at all that a new site gets wrong, and say what to do; exit code 1 on a fault",
            func=lazy_load_command("airflow_mqtt.executor.cli.check_command.run"),
            args=(ARG_DEVICE, ARG_BROKER_URL, ARG_OUTPUT, ARG_TEAM, ARG_VERBOSE),
        ),
        _command(
            "looks", "list-workers", "List the workers and their states",
            *_FILTERS, ARG_WORKER_SORT, ARG_DESCENDING, ARG_MOST, ARG_OUTPUT,
        ),
        _command("looks", "show-worker", "Show a worker, its jobs, and what was done to it", ARG_WORKER, ARG_OUTPUT),
        _command("looks", "list-jobs", "List jobs", *jobs, ARG_OUTPUT),
        _command("looks", "show-job", "Show a job and all that happened to it", ARG_JOB, ARG_OUTPUT),
        _command("looks", "list-queues", "List the queues: what waits, and who could take it", ARG_OUTPUT),
        _command("looks", "list-acts", "List what people did, the last first", ARG_SUBJECT, ARG_LIMIT, ARG_OUTPUT),
    )  # fmt: skip


def _acts() -> tuple[ActionCommand, ...]:
    maintenance = "Have workers take no more jobs; those that run go on"
    return (
        _command("acts", "cancel-job", "End jobs, and fail their tasks", ARG_JOBS, ARG_REASON),
        _command("acts", "request-maintenance", maintenance, ARG_WORKERS, ARG_WHY),
        _command("acts", "exit-maintenance", "Have workers take jobs again", ARG_WORKERS),
        _command(
            "drain", "drain", "Have workers take no more jobs, and wait until they hold none",
            *_FILTERS, ARG_WHY, ARG_TIMEOUT, ARG_YES,
        ),
        _command(
            "acts", "shutdown-worker", "Have workers end their jobs in order, and stop",
            ARG_WORKERS, ARG_COMMENT, ARG_YES,
        ),
        _command(
            "acts", "shutdown-all-workers", "Have all workers that are there end their jobs in order, and stop",
            ARG_SERVES, ARG_LABEL, ARG_COMMENT, ARG_YES,
        ),
        _command(
            "acts", "remove-worker", "Have workers forgotten, once nothing is heard of them and they hold no job",
            ARG_WORKERS, ARG_YES,
        ),
        _command("acts", "set-comment", "Say something of a worker", ARG_SOME, ARG_TEXT),
        _command("acts", "set-slots", "Have a worker run more or fewer tasks at once", ARG_SOME, ARG_SLOTS),
        _command("acts", "add-queues", "Have a worker serve more queues", ARG_SOME, ARG_QUEUES),
        _command("acts", "remove-queues", "Have a worker serve fewer queues", ARG_SOME, ARG_QUEUES),
        _command("acts", "reset-queues", "Have workers serve the queues with which they were started", ARG_WORKERS),
        _command(
            "purge", "purge", "Delete jobs that ended long ago, with their logs, and the record of acts of before that",
            ARG_OLDER_THAN, ARG_YES,
        ),
    )  # fmt: skip


def _access() -> tuple[ActionCommand, ...]:
    return (
        _command("access", "allow", "Let workers serve queues", ARG_PATTERN, ARG_ALLOWED, ARG_LIST, ARG_OUTPUT),
        _command(
            "access", "disallow", "Take back what was allowed in these words, all of it without queues",
            ARG_PATTERN, ARG_ALLOWED,
        ),
        _command(
            "access", "allow-calls", "Say which calls of the Execution API jobs of a queue may make",
            ARG_CALLS_QUEUE, ARG_RIGHTS, ARG_ALL, ARG_LIST, ARG_OUTPUT,
        ),
    )  # fmt: skip


def get_mqtt_cli_commands() -> list[GroupCommand]:
    """Return the group `airflow mqtt`."""
    text = "Look at and steer the workers and jobs of airflow-mqtt"
    return [GroupCommand(name="mqtt", help=text, subcommands=(*_looks(), *_acts(), *_access()))]
