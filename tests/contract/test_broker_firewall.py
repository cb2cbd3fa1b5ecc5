"""The firewall rules of `run-a-broker.md`, in a network namespace of the test's own: a real nftables and Mosquitto."""

import re
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from demo.brokers import Mosquitto
from mqtt_peer import Peer
from network import edge_network
from servers import missing, running

HOWTO = Path(__file__).parents[2] / "docs/how-to/run-a-broker.md"
EVENTS = "airflow/v1/worker/edge-1/events"

#: What the how-to says was enough, and how many of one address its rules let through.
MANY, LET_THROUGH = 1100, 20

#: Descriptors of the broker: the default of most systems, which those connections took.
DESCRIPTORS = "1024"


def rules() -> str:
    return re.search(r"^```\n(table inet mqtt .*?)^```", HOWTO.read_text(), re.MULTILINE | re.DOTALL)[1]


def test_one_address_cannot_keep_the_others_out(tmp_path: Path) -> None:
    """Without the rules the broker has no descriptor left for anybody."""
    if not (shutil.which("nft") and shutil.which("prlimit")):
        missing("the rules need nftables and util-linux")
    with ExitStack() as stack:
        network = stack.enter_context(edge_network())
        # The broker is inside. This machine's end of the cable has two addresses: one floods, the other is a device's.
        flooder, device = network.outside, network.outside.removesuffix(".1") + ".5"
        for address in (flooder, device):
            add = ["ip", "addr", "replace", f"{address}/29", "dev", f"{network.name}h"]
            subprocess.run(add, check=True, capture_output=True)
        inside = ["ip", "-n", network.name, "addr", "replace", f"{network.inside}/29", "dev", f"{network.name}w"]
        subprocess.run(inside, check=True, capture_output=True)
        loaded = subprocess.run(
            [*network.prefix, "nft", "-f", "-"], input=rules(), text=True, capture_output=True, check=False
        )
        if loaded.returncode:
            missing(f"the kernel does not take the rules: {loaded.stderr.strip()}")
        broker = Mosquitto(tmp_path / "broker", accounts=["edge-1"], port=1883, bind=network.inside)
        broker.command = [*network.prefix, "prlimit", f"--nofile={DESCRIPTORS}", *broker.command]
        stack.enter_context(running(broker))
        silent = [found for _ in range(MANY) if (found := _connection(stack, broker, flooder)) is not None]
        assert LET_THROUGH - 5 <= len(silent) <= LET_THROUGH  # some are the test's own, which looked for the broker
        assert all(_connection(stack, broker, device) for _ in range(3))
        with Peer(broker.url("bridge"), source=device) as reader:
            reader.subscribe(EVENTS)
            reader.publish(EVENTS, b"fine")
            reader.wait(EVENTS, b"fine")
        assert _connection(stack, broker, flooder) is None


def _connection(stack: ExitStack, broker: Mosquitto, address: str) -> socket.socket | None:
    """Return a connection from `address` that says nothing; None when it is refused."""
    try:
        made = socket.create_connection((broker.host, broker.port), timeout=60, source_address=(address, 0))
    except ConnectionRefusedError:
        return None
    return stack.enter_context(made)
