"""What a real worker says of its device, and when it takes itself out of service."""

from collections.abc import Callable
from pathlib import Path

import servers
from airflow_mqtt.protocol.messages import WorkerStatus
from servers import running, wait_for
from worker_bench import FakeBridge, WorkerProcess

NAME = "edge-1"

MODULE = """
from pathlib import Path
import airflow.sdk
def read():
    return {"door": Path(__file__).with_name("door").read_text(), "sdk": airflow.sdk.__name__}
"""


def told(bridge: FakeBridge, what: Callable[[WorkerStatus], bool]) -> WorkerStatus:
    found: list[WorkerStatus] = []

    def look() -> bool:
        found[:] = [status for status, _ in bridge.statuses if what(status)]
        return bool(found)

    wait_for(look, what="such a status", timeout=60)
    return found[-1]


def test_a_worker_tells_the_health_of_its_device(broker: servers.Mosquitto, bridge: FakeBridge, tmp_path: Path) -> None:
    """The site's own function imports Airflow, and the worker's process does not."""
    home = tmp_path / "worker"
    home.mkdir()
    (home / "site_health.py").write_text(MODULE)
    (home / "door").write_text("closed")
    worker = WorkerProcess(
        home, broker.url(NAME), heartbeat_interval=1, health_interval=1, health_function="site_health:read"
    )
    with running(worker):
        first = told(bridge, lambda status: "link_in" in status.health)
        assert {"load", "memory_used", "disk_free", "uptime", "link_out", "journal"} <= first.health.keys()
        told(bridge, lambda status: "cpu" in status.health)
        last = told(bridge, lambda status: status.health.get("extra", {}).get("door") == "closed")
        assert last.health["extra"]["sdk"] == "airflow.sdk"
        for name in ("link_in", "link_out"):
            told(bridge, lambda status, name=name: status.health.get(name, 0) > first.health[name])
        (home / "door").unlink()  # it fails, and nothing else does
        told(bridge, lambda status: bool(status.health) and status.ts > last.ts and "extra" not in status.health)
        maps = Path(f"/proc/{worker.pid}/maps")
        assert "pydantic_core" not in maps.read_text()
        assert worker.process.poll() is None
    assert worker.log.read_text().count("health_function site_health:read failed: FileNotFoundError") == 1


WATER = """
from pathlib import Path
def read():
    return {"water": int(Path(__file__).with_name("water").read_text())}
"""


def test_a_device_takes_itself_out_of_service_and_back(
    broker: servers.Mosquitto, bridge: FakeBridge, tmp_path: Path
) -> None:
    home = tmp_path / "worker"
    home.mkdir()
    (home / "site_water.py").write_text(WATER)
    (home / "water").write_text("1")
    worker = WorkerProcess(
        home, broker.url(NAME), health_interval=1, health_function="site_water:read",
        maintenance_when="extra.water > 10, disk_free < 0 %",
    )  # fmt: skip
    with running(worker):
        bridge.status("idle", timeout=60, maintenance=False)
        (home / "water").write_text("12")
        out = told(bridge, lambda status: status.own_maintenance)
        assert (out.maintenance, out.reason) == (True, "extra.water > 10 (12)")
        job = bridge.run("quick")
        assert bridge.event(job, "rejected").reason == "draining"
        (home / "water").write_text("8")
        told(bridge, lambda status: status.ts > out.ts and not status.maintenance)
