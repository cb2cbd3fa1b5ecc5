"""A run that takes longer than its deadline: Airflow 3.3 hands the callback to the executor."""

import time
from datetime import datetime, timedelta

from airflow.sdk import dag, task

try:
    from airflow.sdk import DeadlineAlert, DeadlineReference, SyncCallback
except ImportError:  # Airflow before 3.3 runs no callbacks on executors
    DeadlineAlert = None


def note_missed(text: str, **kwargs) -> None:
    """The callback, imported on the device by its path."""
    print(f"the deadline was missed: {text}")


@task
def dawdle() -> None:
    time.sleep(8)


if DeadlineAlert is not None:
    alert = DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=1),
        callback=SyncCallback("misses_deadline.note_missed", kwargs={"text": "as planned"}),
    )

    @dag(
        schedule=None,
        start_date=datetime(2025, 1, 1),
        catchup=False,
        deadline=alert,
        default_args={"queue": "edge"},
    )
    def misses_deadline():
        dawdle()

    misses_deadline()
