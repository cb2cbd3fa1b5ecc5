"""A TCP proxy that can cut, stall, delay, limit and reset what flows through it."""

import contextlib
import enum
import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Self


class Direction(enum.Flag):
    """Which way bytes flow."""

    UP = enum.auto()  # from the client to the server
    DOWN = enum.auto()  # from the server to the client
    BOTH = UP | DOWN


@dataclass
class _Pipe:
    """One direction of one connection: bytes that were read, each with the time from which they may be written."""

    source: socket.socket
    target: socket.socket
    direction: Direction
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    size: int = 0
    budget: float = 0.0
    ended: bool = False
    frozen: bool = False


class Proxy:
    """Listens on `port` and forwards to `host`:`target`. All switches but one hold for present and future connections.

    `cut` refuses and resets connections, `stall` keeps them open and lets nothing through (in one direction or
    both), `freeze` does so with the present ones only, `delay` adds seconds, `limit` bounds the bytes per second of each connection and direction, `reset`
    ends that share of new connections at once. `heal` undoes all of it.
    """

    CHUNK = 16 * 1024
    WINDOW = 256 * 1024

    def __init__(self, target: int, *, host: str = "127.0.0.1", bind: str = "127.0.0.1", seed: int = 0) -> None:
        self.target = (host, target)
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._pipes: list[_Pipe] = []
        self._listener = socket.create_server((bind, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.bytes = {Direction.UP: 0, Direction.DOWN: 0}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self.heal()

    # --- switches

    def heal(self) -> None:
        with self._lock:
            self._refusing = False
            self._stalled = Direction(0)
            self._delay = 0.0
            self._rate: float | None = None
            self._reset_share = 0.0
            for pipe in self._pipes:
                pipe.frozen = False

    def cut(self) -> None:
        with self._lock:
            self._refusing = True
            self.drop()

    def drop(self) -> None:
        """Reset the present connections; new ones are taken."""
        with self._lock:
            for pipe in list(self._pipes):
                self._close(pipe, abrupt=True)

    def stall(self, direction: Direction = Direction.BOTH) -> None:
        with self._lock:
            self._stalled = direction

    def freeze(self) -> None:
        """Let the present connections stand, and nothing through; new ones work."""
        with self._lock:
            for pipe in self._pipes:
                pipe.frozen = True

    def delay(self, seconds: float) -> None:
        with self._lock:
            self._delay = seconds

    def limit(self, bytes_per_second: float | None) -> None:
        with self._lock:
            self._rate = bytes_per_second

    def reset(self, share: float) -> None:
        with self._lock:
            self._reset_share = share

    # --- life

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(5)
        self._listener.close()
        self.drop()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stopping.is_set():
            self._wait()
            with self._lock:
                now = time.monotonic()
                self._accept()
                for pipe in list(self._pipes):
                    self._read(pipe, now)
                    self._write(pipe, now, now - last)
            last = now

    def _wait(self) -> None:
        """Sleep until something can be read, or for a moment when bytes wait for their time."""
        with self._lock:
            busy = any(pipe.waiting for pipe in self._pipes)
            sources = [self._listener, *(pipe.source for pipe in self._pipes if self._readable(pipe))]
        # A socket may be closed by `drop` in the meantime.
        with contextlib.suppress(OSError, ValueError, KeyError), selectors.DefaultSelector() as selector:
            for source in sources:
                selector.register(source, selectors.EVENT_READ)
            selector.select(0.002 if busy else 0.02)

    def _readable(self, pipe: _Pipe) -> bool:
        return not pipe.ended and pipe.size < self.WINDOW and not self._stands(pipe)

    def _stands(self, pipe: _Pipe) -> bool:
        return pipe.frozen or bool(pipe.direction & self._stalled)

    def _accept(self) -> None:
        self._listener.setblocking(False)
        while True:
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, OSError):
                return
            self.connections += 1
            if self._refusing or self._random.random() < self._reset_share:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self.target, timeout=2)
            except OSError:
                _reset(client)
                continue
            for end in (client, server):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pipes += [_Pipe(client, server, Direction.UP), _Pipe(server, client, Direction.DOWN)]

    def _read(self, pipe: _Pipe, now: float) -> None:
        if pipe not in self._pipes or not self._readable(pipe):
            return
        try:
            data = pipe.source.recv(self.CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._close(pipe, abrupt=True)
            return
        if data:
            pipe.waiting.append((now + self._delay, data))
            pipe.size += len(data)
        else:
            pipe.ended = True

    def _write(self, pipe: _Pipe, now: float, elapsed: float) -> None:
        if self._rate is not None:
            pipe.budget = max(0.0, min(pipe.budget + self._rate * elapsed, max(self._rate, 1.0)))
        while pipe in self._pipes and pipe.waiting and not self._stands(pipe):
            due, data = pipe.waiting[0]
            allowed = len(data) if self._rate is None else min(len(data), int(pipe.budget))
            if due > now or not allowed:
                return
            try:
                sent = pipe.target.send(data[:allowed])
            except BlockingIOError:
                return
            except OSError:
                self._close(pipe, abrupt=True)
                return
            self._sent(pipe, due, data, sent)
        if pipe in self._pipes and pipe.ended and not pipe.waiting:
            self._close(pipe, abrupt=False)

    def _sent(self, pipe: _Pipe, due: float, data: bytes, sent: int) -> None:
        self.bytes[pipe.direction] += sent
        pipe.size -= sent
        pipe.budget = max(0.0, pipe.budget - sent)
        pipe.waiting.popleft()
        if sent < len(data):
            pipe.waiting.appendleft((due, data[sent:]))

    def _close(self, pipe: _Pipe, *, abrupt: bool) -> None:
        for end in (pipe.source, pipe.target):
            _reset(end) if abrupt else end.close()
        self._pipes = [other for other in self._pipes if other.source not in (pipe.source, pipe.target)]


def _reset(end: socket.socket) -> None:
    """Close with RST, as a middlebox or a crashed peer does."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
