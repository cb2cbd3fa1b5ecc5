"""What operators want of a worker: how the document in `mqtt_worker.desired` changes. Pure; no SQLAlchemy.

The document is `messages.Desired` without its revision, which has a column of its own; the bridge publishes both when
the revision goes up. None in it means: as the worker was started.
"""

from collections.abc import Iterable
from dataclasses import replace

import orjson

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Desired


def parse(document: str, revision: int) -> Desired:
    """Return what is wished in `document`. Raises `PayloadError` when it is none."""
    try:
        return Desired.stored({**orjson.loads(document), "revision": revision})
    except (ValueError, TypeError) as error:
        raise PayloadError(f"not a document of wishes: {error}") from None


def render(desired: Desired) -> str:
    """Return the document of `desired`."""
    document = orjson.loads(orjson.dumps(desired))
    del document["revision"]
    return orjson.dumps(document).decode()


def revised(desired: Desired) -> Desired:
    """Return `desired` with the next revision.

    Raises `PayloadError` for what a worker could not read: a comment or a list of queues that is too long.
    """
    try:
        document = orjson.loads(render(desired))
    except TypeError as error:  # a number or a text that JSON has no form for
        raise PayloadError(f"no worker can be told that: {error}") from None
    return Desired.from_object({**document, "revision": desired.revision + 1})


def request_maintenance(desired: Desired, comment: str) -> Desired:
    """Take no more jobs."""
    return replace(desired, maintenance=True, comment=comment)


def exit_maintenance(desired: Desired) -> Desired:
    """Take jobs again. It withdraws a shutdown as well, or a restart would end at once."""
    return replace(desired, maintenance=False, shutdown=False, comment="")


def shutdown(desired: Desired, comment: str) -> Desired:
    """End the jobs that run, then stop."""
    return replace(desired, shutdown=True, comment=comment)


def end_shutdown(desired: Desired) -> Desired:
    """It was followed: whoever starts the worker again wants it to work. What was said of it stays."""
    return replace(desired, shutdown=False)


def set_comment(desired: Desired, comment: str) -> Desired:
    return replace(desired, comment=comment)


def set_slots(desired: Desired, slots: int | None) -> Desired:
    return replace(desired, slots=slots)


def add_queues(desired: Desired, own: Iterable[str], queues: Iterable[str]) -> Desired:
    """Serve `queues` too. `own` are those with which the worker was started."""
    return replace(desired, queues=list(dict.fromkeys([*_served(desired, own), *queues])))


def remove_queues(desired: Desired, own: Iterable[str], queues: Iterable[str]) -> Desired:
    """Serve `queues` no more. `own` are those with which the worker was started."""
    gone = set(queues)
    return replace(desired, queues=[queue for queue in _served(desired, own) if queue not in gone])


def reset_queues(desired: Desired) -> Desired:
    """Serve the queues with which the worker was started."""
    return replace(desired, queues=None)


def _served(desired: Desired, own: Iterable[str]) -> Iterable[str]:
    return own if desired.queues is None else desired.queues
