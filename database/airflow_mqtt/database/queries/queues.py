"""The queues of a team: what waits in each, and who could take it."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.queries.workers import EACH, online, served_queues, slots_of
from airflow_mqtt.protocol.workers import PLACEABLE

_job = tables.job.c
_worker = tables.worker.c

#: Workers that a note names.
_NAMED: Final = 3


@dataclass
class _Queue:
    waiting: int = 0
    oldest_at: float | None = None
    running: int = 0
    workers: int = 0
    ready: int = 0
    free: int = 0
    unallowed: list[str] = field(default_factory=list)


def list_queues(session: Session, team_name: str, access: Access) -> list[dict[str, Any]]:
    """Return each queue that has jobs or workers. What is free of a worker with several queues counts in each."""
    found: defaultdict[str, _Queue] = defaultdict(_Queue)
    for queue, waiting, oldest in session.execute(_waiting(team_name)):
        found[queue].waiting, found[queue].oldest_at = waiting, oldest
    used: Counter[str] = Counter()
    for queue, worker, running, slots in session.execute(_held(team_name)):
        found[queue].running += running
        used[worker] += slots
    for name, state, slots, queue in _serving(session, team_name):
        if not access.may_serve(name, queue):
            found[queue].unallowed.append(name)
            continue
        found[queue].workers += 1
        if state in PLACEABLE:
            found[queue].ready += 1
            found[queue].free += max(0, int(slots) - used[name])
    return [_shown(name, queue) for name, queue in sorted(found.items())]


def _waiting(team_name: str) -> Any:
    waits = (_job.team_name == team_name, _job.finished_at.is_(None), _job.worker.is_(None))
    return select(_job.queue, func.count(), func.min(_job.queued_at)).where(*waits).group_by(_job.queue)


def _held(team_name: str) -> Any:
    held = (_job.team_name == team_name, _job.finished_at.is_(None), _job.worker.is_not(None))
    columns = (_job.queue, _job.worker)
    return select(*columns, func.count(), func.sum(_job.slots)).where(*held).group_by(*columns)


def _serving(session: Session, team_name: str) -> Any:
    """Return (worker, its state, its slots, queue) for each queue that one of which something is heard serves."""
    served, queue = served_queues(session)
    columns = (_worker.name, _worker.state, slots_of(session), queue)
    query = select(*columns).select_from(tables.worker.join(served, EACH))
    return session.execute(query.where(_worker.team_name == team_name, online()).order_by(_worker.name))


def _shown(name: str, queue: _Queue) -> dict[str, Any]:
    return {
        "queue": name,
        "waiting": queue.waiting,
        "oldest_at": queue.oldest_at,
        "running": queue.running,
        "workers": queue.workers,
        "free": queue.free,
        "note": _note(name, queue),
    }


def _note(name: str, queue: _Queue) -> str:
    """Say why jobs wait that will not run by themselves, in the words of the bridge's status of this queue."""
    if not queue.waiting or queue.ready:
        return ""
    return f"jobs wait and no worker serves queue {name!r} now{_unallowed(queue.unallowed)}"


def _unallowed(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"; not allowed to: {', '.join(names[:_NAMED])}{more} (airflow mqtt allow)"
