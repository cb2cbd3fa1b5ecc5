"""StatsD lines of devices: https://github.com/statsd/statsd/blob/master/docs/metric_types.md, with DogStatsD's tags."""

import re
import socket
from collections.abc import Iterable, Iterator
from typing import Final

#: A name as Airflow makes it (InfluxDB's tags are part of it), a number, a type; a rate; tags.
_LINE: Final = re.compile(
    r"[A-Za-z0-9_./~-][A-Za-z0-9_./~=, -]{0,249}"
    r":[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,2})?"
    r"\|(?:c|g|ms|h|d)"
    r"(?:\|@[0-9.]{1,12})?"
    r"(?:\|#[A-Za-z0-9_./:, -]{1,200})?"
)

#: Before each line of a worker: who reads it knows whose it is, and that no Airflow has said it.
_PREFIX: Final = "mqtt"

#: Bytes of a packet that passes most networks in one piece.
_MOST_BYTES: Final = 1_400


def attributed(line: str, worker: str) -> str | None:
    """Return a worker's line with its name before it, or None when it is no line of StatsD."""
    return f"{_PREFIX}.{worker}.{line}" if _LINE.fullmatch(line) else None


def series_of(line: str) -> str:
    """Return what of a line makes a series of its own: its name and its tags."""
    name, _, rest = line.partition(":")
    return name + rest.partition("|#")[2]


def packets(lines: Iterable[str]) -> Iterator[bytes]:
    """Return what is sent: several lines in one packet, as far as they fit."""
    waiting = b""
    for line in lines:
        data = line.encode("ascii")
        if waiting and len(waiting) + 1 + len(data) > _MOST_BYTES:
            yield waiting
            waiting = b""
        waiting = waiting + b"\n" + data if waiting else data
    if waiting:
        yield waiting


class Statsd:
    """Sends lines to a server by UDP, and never waits. Its name is looked up once. Raises `OSError`."""

    def __init__(self, host: str, port: int) -> None:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        self._address = address

    def send(self, lines: Iterable[str]) -> int:
        """Send `lines`; return how many packets could not be sent."""
        lost = 0
        for packet in packets(lines):
            try:
                self._socket.sendto(packet, self._address)
            except OSError:  # nobody listens, or the kernel has no room
                lost += 1
        return lost

    def close(self) -> None:
        self._socket.close()
