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


@pytest.mark.timeout(600)
def test_a_fleet_is_there_to_look_at_until_somebody_ends_it(tmp_path):
    said = tmp_path / "said"
    command = [
        sys.executable,
        "-m",
        "demo.fleet",
        "--simulated",
        "20",
        "--real",
        "1",
        "--directory",
        str(tmp_path / "fleet"),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/examples:{ROOT}/tests:{ROOT}/benchmarks"}
    with said.open("w") as out:
        fleet = subprocess.Popen(command, cwd=ROOT / "examples", env=environment, stdout=out, stderr=out)
    try:
        wait_for(lambda: fleet.poll() is not None or "Ctrl-C" in said.read_text(), what="the fleet", timeout=300)
        text = said.read_text()
        if "is not installed:" in text:
            missing(text)
        assert fleet.poll() is None, text
        page, url, program = re.search(r"page: +(\S+) .*URL='(\S+)' (\S+) top", text, re.DOTALL).groups()
        assert httpx.get(f"{page}/api/v2/version", timeout=60).status_code == 200

        def shown() -> str:
            top = [program, "top", "--broker-url", url, "--once"]
            return subprocess.run(top, capture_output=True, text=True, timeout=90, check=True).stdout

        wait_for(
            lambda: re.search(r"Workers: 21 total.*\n.*ended: \d+ succeeded", shown()),
            what="jobs that end",
            timeout=120,
            every=1,
        )
        if metrics := re.search(r"Its figures: (\S+)", text):
            assert "airflow_mqtt" in httpx.get(metrics[1], timeout=60).text
    finally:
        fleet.send_signal(signal.SIGINT)
        code = fleet.wait(90)
    assert code == 0, said.read_text()
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    assert not left, left
