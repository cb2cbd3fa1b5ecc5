"""What a device has to spare for the worker: packages, disk, and resident memory while idle."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from worker_bench import FakeBridge

ROOT = Path(__file__).resolve().parents[2]
NAME = "edge-1"
MAX_PACKAGES = 6
MAX_BYTES = 6 * 1024 * 1024
MAX_RESIDENT_KIB = 30 * 1024


@pytest.fixture(scope="module")
def base_install(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment with `pip install .` and no extras; its `site-packages` begins empty."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    uv = shutil.which("uv")
    if uv:
        command = [uv, "pip", "install", "-q", "--python", str(python), str(ROOT)]
    else:
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        servers.missing(f"the base install needs a package index: {done.stderr[-500:]}")
    yield folder


def _site_packages(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


def test_the_base_install_is_small(base_install: Path) -> None:
    packages = sorted(entry.name for entry in _site_packages(base_install).glob("*.dist-info"))
    assert len(packages) <= MAX_PACKAGES, packages
    size = sum(
        file.stat().st_size
        for file in _site_packages(base_install).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    )
    print(f"{len(packages)} packages, {size / 1024:.0f} KiB")
    assert size <= MAX_BYTES


def test_an_idle_worker_is_small(base_install: Path, tmp_path: Path) -> None:
    with (
        servers.mosquitto(tmp_path / "broker", accounts=[NAME]) as broker,
        FakeBridge(broker.url("bridge"), NAME) as bridge,
    ):
        command = [str(base_install / "bin" / "airflow-mqtt"), "worker", "run", "--name", NAME, "--slots", "2"]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment = {**kept, "AIRFLOW_MQTT_BROKER_URL": broker.url(NAME)}
        command += ["--state-dir", str(tmp_path / "state"), "--heartbeat-interval", "1"]
        worker = servers.Server("worker", command, log=tmp_path / "worker.log", env=environment)
        # Once for the compiled files, as an installer leaves them; then what a device sees day by day.
        for _ in range(2):
            with servers.running(worker):
                seen = len(bridge.statuses)
                bridge.status("idle", since=seen)
                servers.wait_for(lambda seen=seen: len(bridge.statuses) >= seen + 3, what="some heartbeats")
                resident = _resident_kib(worker.pid)
    print(f"idle: {resident} KiB resident")
    assert resident <= MAX_RESIDENT_KIB


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


def test_the_worker_process_loads_nothing_large() -> None:
    """What the worker imports, without paho: no Airflow, no database toolkit, no HTTP client, no asyncio."""
    code = (
        "import sys, airflow_mqtt.cli.main, airflow_mqtt.worker.main; from airflow_mqtt.worker.mqtt.connection import load_paho;"
        "load_paho(tls=False); print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"airflow", "sqlalchemy", "httpx", "asyncio", "aiomqtt", "pydantic"} & set(loaded)
