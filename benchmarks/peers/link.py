"""The device's cable: a network namespace of its own, whose counters are those of its link. Needs root."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: What the counters of a cable have for each packet and no meter of a mobile link has.
_ETHERNET: Final = 14


@dataclass(frozen=True, slots=True)
class Link:
    """`host` is where everything else listens, `prefix` runs a command at the other end; `device` counts, if any."""

    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    device: str = ""

    def bytes(self) -> int | None:
        """Return how many bytes have passed in both directions, IP and TCP included; None: nobody counts."""
        if not self.device:
            return None
        counters = Path(f"/sys/class/net/{self.device}/statistics")
        read = {name: int((counters / name).read_text()) for name in _COUNTERS}
        return read["rx_bytes"] + read["tx_bytes"] - _ETHERNET * (read["rx_packets"] + read["tx_packets"])


_COUNTERS: Final = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")


@contextmanager
def link() -> Iterator[Link]:
    """A cable to a namespace; without root none, and the worker lives beside the rest."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("not root, or no iproute2: links are not measured", flush=True)
        yield Link()
        return
    with _edge_network() as network:
        yield Link(network.outside, tuple(network.prefix), f"{network.name}h")


def _edge_network() -> Any:
    """The one of the tests, which have no types."""
    from network import edge_network  # type: ignore[import-not-found]  # noqa: PLC0415

    return edge_network()
