"""What schedulers, API servers and commands know of the workers: which queues are served, and which may be."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from airflow.configuration import conf
from sqlalchemy import Column, select
from sqlalchemy.orm import Session

from airflow_mqtt.database import operations, tables
from airflow_mqtt.database.access import OPEN, Access
from airflow_mqtt.database.records import WORKER_COLUMNS, Worker, understood
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.workers import GONE

_COLUMNS: Final[tuple[Column[object], ...]] = tuple(tables.worker.c[name] for name in WORKER_COLUMNS)


def enforced(session: Session, team_name: str) -> Access:
    """Return what the bridge goes by: the list, unless `[mqtt] allow` says otherwise where this runs too."""
    if conf.get("mqtt", "allow", fallback=None) == "all":
        return OPEN
    try:
        return operations.allowed(session, team_name)
    except PayloadError:  # nor does the bridge allow anything then, and says why
        return Access()


def served(session: Session, team_name: str) -> Counter[str]:
    """Return queue -> how many workers that live serve it, and may."""
    living = select(*_COLUMNS).where(
        tables.worker.c.team_name == team_name, tables.worker.c.state.not_in([state.value for state in GONE])
    )
    access = enforced(session, team_name)
    workers = understood(Worker.of, (tuple(row) for row in session.execute(living)))
    return Counter(queue for one in workers for queue in one.queues if access.may_serve(one.name, queue))


def queue_of_callback(last: str | None, default: str, served: Mapping[str, int]) -> str:
    """Return where a callback goes of which nobody has said so.

    Where its Dag's tasks went `last`: what it imports is there. Else where it is served: to Airflow's `default`, or to
    the queue with the most workers.
    """
    if last is not None:
        return last
    if default in served or not served:
        return default
    return min(served, key=lambda queue: (-served[queue], queue))
