"""Unix sockets at any path: an address holds about 100 bytes only (`sockaddr_un`), a state directory may be longer."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LONGEST_ADDRESS = 100


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen(path: Path) -> socket.socket:
    """Listen at `path`, for this user only, in the place of whoever listened there before."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        with _address(path) as address:
            listener.bind(address)
    finally:
        os.umask(mask)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def connect(path: Path) -> socket.socket:
    """Connect to `path`; `OSError` when nobody listens."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            channel.connect(address)
    except OSError:
        channel.close()
        raise
    return channel
