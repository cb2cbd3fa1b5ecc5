"""TCP links that can be stalled in one direction, dropped and reset, and that cost next to nothing while they are whole.

`proxy.Proxy` can do more, and polls for it; with seven of them and hundreds of jobs that is most of what a run costs.
"""

import contextlib
import random
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from proxy import Direction, _reset

CHUNK = 64 * 1024
WINDOW = 256 * 1024


@dataclass(eq=False)
class _End:
    """One end of a connection: what is read here goes to `other`, what waits in `out` goes out here."""

    channel: socket.socket
    reads: Direction  # of what is read here
    other: "_End | None" = None
    out: bytearray = field(default_factory=bytearray)
    ended: bool = False
    interest: int = 0


class Link:
    """Listens on `port` and forwards to `target`, both on 127.0.0.1. Switches hold for present and future connections."""

    def __init__(self, target: int, *, seed: int) -> None:
        self._target = ("127.0.0.1", target)
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._alarm = socket.socketpair()
        self._orders: list[Callable[[], None]] = []
        self._ends: set[_End] = set()
        self._stalled = Direction(0)
        self._share = 0.0
        self._running = True
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"link-{self.port}", daemon=True)

    # --- switches

    def stall(self, direction: Direction) -> None:
        self._order(lambda: self._set(direction, self._share))

    def reset(self, share: float) -> None:
        """Reset that share of new connections."""
        self._order(lambda: self._set(self._stalled, share))

    def heal(self) -> None:
        self._order(lambda: self._set(Direction(0), 0.0))

    def drop(self) -> None:
        """Reset the present connections."""
        self._order(lambda: [self._close(end, abrupt=True) for end in list(self._ends)] and None)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        with contextlib.suppress(OSError):
            self._alarm.send(b".")

    def _set(self, stalled: Direction, share: float) -> None:
        self._stalled, self._share = stalled, share
        for end in self._ends:
            self._watch(end)

    # --- life

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._order(self._stop)
        self._thread.join(5)

    def _stop(self) -> None:
        self._running = False
        for end in list(self._ends):
            self._close(end, abrupt=True)
        self._listener.close()

    def _run(self) -> None:
        while self._running:
            for key, mask in self._selector.select():
                if key.fileobj is self._wake:
                    self._obey()
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._ends:
                    self._serve(key.data, mask)

    def _obey(self) -> None:
        self._wake.recv(4096)
        while self._orders:
            self._orders.pop(0)()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        try:
            if self._random.random() < self._share:
                raise ConnectionResetError
            server = socket.create_connection(self._target, timeout=2)
        except OSError:
            _reset(client)
            return
        here, there = _End(client, Direction.UP), _End(server, Direction.DOWN)
        here.other, there.other = there, here
        for end in (here, there):
            end.channel.setblocking(False)
            end.channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends.add(end)
            self._watch(end)

    def _watch(self, end: _End) -> None:
        """Wait for what may be read here, and for room for what is to be written."""
        other = end.other
        assert other is not None
        interest = 0
        if not end.ended and not end.reads & self._stalled and len(other.out) < WINDOW:
            interest |= selectors.EVENT_READ
        if end.out and not other.reads & self._stalled:
            interest |= selectors.EVENT_WRITE
        if interest == end.interest:
            return
        if not end.interest:
            self._selector.register(end.channel, interest, end)
        elif not interest:
            self._selector.unregister(end.channel)
        else:
            self._selector.modify(end.channel, interest, end)
        end.interest = interest

    def _serve(self, end: _End, mask: int) -> None:
        other = end.other
        assert other is not None
        try:
            if mask & selectors.EVENT_READ:
                data = end.channel.recv(CHUNK)
                other.out += data
                end.ended = not data
                self._flush(other)
            if mask & selectors.EVENT_WRITE:
                self._flush(end)
        except BlockingIOError:
            pass
        except OSError:
            self._close(end, abrupt=True)
            return
        if (end.ended and not other.out) or (other.ended and not end.out):
            self._close(end, abrupt=False)
        else:
            self._watch(end)
            self._watch(other)

    def _flush(self, end: _End) -> None:
        if end.out:
            with contextlib.suppress(BlockingIOError):
                del end.out[: end.channel.send(end.out)]

    def _close(self, end: _End, *, abrupt: bool) -> None:
        for one in (end, end.other):
            if one is None or one not in self._ends:
                continue
            self._ends.discard(one)
            if one.interest:
                self._selector.unregister(one.channel)
            _reset(one.channel) if abrupt else one.channel.close()
