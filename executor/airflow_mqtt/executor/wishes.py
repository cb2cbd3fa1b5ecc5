"""Operators' wishes for a worker: how the document in `mqtt_worker.desired` changes. Pure.

The document is `messages.Desired` without its revision, which has a column of its own; the bridge publishes both when
the revision goes up.
"""

from dataclasses import replace
from enum import StrEnum
from typing import Any, Final

import orjson

from airflow_mqtt.protocol.messages import Desired


class Command(StrEnum):
    """What an operator may want of a worker."""

    ENTER = "request-maintenance"  # take no more jobs
    EXIT = "exit-maintenance"  # take jobs again: withdraws a shutdown as well, or a restart would end at once
    STOP = "shutdown-worker"  # end the jobs that run, then stop


_CHANGES: Final[dict[Command, dict[str, Any]]] = {
    Command.ENTER: {"maintenance": True},
    Command.EXIT: {"maintenance": False, "shutdown": False},
    Command.STOP: {"shutdown": True},
}


def parse(document: str, revision: int) -> Desired:
    """Return the wishes in `document`. Raises `PayloadError` when it is none."""
    return Desired.from_object({**orjson.loads(document), "revision": revision})


def change(desired: Desired, command: Command, comment: str) -> Desired:
    """Return what is wished after `command`, with the next revision."""
    return replace(desired, **_CHANGES[command], comment=comment, revision=desired.revision + 1)


def render(desired: Desired) -> str:
    """Return the document of `desired`."""
    document = orjson.loads(orjson.dumps(desired))
    del document["revision"]
    return orjson.dumps(document).decode()
