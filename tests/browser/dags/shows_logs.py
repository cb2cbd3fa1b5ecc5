"""Tasks that nobody runs: a test writes their logs."""

from datetime import datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

#: Each of the functions in `test_log_page` that write one.
NAMES = (
    "of_the_runner",
    "of_the_bridge",
    "of_the_executor_below_what_is_there",
    "of_the_executor_where_nothing_is",
)

with DAG("shows_logs", schedule=None, start_date=datetime(2025, 1, 1), catchup=False):
    for name in NAMES:
        EmptyOperator(task_id=name)
