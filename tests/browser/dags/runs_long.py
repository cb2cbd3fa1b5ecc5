"""A task that a person has to end."""

import time
from datetime import datetime

from airflow.sdk import DAG, task

with DAG("runs_long", schedule=None, start_date=datetime(2025, 1, 1), catchup=False):

    @task(queue="edge")
    def measure() -> None:
        print("the pump runs <b>hot</b>")
        time.sleep(600)

    @task(queue="nowhere")
    def wait_for_nobody() -> None:
        pass

    measure()
    wait_for_nobody()
