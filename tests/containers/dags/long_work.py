"""Work that takes a while and leaves a witness on the device: a line when a try starts, and one when it ends."""

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import dag, get_current_context, task

WITNESS = Path("/var/lib/airflow-mqtt/witness")


def testify(word: str) -> None:
    context = get_current_context()
    ti = context["ti"]
    with WITNESS.open("a") as file:
        file.write(f"{context['dag_run'].run_id} {ti.map_index} {ti.try_number} {word}\n")
        file.flush()
        os.fsync(file.fileno())


@task(retries=3, retry_delay=timedelta(seconds=1), queue="edge")
def step(number: int) -> int:
    testify("start")
    deadline = time.monotonic() + float(get_current_context()["dag_run"].conf.get("seconds", 5))
    while time.monotonic() < deadline:
        time.sleep(0.2)
    testify("end")
    return number


@dag(schedule=None, start_date=datetime(2025, 1, 1), catchup=False)
def long_work():
    step.expand(number=[0, 1, 2])


long_work()
