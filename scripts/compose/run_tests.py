"""`make test-compose`: an engine, the images, and the tests of tests/containers. Standard library only.

What is missing is made: Docker's packages of Debian, a running `dockerd`, a base image by debootstrap, stand-ins for
the public images of broker and database. What was started is stopped again, also after a failure. To test with public
images instead: BASE_IMAGE=python:3.11-slim-bookworm MOSQUITTO_IMAGE=eclipse-mosquitto:2 POSTGRES_IMAGE=postgres:17

Where no engine can be had it says why, and ends with 0; in CI (CI=true) with 1.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import images
from engine import Engine, NoEngineError

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    began = time.monotonic()
    # A run that is told to stop still stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Engine(ROOT / ".cache/compose") as engine:
            engine.say()
            made = images.make(ROOT, ROOT / ".cache/compose")
            print(f"images ready after {time.monotonic() - began:.0f} s", flush=True)
            images.show_sizes(made)
            return run_pytest(made)
    except NoEngineError as error:
        print(f"test-compose: skipped, no Docker engine can be had: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    finally:
        print(f"test-compose: {time.monotonic() - began:.0f} s in all", flush=True)


def run_pytest(made: dict[str, str]) -> int:
    environment = {**os.environ, **made, "AIRFLOW_MQTT_TEST_IMAGES": "ready"}
    pytest = [str(ROOT / ".venv/bin/pytest"), "tests/containers", "-v", "--durations=10", *sys.argv[1:]]
    return subprocess.run(pytest, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
