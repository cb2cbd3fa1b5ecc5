"""A place from which only one address can be reached: a network namespace with a cable to this machine."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from servers import missing

_numbers = itertools.count(os.getpid() % 200)

#: Exits with 0 when a TCP connection is taken.
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()"


@dataclass(frozen=True)
class EdgeNetwork:
    """`outside` is this machine's end of the cable, and the only address that `inside` can reach."""

    name: str
    outside: str
    inside: str

    @property
    def prefix(self) -> list[str]:
        """What goes before a command that is to run inside."""
        return ["ip", "netns", "exec", self.name]

    def reaches(self, host: str, port: int) -> bool:
        """Whether a process inside gets a TCP connection to `host`:`port`."""
        command = [*self.prefix, sys.executable, "-c", _CONNECT, host, str(port)]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0

    def unplug(self) -> None:
        """Pull the cable: no reset, no answer, as with a radio link that is gone."""
        _ip("link", "set", f"{self.name}h", "down")

    def plug(self) -> None:
        _ip("link", "set", f"{self.name}h", "up")


@contextmanager
def edge_network() -> Iterator[EdgeNetwork]:
    """A new namespace. Nothing is routed: from inside there is no way beyond this machine's end of the cable."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        missing("a network namespace needs root and iproute2")
    number = next(number % 250 for number in _numbers if not _taken(f"amqtt{number % 250}"))
    network = EdgeNetwork(f"amqtt{number}", f"10.213.{number}.1", f"10.213.{number}.2")
    made = subprocess.run(["ip", "netns", "add", network.name], capture_output=True, text=True, check=False)
    if made.returncode:
        missing(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        _wire(network)
        yield network
    finally:
        _clear(network.name)


def _taken(name: str) -> bool:
    """Whether a run that was killed has left a namespace, or its end of a cable."""
    return (
        Path(f"/run/netns/{name}").exists()
        or subprocess.run(["ip", "link", "show", f"{name}h"], capture_output=True, check=False).returncode == 0
    )


def _clear(name: str) -> None:
    """End what still runs inside (it would keep the cable), and take the namespace away."""
    inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in inside.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "del", name)


def _wire(network: EdgeNetwork) -> None:
    name, here, there = network.name, f"{network.name}h", f"{network.name}w"
    _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
    _ip("addr", "add", f"{network.outside}/30", "dev", here)
    _ip("link", "set", here, "up")
    _ip("-n", name, "addr", "add", f"{network.inside}/30", "dev", there)
    _ip("-n", name, "link", "set", there, "up")
    _ip("-n", name, "link", "set", "lo", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
