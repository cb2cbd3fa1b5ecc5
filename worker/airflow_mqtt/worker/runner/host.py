"""The warm process: it has the Task SDK loaded, and forks a supervisor for each job.

`python -m airflow_mqtt.worker.runner.host FD STATE_DIR WARM_BYTES`, started by the worker. It has one thread and no
sockets but its end of a socket pair (FD) and those to its nurseries, so that forking is safe. When the worker is gone
it ends, and its nurseries with it; supervisors go on.

Frames in: `{"op": "start", "job", "attempt", "workload", "max_call_bytes", "key"}`. Frames out:
`{"op": "ready"}`, `{"op": "exited", "job", "attempt", "status"}`, `{"op": "unusable", "reason"}`.

With WARM_BYTES above 0 (setting `warm_dags`) an order goes to the *nursery* of its Dag file, which has parsed it and is
made when the first order of a file comes (`nursery`). All nurseries together hold at most so many bytes.
"""

import functools
import gc
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from airflow_mqtt.worker import processes
from airflow_mqtt.worker.frames import pack
from airflow_mqtt.worker.runner import nursery as nurseries
from airflow_mqtt.worker.runner.forker import Forker
from airflow_mqtt.worker.runner.nursery import Key, Nursery, key_of, surplus, tend, unchanged
from airflow_mqtt.worker.runner.watch import Stamp

#: A nursery that is gone: whoever was forked from it is looked at by the worker.
NURSERY_GONE = 70  # EX_SOFTWARE


def main(arguments: list[str]) -> int:
    channel = socket.socket(fileno=int(arguments[0]))
    state_dir = Path(arguments[1])
    os.environ.setdefault("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "1")  # so that a cancel is heard soon
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the worker
    if _alone(channel):
        return 0
    try:
        load()
    except Exception as error:
        channel.sendall(pack({"op": "unusable", "reason": f"{type(error).__name__}: {error}"}))
        return 1
    channel.sendall(pack({"op": "ready"}))
    Host(channel, state_dir, int(arguments[2])).run()
    return 0


def _alone(channel: socket.socket) -> bool:
    """Whether the worker is gone already: what is loaded next takes 120 MB and seconds."""
    try:
        return not channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def load() -> None:
    gc.disable()
    from airflow_mqtt.worker.runner import compat, supervise  # noqa: F401, PLC0415  they load the Task SDK

    compat.warm_up()
    gc.enable()
    gc.collect()
    gc.freeze()  # what is loaded stays shared with the children: a collection would touch, and copy, each page


class Host(Forker):
    """Forks supervisors itself, or has a nursery fork them."""

    def __init__(self, channel: socket.socket, state_dir: Path, warm_bytes: int) -> None:
        super().__init__(channel, state_dir)
        self._warm_bytes = warm_bytes
        self._nurseries: dict[Key, Nursery] = {}
        self._retired_ones: list[Nursery] = []  # with tasks that run
        self._unfit: dict[Key, tuple[dict[str, Stamp], float]] = {}  # until they change, or that time

    def _round(self) -> None:
        super()._round()
        self._expire(time.monotonic())

    def _timeout(self) -> float | None:
        due = min((one.due for one in self._nurseries.values()), default=None)
        times = [super()._timeout(), None if due is None else max(0.0, due - time.monotonic())]
        return min((one for one in times if one is not None), default=None)

    def _start(self, order: dict[str, Any]) -> None:
        now = time.monotonic()
        key = key_of(order) if self._warm_bytes else None
        nursery = None if key is None else self._nursery(key, now)
        if nursery is None:
            super()._start(order)
            return
        nursery.used_at = now
        if nursery.warm:
            self._hand(nursery, order)
        else:
            nursery.waiting.append(order)

    def _nursery(self, key: Key, now: float) -> Nursery | None:
        """Return who takes orders of this file, or will once it is parsed; None when its tasks parse it."""
        held = self._nurseries.get(key)
        if held is not None and held.warm and not unchanged(held.stamps):
            self._retire(held)
            held = None
        if held is None and not self._is_unfit(key, now):
            held = self._found(key, now)
        return held

    def _is_unfit(self, key: Key, now: float) -> bool:
        stamps, until = self._unfit.get(key, ({}, 0.0))
        return now < until and unchanged(stamps)

    def _call_unfit(self, key: Key, why: str, stamps: dict[str, Stamp], until: float) -> None:
        print(f"tasks of {key[1]} parse it themselves: {why}", file=sys.stderr, flush=True)  # noqa: T201  into host.log
        self._unfit[key] = stamps, until
        while len(self._unfit) > nurseries.MOST_UNFIT:
            del self._unfit[next(iter(self._unfit))]

    def _found(self, key: Key, now: float) -> Nursery | None:
        forked = self._forked(lambda channel: tend(channel, self._state_dir, key, self._warm_bytes))
        if forked is None:
            return None
        pid, ours = forked
        made = self._nurseries[key] = Nursery(key, processes.identify(pid), ours, since=now, used_at=now)
        self._selector.register(ours, selectors.EVENT_READ, functools.partial(self._hear, made))
        return made

    def _hand(self, nursery: Nursery, order: dict[str, Any]) -> None:
        try:
            nursery.send(order)
        except OSError:
            nursery.running.discard((order["job"], order["attempt"]))
            self._kill(nursery)
            super()._start(order)

    def _hear(self, nursery: Nursery) -> None:
        if nursery.channel.fileno() < 0:
            return  # lost in this round
        frames = nursery.receive()
        for frame in frames or ():
            if frame["op"] == "parsed":
                self._parsed(nursery, frame)
            else:
                nursery.running.discard((frame["job"], frame["attempt"]))
                self._report(frame["job"], frame["attempt"], frame["status"])
        if frames is None:
            if not nursery.warm:
                until = time.monotonic() + nurseries.LONGEST_LIFE
                self._call_unfit(nursery.key, "its parse ended the process", {}, until)
            self._lose(nursery)

    def _parsed(self, nursery: Nursery, frame: dict[str, Any]) -> None:
        nursery.warm = True
        nursery.since = time.monotonic()
        nursery.size = frame["bytes"]
        nursery.stamps = {path: None if found is None else tuple(found) for path, found in frame["stamps"].items()}
        if frame["why"]:
            self._call_unfit(nursery.key, frame["why"], nursery.stamps, float("inf"))
            self._lose(nursery)
            return
        waiting, nursery.waiting = nursery.waiting, []
        for order in waiting:
            self._start(order)  # to it, or to another when a file has changed meanwhile
        for one in surplus([*self._nurseries.values(), *self._retired_ones], self._warm_bytes):
            self._retire(one)

    def _expire(self, now: float) -> None:
        for one in [one for one in self._nurseries.values() if now >= one.due]:
            if one.warm:
                self._retire(one)
            else:
                self._call_unfit(one.key, "its parse does not end", {}, now + nurseries.LONGEST_LIFE)
                self._kill(one)

    def _retire(self, nursery: Nursery) -> None:
        """Give it no more orders; it ends when its last task has."""
        nursery.retired = True
        del self._nurseries[nursery.key]
        self._retired_ones.append(nursery)
        try:
            nursery.send({"op": "retire"})
        except OSError:
            self._kill(nursery)

    def _kill(self, nursery: Nursery) -> None:
        processes.kill(nursery.process)
        self._lose(nursery)

    def _lose(self, nursery: Nursery) -> None:
        """It is gone, or does not count any more. Its tasks go on, and the worker is told to look at them."""
        self._selector.unregister(nursery.channel)
        nursery.channel.close()
        if nursery.retired:
            self._retired_ones.remove(nursery)
        else:
            del self._nurseries[nursery.key]
        for job, attempt in nursery.running:
            self._report(job, attempt, NURSERY_GONE)
        for order in nursery.waiting:
            super()._start(order)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
