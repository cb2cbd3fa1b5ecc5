"""The commands of `airflow mqtt`, without the code behind them: every `airflow` command reads this module."""

from typing import Final

from airflow.cli.cli_config import ARG_OUTPUT, ARG_VERBOSE, ActionCommand, Arg, GroupCommand, lazy_load_command

from airflow_mqtt.protocol.execution_api import RIGHTS
from airflow_mqtt.protocol.jobs import JobState

_COMMANDS: Final = "airflow_mqtt.executor.cli.commands"

ARG_TEAM: Final = Arg(("--team-name",), default="", help="Team of the workers or jobs; without one, those of no team")
ARG_WORKER: Final = Arg(("name",), help="Name of the worker")
ARG_JOB: Final = Arg(("job",), help="Id of the job, as list-jobs shows it")
ARG_COMMENT: Final = Arg(("-c", "--comment"), default="", help="Why; shown to whoever looks at the worker")
ARG_TEXT: Final = Arg(("comment",), help="What is shown to whoever looks at the worker; an empty one takes it away")
ARG_SLOTS: Final = Arg(
    ("slots",), type=int, nargs="?", help="How many tasks at once, counted by pool_slots; without it, as it was started"
)
ARG_QUEUES: Final = Arg(("queues",), nargs="+", metavar="queue", help="Name of a queue")
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
ARG_REASON: Final = Arg(("-r", "--reason"), default="cancelled by hand", help="Why; shown as the job's reason")
ARG_STATE: Final = Arg(
    ("--state",), action="append", choices=[state.value for state in JobState], help="Only jobs in this state"
)
ARG_QUEUE: Final = Arg(("-q", "--queue"), help="Only jobs of this queue")
ARG_OF_WORKER: Final = Arg(("-w", "--worker"), help="Only jobs of this worker")
ARG_LIMIT: Final = Arg(("-n", "--limit"), type=int, default=50, help="How many jobs, the newest first (50)")
ARG_DEVICE: Final = Arg(("--device",), metavar="NAME", help="A worker whose account at the broker is looked at, too")
ARG_BROKER_URL: Final = Arg(
    ("--broker-url",),
    metavar="URL",
    help="How that device comes to the broker; better in AIRFLOW_MQTT_DEVICE_URL, since everybody here sees flags",
)


def _command(name: str, text: str, *args: Arg) -> ActionCommand:
    function = lazy_load_command(f"{_COMMANDS}.{name.replace('-', '_')}")
    return ActionCommand(name=name, help=text, func=function, args=(*args, ARG_TEAM, ARG_VERBOSE))


def get_mqtt_cli_commands() -> list[GroupCommand]:
    """Return the group `airflow mqtt`."""
    return [
        GroupCommand(
            name="mqtt",
            help="Look at and steer the workers and jobs of airflow-mqtt",
            subcommands=(
                ActionCommand(
                    name="check",
                    help="Look at all that a new site gets wrong, and say what to do; exit code 1 on a fault",
                    func=lazy_load_command("airflow_mqtt.executor.cli.check_command.run"),
                    args=(ARG_DEVICE, ARG_BROKER_URL, ARG_OUTPUT, ARG_TEAM, ARG_VERBOSE),
                ),
                _command("list-workers", "List the workers and their states", ARG_OUTPUT),
                _command("list-jobs", "List jobs", ARG_STATE, ARG_QUEUE, ARG_OF_WORKER, ARG_LIMIT, ARG_OUTPUT),
                _command("show-job", "Show a job and all that happened to it", ARG_JOB, ARG_OUTPUT),
                _command("cancel-job", "End a job, and fail its task", ARG_JOB, ARG_REASON),
                _command(
                    "request-maintenance",
                    "Have a worker take no more jobs; those that run go on",
                    ARG_WORKER,
                    ARG_COMMENT,
                ),
                _command("exit-maintenance", "Have a worker take jobs again", ARG_WORKER),
                _command("shutdown-worker", "Have a worker end its jobs in order, and stop", ARG_WORKER, ARG_COMMENT),
                _command(
                    "remove-worker",
                    "Have a worker forgotten, once nothing is heard of it and it holds no job",
                    ARG_WORKER,
                ),
                _command("set-comment", "Say something of a worker", ARG_WORKER, ARG_TEXT),
                _command("set-slots", "Have a worker run more or fewer tasks at once", ARG_WORKER, ARG_SLOTS),
                _command("add-queues", "Have a worker serve more queues", ARG_WORKER, ARG_QUEUES),
                _command("remove-queues", "Have a worker serve fewer queues", ARG_WORKER, ARG_QUEUES),
                _command("allow", "Let workers serve queues", ARG_PATTERN, ARG_ALLOWED, ARG_LIST, ARG_OUTPUT),
                _command(
                    "disallow",
                    "Take back what was allowed in these words, all of it without queues",
                    ARG_PATTERN,
                    ARG_ALLOWED,
                ),
                _command(
                    "allow-calls",
                    "Say which calls of the Execution API jobs of a queue may make",
                    ARG_CALLS_QUEUE,
                    ARG_RIGHTS,
                    ARG_ALL,
                    ARG_LIST,
                    ARG_OUTPUT,
                ),
                _command("reset-queues", "Have a worker serve the queues with which it was started", ARG_WORKER),
            ),
        )
    ]
