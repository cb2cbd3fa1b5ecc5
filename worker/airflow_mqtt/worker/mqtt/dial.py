"""What can only be waited for on the way to a broker, in a thread: the resolver, TCP, the handshake of TLS.

The resolver (getaddrinfo(3)) has no time limit and cannot be interrupted. A dial that is given up is therefore left
alone: its thread ends when the resolver does, and closes what it then has.
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any

#: Threads of dials that were given up and have not ended; no more are begun beside as many.
MAX_DIALS = 4

_left: list[threading.Thread] = []


class Dial:
    """One call of `connect`, which returns a connected socket or raises, in a thread. Its end wakes `selector`.

    `OSError` when too many of those before it have not ended.
    """

    def __init__(self, connect: Callable[[], Any], selector: selectors.BaseSelector) -> None:
        _left[:] = [thread for thread in _left if thread.is_alive()]
        if len(_left) >= MAX_DIALS:
            raise OSError(f"{MAX_DIALS} attempts before this one still wait for the resolver")
        self.done = False
        self._channel: Any = None
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._given_up = False
        self._selector = selector
        self._wake, alarm = socket.socketpair()
        selector.register(self._wake, selectors.EVENT_READ, lambda _mask: None)
        self._thread = threading.Thread(target=self._run, args=(connect, alarm), name="dial", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._unwatch()
            raise OSError(str(error)) from None

    def _run(self, connect: Callable[[], Any], alarm: socket.socket) -> None:
        with alarm:  # whose end is what the selector sees
            channel, error = None, None
            try:
                channel = connect()
            except Exception as raised:
                error = raised
            with self._lock:
                self._channel, self._error, self.done = channel, error, True
                if self._given_up:
                    _close(channel)

    def take(self) -> Any:
        """Return the socket of one that is done, or raise what went wrong."""
        self._unwatch()
        if self._error is not None:
            raise self._error
        return self._channel

    def give_up(self) -> None:
        self._unwatch()
        with self._lock:
            self._given_up = True
            _close(self._channel)
        _left.append(self._thread)

    def _unwatch(self) -> None:
        if self._wake.fileno() >= 0:
            self._selector.unregister(self._wake)
            self._wake.close()


def _close(channel: Any) -> None:
    if channel is not None:
        with contextlib.suppress(OSError):
            channel.close()
