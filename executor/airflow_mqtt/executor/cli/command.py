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
from airflow_mqtt.database.errors import for_operator
from airflow_mqtt.executor.cli.output import refuse
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import cut

#: Exit code of who has nobody any more to tell it to: as a shell has it of SIGPIPE.
PIPE_CLOSED: Final = 141


def command(function: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Make a command as Airflow's own are: its logs do not mix with what is printed.

    What the database does not do is one line; a pipe that is closed is none.
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
        except UnicodeEncodeError as error:  # an argument of bytes that are no text
            refuse(f"That cannot be done: {cut(error.object)} is no text in UTF-8")
        except DBAPIError as error:
            refuse(for_operator(error))

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
