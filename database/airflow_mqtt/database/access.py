"""The site's own word: which worker may serve which queue, and what jobs of a queue may call. Pure; no SQLAlchemy.

It is one document a team, with a revision, in `mqtt_access`. A worker says itself which queues it serves: that counts
as far as it is allowed here. Jobs may call all that tasks may call on any worker of Airflow, until their queue, or
`EVERY`, has an entry.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import orjson

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.topics import MAX_QUEUE_LENGTH

#: In a pattern it stands for any text. As a queue's name it stands for all that have no entry of their own.
EVERY: Final = "*"

_WORKER_PATTERN: Final = re.compile(r"[A-Za-z0-9_*-]{1,64}")


@dataclass(frozen=True)
class Access:
    """`serve` are pairs of a worker's and a queue's pattern, `calls` the rights of each queue that has an entry.

    `listed` is whether anybody has ever said who may serve what: an empty list is one, and not the same as none.
    """

    serve: tuple[tuple[str, str], ...] = ()
    calls: Mapping[str, frozenset[str]] = field(default_factory=dict)
    revision: int = 0
    listed: bool = False

    def may_serve(self, worker: str, queue: str) -> bool:
        """Whether `worker` may be given jobs of `queue`."""
        by_name, by_pattern = self._compiled
        if any(one.fullmatch(queue) for one in by_name.get(worker, ())):
            return True
        return any(name.fullmatch(worker) and one.fullmatch(queue) for name, one in by_pattern)

    def lines_for(self, worker: str) -> list[tuple[str, str]]:
        """The pairs of `serve` that fit the name of `worker`."""
        return [pair for pair in self.serve if _compile(pair[0]).fullmatch(worker)]

    def rights(self, queue: str) -> frozenset[str] | None:
        """What jobs of `queue` may call beyond their own; None: all."""
        return self.calls.get(queue, self.calls.get(EVERY))

    @cached_property
    def _compiled(self) -> tuple[dict[str, list[re.Pattern[str]]], list[tuple[re.Pattern[str], re.Pattern[str]]]]:
        """Workers that are named are found by their name: there may be thousands, and this is asked at each gate."""
        by_name: dict[str, list[re.Pattern[str]]] = {}
        by_pattern = []
        for worker, queue in self.serve:
            if EVERY in worker:
                by_pattern.append((_compile(worker), _compile(queue)))
            else:
                by_name.setdefault(worker, []).append(_compile(queue))
        return by_name, by_pattern


#: Whoever says that it serves a queue is believed.
OPEN: Final = Access(serve=((EVERY, EVERY),))

#: The settings of a bridge: the list counts, or it does not, or it does once there is one.
LISTED: Final = "listed"
ALL: Final = "all"
ONCE_LISTED: Final = "once-listed"


def in_force(access: Access, setting: str) -> Access:
    """Return what a bridge with this `setting` goes by."""
    if setting == ALL or (setting == ONCE_LISTED and not access.listed):
        return replace(access, serve=OPEN.serve)
    return access


def parse(document: str, revision: int) -> Access:
    """Return what stands in `document`. Raises `PayloadError` when it is none."""
    try:
        found: dict[str, Any] = orjson.loads(document)
        serve = tuple((str(worker), str(queue)) for worker, queue in found.get("serve", ()))
        calls = {str(queue): frozenset(map(str, rights)) for queue, rights in found.get("calls", {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise PayloadError(f"not a document of what is allowed: {error}") from None
    return Access(serve, calls, revision, listed="serve" in found)


def render(access: Access) -> str:
    """Return the document of `access`."""
    calls = {queue: sorted(rights) for queue, rights in sorted(access.calls.items())}
    serve = {"serve": access.serve} if access.listed else {}
    return orjson.dumps({**serve, "calls": calls}).decode()


def allow(access: Access, worker: str, queues: Iterable[str]) -> Access:
    """Let workers serve queues. Raises `PayloadError` for what no worker or queue is called."""
    if not _WORKER_PATTERN.fullmatch(worker):
        raise PayloadError(
            f"{worker[:50]!r} is no worker's name: 1 to 64 letters, digits, _ and -, with * for any of them"
        )
    pairs = dict.fromkeys([*access.serve, *((worker, checked_queue(queue)) for queue in queues)])
    return replace(access, serve=tuple(sorted(pairs)), listed=True)


def disallow(access: Access, worker: str, queues: Iterable[str]) -> Access:
    """Take back what was allowed in these words; without queues, all that `worker` was allowed."""
    gone = set(queues)
    kept = [pair for pair in access.serve if pair[0] != worker or (gone and pair[1] not in gone)]
    return replace(access, serve=tuple(kept), listed=True)


def allow_calls(access: Access, queue: str, rights: Iterable[str] | None) -> Access:
    """Let jobs of `queue` call what is their own, and what needs these rights; None takes its entry away."""
    calls = {name: known for name, known in access.calls.items() if name != queue}
    if rights is not None:
        calls[checked_queue(queue)] = frozenset(rights)
    return replace(access, calls=calls)


def checked_queue(queue: str) -> str:
    """Return `queue`. Raises `PayloadError` when no queue is called so."""
    if not 0 < len(queue) <= MAX_QUEUE_LENGTH or not queue.isprintable():
        raise PayloadError(f"{queue[:50]!r} is no queue's name: 1 to {MAX_QUEUE_LENGTH} printable characters")
    return queue


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split(EVERY))), re.DOTALL)
