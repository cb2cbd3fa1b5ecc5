"""`make fleet` comes up, shows what it says, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from servers import missing, wait_for

ROOT = Path(__file__).parents[2]


def start(directory, said, *options):
    command = [sys.executable, "-m", "demo.fleet", *options, "--directory", str(directory)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/examples:{ROOT}/tests:{ROOT}/benchmarks"}
    with said.open("w") as out:
        return subprocess.Popen(command, cwd=ROOT / "examples", env=environment, stdout=out, stderr=out)


def left(directory):
    return subprocess.run(["pgrep", "-f", str(directory)], capture_output=True, text=True, check=False).stdout


@pytest.mark.timeout(300)
def test_it_can_be_ended_while_it_starts(tmp_path):
    said = tmp_path / "said"
    fleet = start(tmp_path / "fleet", said)
    wait_for(lambda: fleet.poll() is not None or "making its tables" in said.read_text(), what="the start", timeout=120)
    if "is not installed:" in said.read_text():
        missing(said.read_text())
    fleet.send_signal(signal.SIGINT)
    assert fleet.wait(90) == 0, said.read_text()
    assert "Ctrl-C" not in said.read_text()
    assert not left(tmp_path)


def test_what_is_somebody_elses_is_left_alone(tmp_path):
    precious = tmp_path / "home" / "thesis"
    precious.parent.mkdir()
    precious.touch()
    for module in ("demo", "demo.fleet"):
        command = [sys.executable, "-m", module, "--directory", str(precious.parent)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/examples:{ROOT}/tests:{ROOT}/benchmarks"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, precious.exists()) == (1, True)
        assert "is no demo's" in done.stderr


@pytest.mark.timeout(600)
def test_a_fleet_is_there_to_look_at_until_somebody_ends_it(tmp_path):
    said = tmp_path / "said"
    fleet = start(tmp_path / "fleet", said, "--simulated", "20", "--real", "1")
    try:
        wait_for(lambda: fleet.poll() is not None or "Ctrl-C" in said.read_text(), what="the fleet", timeout=300)
        text = said.read_text()
        if "is not installed:" in text:
            missing(text)
        assert fleet.poll() is None, text
        site, url, program = re.search(r"page: +(\S+)/plugin/mqtt .*URL='(\S+)' (\S+) top", text, re.DOTALL).groups()
        assert httpx.get(f"{site}/api/v2/version", timeout=60).status_code == 200

        def shown() -> str:
            top = [program, "top", "--broker-url", url, "--once"]
            return subprocess.run(top, capture_output=True, text=True, timeout=90, check=True).stdout

        wait_for(
            lambda: re.search(r"Workers: 21 total.*\n.*ended: \d+ succeeded", shown()),
            what="jobs that end",
            timeout=300,  # some end at once every half a minute, and it looks for some seconds at a time
            every=1,
        )
        metrics = re.search(r"Its figures: (\S+)", text)
        assert "airflow_mqtt" in httpx.get(metrics[1], timeout=60).text
    finally:
        fleet.send_signal(signal.SIGINT)
        code = fleet.wait(90)
    assert code == 0, said.read_text()
    assert not left(tmp_path)
