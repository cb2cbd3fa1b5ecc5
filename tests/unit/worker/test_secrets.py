"""What a worker keeps from the tasks on its device, which run as its user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_mqtt.protocol.errors import SettingError
from airflow_mqtt.worker import main

RUN = """
import ctypes, os, sys
from airflow_mqtt.config.settings import Source, from_environment, resolve
from airflow_mqtt.worker import main
from airflow_mqtt.worker.settings import SETTINGS
def look(settings):
    print(settings.broker_url.password, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), "s3cret" in str(os.environ))
main._work = look
main.run(resolve(SETTINGS, [from_environment(SETTINGS, os.environ, {s.name for s in SETTINGS})]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_its_memory_is_closed_and_the_password_is_not_in_its_environment(tmp_path: Path) -> None:
    ours = {
        "AIRFLOW_MQTT_BROKER_URL": "mqtt://edge-1:s3cret@127.0.0.1",
        "AIRFLOW_MQTT_NAME": "edge-1",
        "AIRFLOW_MQTT_STATE_DIR": str(tmp_path / "state"),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=os.environ | ours, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["s3cret", "0", "False"]  # PR_GET_DUMPABLE says 0


@pytest.mark.parametrize("name", ["lock", "jobs", "host.log", main.JOURNAL])
def test_a_link_in_a_foreign_state_directory_is_refused(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    state = tmp_path / "state"
    state.mkdir()
    (state / name).symlink_to(precious)
    with pytest.raises(SettingError, match="symbolic link"):
        main._own(state)
    assert precious.read_text() == "precious"
