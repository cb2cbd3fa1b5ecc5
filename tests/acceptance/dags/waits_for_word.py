"""A task that runs until a Variable says so: tests look at it while it runs."""

import sys
import time
from datetime import datetime

from airflow.sdk import Variable, dag, get_current_context, task


@task
def wait_for_word() -> str:
    run = get_current_context()["dag_run"].run_id
    print("waiting for the word")
    print("ünïcode and stderr as well", file=sys.stderr)
    while (word := Variable.get(f"word_{run}", default="")) == "":
        time.sleep(0.3)
    print(f"heard the word: {word}")
    return word


@dag(schedule=None, start_date=datetime(2025, 1, 1), catchup=False, default_args={"queue": "edge"})
def waits_for_word():
    wait_for_word()


waits_for_word()
