"""The commands for the worker on its own device: a real worker, with and without a bridge."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from servers import running, wait_for
from worker_bench import FakeBridge, WorkerProcess

NAME = "edge-1"


@pytest.fixture
def worker(broker: servers.Mosquitto, tmp_path: Path) -> Iterator[WorkerProcess]:
    made = WorkerProcess(tmp_path / "worker", broker.url(NAME), drain_timeout=600)
    with running(made):
        yield made


def command(worker: WorkerProcess, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "airflow_mqtt.cli", "worker", *arguments, "--state-dir", str(worker.state_dir),
    ]  # fmt: skip


def ask(worker: WorkerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(worker, *arguments), capture_output=True, text=True, timeout=60, check=False)


def said(worker: WorkerProcess, *arguments: str) -> str:
    done = ask(worker, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_says_what_it_does_and_shows_the_log(worker: WorkerProcess, bridge: FakeBridge) -> None:
    bridge.status("idle", timeout=60)
    job = bridge.run("wait_for_file")
    bridge.log(job, "waiting")
    found = json.loads(said(worker, "status", "--output", "json"))
    assert (found["name"], found["state"], found["connected"]) == (NAME, "running", True)
    assert [(one["job"], one["state"], one["task_id"]) for one in found["jobs"]] == [(job, "running", "wait_for_file")]
    assert found["health"]["uptime"] > 0
    text = said(worker, "status")
    assert "link         connected to mqtt://" in text
    assert f"job          {job} attempt 1, running: bench.wait_for_file of run_1" in text
    assert " waiting" in said(worker, "logs", job[:8])
    assert said(worker, "logs").startswith(f"==> {job} attempt 1, running: bench.wait_for_file of run_1 <==\n")
    follower = subprocess.Popen(command(worker, "logs", "-f", job), stdout=subprocess.PIPE, text=True)
    with follower:
        text = next(line for line in follower.stdout if " waiting" in line)
        worker.go.touch()
        text += follower.stdout.read()  # to its end: the log was sent, and is deleted
    assert follower.returncode == 0
    assert " went on" in text


def test_maintenance_is_set_without_a_network_and_outlives_a_restart(
    worker: WorkerProcess, broker: servers.Mosquitto, tmp_path: Path
) -> None:
    wait_for(lambda: "connected to" in ask(worker, "status").stdout, what="the connection", timeout=60)
    broker.stop()
    wait_for(lambda: "no connection to" in said(worker, "status"), what="the outage", timeout=60)
    assert said(worker, "maintenance", "on", "-c", "new SD card") == (
        "worker edge-1 takes no jobs (set on the device: new SD card)\n"
    )
    worker.kill()
    broker.start()
    again = WorkerProcess(tmp_path / "worker", broker.url(NAME))
    with FakeBridge(broker.url("bridge"), NAME) as bridge, running(again):
        bridge.status("idle", timeout=60, own_maintenance=True, reason="set on the device: new SD card")
        assert said(again, "maintenance", "off") == "worker edge-1 takes jobs again\n"
        bridge.status("idle", timeout=60, maintenance=False)


def test_stop_drains_and_waits(worker: WorkerProcess, bridge: FakeBridge) -> None:
    bridge.status("idle", timeout=60)
    job = bridge.run("wait_for_file")
    bridge.log(job, "waiting")
    waiting = subprocess.Popen(command(worker, "stop", "--wait"), stdout=subprocess.PIPE, text=True)
    with waiting:
        assert waiting.stdout.readline().startswith(f"worker edge-1 stops: 1 jobs run ({job})")
        bridge.status("terminating", timeout=60)
        assert waiting.poll() is None
        worker.go.touch()
        rest = waiting.stdout.read()
    assert waiting.returncode == 0
    assert rest.endswith("the worker is gone\n")
    assert worker.wait() == 0
    assert bridge.event(job, "finished").outcome == "succeeded"
    done = ask(worker, "stop", "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"airflow-mqtt: no worker runs on {worker.state_dir}; start it, or give the --state-dir or --name of one\n"
    )
