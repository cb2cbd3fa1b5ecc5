"""One task for a device that is no part of compose."""

from datetime import datetime

from airflow.sdk import dag, task


@task(queue="garden")
def hello() -> str:
    print("hello from outside")
    return "watered"


@dag(schedule=None, start_date=datetime(2025, 1, 1), catchup=False)
def outside():
    hello()


outside()
