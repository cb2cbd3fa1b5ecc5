"""Work for `make fleet`: short tasks for simulated devices, longer ones for real ones."""

import time
from datetime import timedelta

from airflow.sdk import dag, task

#: Queues of the simulated devices; they say that a task succeeded, and run nothing.
SIMULATED = ("q0", "q1", "q2", "q3")


@dag(
    schedule=timedelta(seconds=30),
    catchup=False,
    max_active_runs=2,
    is_paused_upon_creation=False,
    tags=["example", "mqtt"],
)
def fleet_load():
    @task
    def simulated(number: int) -> None:
        print(number)

    for queue in SIMULATED:
        simulated.override(task_id=f"simulated_{queue}", queue=queue).expand(number=list(range(5)))

    @task(queue="edge")
    def measure(number: int) -> int:
        time.sleep(15)
        return number

    measure.expand(number=list(range(4)))


fleet_load()
