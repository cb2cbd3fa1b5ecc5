"""What all commands share: how they end when something is wrong, and how a person is asked."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import wraps
from typing import Final

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.platform import getuser
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from sqlalchemy.exc import DBAPIError

from airflow_mqtt.config.printing import plain
from airflow_mqtt.database.errors import is_transient, lacks_tables, refusal, said_by
from airflow_mqtt.executor.cli.output import refuse
from airflow_mqtt.protocol.errors import PayloadError

#: Exit code of who has nobody any more to tell it to: as a shell has it of SIGPIPE.
PIPE_CLOSED: Final = 141


def command(function: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Make a command as Airflow's own are: its logs do not mix with what is printed.

    A database that does not answer, or lacks our tables, is one line; a pipe that is closed is none.
    """

    @wraps(function)
    def told(args: Namespace) -> None:
        try:
            function(args)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever reads has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(PIPE_CLOSED) from None
        except PayloadError as error:
            refuse(f"That cannot be done: {error}")
        except DBAPIError as error:
            if lacks_tables(error):
                refuse("the database has not the tables of airflow-mqtt: run `airflow db migrate`")
            if is_transient(error) or refusal(error):
                refuse(f"the database does not answer: {said_by(error)}; check [database] sql_alchemy_conn")
            raise

    made: Callable[[Namespace], None] = suppress_logs_and_warning(providers_configuration_loaded(told))
    return made


def who() -> str:
    """Return who gives this command, for the record."""
    return f"cli:{getuser()}"


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person, unless `yes` was said before; end the command unless he agrees."""
    if yes:
        return
    if not sys.stdin.isatty():
        refuse(f"{question} Nobody is there to be asked: say --yes")
    if input(f"{plain(question)} [y/N] ").strip().lower() not in ("y", "yes"):
        refuse("Nothing was done")
