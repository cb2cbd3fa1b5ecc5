"""Tasks that leave traces on disk, and go on when the test says so. `conf["folder"]` of the run is where.

`starts` gets a line at each start of user code, `killed` one in `on_kill`; the file `go` lets tasks end.
"""

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator


def _trace(context, name: str) -> Path:
    folder = Path(context["dag_run"].conf["folder"])
    task = context["ti"]
    with (folder / name).open("a") as file:
        file.write(f"{task.task_id}[{task.map_index}] try={task.try_number} pid={os.getpid()}\n")
    return folder


class KilledError(Exception):
    """What `on_kill` makes of a task that heeds it."""


def _wait(folder: Path, ending=lambda: False) -> None:
    while not (folder / "go").exists():
        if ending():
            raise KilledError
        time.sleep(0.1)


class Hold(BaseOperator):
    """Runs until `go`, or until it is killed. With `conf["stubborn"]` it takes no notice of that."""

    def execute(self, context):
        self._context = context
        self._killed = False
        _wait(_trace(context, "starts"), lambda: self._killed)
        return "held"

    def on_kill(self):
        _trace(self._context, "killed")
        self._killed = not self._context["dag_run"].conf.get("stubborn")


class Defer(Hold):
    """Defers for longer than a worker needs to report that, and then runs until `go`."""

    def execute(self, context):
        _trace(context, "deferred")
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=6)), method_name="again")

    def again(self, context, event=None):
        return super().execute(context)


class Reschedule(BaseSensorOperator):
    """Is not ready at the first poke, which reschedules it; at the second it runs until `go`."""

    def poke(self, context):
        folder = Path(context["dag_run"].conf["folder"])
        if not (folder / "deferred").exists():
            _trace(context, "deferred")
            return False
        _wait(_trace(context, "starts"))
        return True


def _dag(name: str, **settings) -> DAG:
    return DAG(
        name, schedule=None, start_date=datetime(2025, 1, 1), catchup=False, default_args={"queue": "edge"}, **settings
    )


with _dag("holds"):
    Hold(task_id="hold")

with _dag("defers"):
    Defer(task_id="hold")

with _dag("reschedules"):
    Reschedule(task_id="hold", mode="reschedule", poke_interval=6, timeout=600)

with _dag("holds_many", max_active_tasks=64):
    for number in range(6):
        Hold(task_id=f"hold_{number}")
