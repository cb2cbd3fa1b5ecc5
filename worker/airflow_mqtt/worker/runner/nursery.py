"""A process that holds one parsed Dag file; the tasks of that file are forked from it.

It is forked from the warm process, and dies alone: what a Dag file does while it is parsed, and the modules that it
brings, are in no other file's way. The warm process knows each as a `Nursery`. Frames to it are those of `host`, and
`{"op": "retire"}`. Frames from it: `{"op": "parsed", "why", "stamps", "bytes"}`, then `exited` as of a host. `why` says
why tasks of this file are not forked here, and is mostly empty; `stamps` what must not change for that to stay so.
"""

import gc
import os
import signal
import socket
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.worker import processes
from airflow_mqtt.worker.frames import Unpacker, pack
from airflow_mqtt.worker.runner.forker import Forker
from airflow_mqtt.worker.runner.watch import Stamp, stamp

#: How many files are held at most.
MOST = 8

#: A Dag may depend on what nobody sees it read, such as the time of day. It is parsed again after as many seconds.
LONGEST_LIFE = 300.0

#: Who is not done with a file by then is killed, and its tasks parse the file themselves.
LONGEST_PARSE = 60.0

#: Files that are not held and why, at most.
MOST_UNFIT = 256

Key = tuple[str, str]  # of a bundle, and the file's path in it
Attempt = tuple[str, int]


def key_of(order: dict[str, Any]) -> Key | None:
    """Return the file whose parsed Dags this order may take, None when its task has to parse for itself.

    A versioned bundle is fetched by the task. A zip file's modules have the names of those in any other.
    """
    workload = order["workload"]
    bundle, path = workload.get("bundle_info") or {}, workload.get("dag_rel_path")
    warm = workload.get("type") == "ExecuteTask" and bundle.get("version") is None and str(path).endswith(".py")
    return (str(bundle.get("name")), str(path)) if warm else None


# --- the warm process's side ------------------------------------------------------------------------------


@dataclass(slots=True)
class Nursery:
    """One that was forked. It is parsing until it is `warm`, and takes no orders once it is `retired`."""

    key: Key
    process: processes.ProcessId
    channel: socket.socket
    since: float
    used_at: float
    warm: bool = False
    retired: bool = False
    size: int = 0
    stamps: dict[str, Stamp] = field(default_factory=dict)
    waiting: list[dict[str, Any]] = field(default_factory=list)  # orders that came while it was parsing
    running: set[Attempt] = field(default_factory=set)
    unpacker: Unpacker = field(default_factory=Unpacker)

    def send(self, order: dict[str, Any]) -> None:
        """`OSError` when it does not take it."""
        if order["op"] == "start":
            self.running.add((order["job"], order["attempt"]))
        self.channel.sendall(pack(order))

    def receive(self) -> list[dict[str, Any]] | None:
        """Return what it says; None when it is gone."""
        try:
            data = self.channel.recv(262144)
            return list(self.unpacker.feed(data)) if data else None
        except (OSError, PayloadError):
            return None

    @property
    def due(self) -> float:
        """When its time is over."""
        return self.since + (LONGEST_LIFE if self.warm else LONGEST_PARSE)


def unchanged(stamps: dict[str, Stamp]) -> bool:
    return all(stamp(path) == found for path, found in stamps.items())


def surplus(nurseries: Iterable[Nursery], most_bytes: int) -> list[Nursery]:
    """Return those to be retired, least used first, so that the rest is within the bounds; never the one used last."""
    warm = sorted((one for one in nurseries if not one.retired), key=lambda one: one.used_at)
    size = sum(one.size for one in nurseries)
    found: list[Nursery] = []
    for one in warm[:-1]:
        if len(warm) - len(found) <= MOST and size <= most_bytes:
            break
        found.append(one)
        size -= one.size
    return found


# --- its own side -----------------------------------------------------------------------------------------


def tend(channel: socket.socket, state_dir: Path, key: Key, most_bytes: int) -> NoReturn:
    """Be the nursery of `key`, in this forked process, to its end."""
    status = 70  # EX_SOFTWARE
    try:
        processes.end_with_parent()
        from airflow_mqtt.worker.runner import compat  # noqa: PLC0415  loaded already

        why, stamps = compat.parse_ahead(*key)
        for number in (signal.SIGSEGV, signal.SIGALRM):  # the parse has left handlers of its own
            signal.signal(number, signal.SIG_DFL)
        gc.collect()
        gc.freeze()
        size = own_memory()
        if size > most_bytes:
            why = why or f"it takes {size >> 20} MiB"
        channel.sendall(pack({"op": "parsed", "why": why, "stamps": stamps, "bytes": size}))
        if not why:
            Forker(channel, state_dir).run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def own_memory() -> int:
    """Return how many bytes this process shares with no other (proc(5), smaps_rollup); 0 where that cannot be told."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
