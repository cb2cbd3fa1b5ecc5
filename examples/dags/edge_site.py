"""What a small plant does every hour, on the device that stands in it.

All tasks carry `queue="edge"`: `MqttExecutor` hands them to a worker that was started with `--queues edge`. The Dag
is ordinary Airflow; nothing in it knows of MQTT. It needs the Variable `site_name` and the Connection `plant_api`.
"""

import json
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, Connection, Variable, dag, get_current_context, task

#: A gateway writes here what it last measured; without the file the readings are made up.
SENSOR_FILE = Path("/run/edge-site/sensors.json")

TOO_HOT = 80.0


def report_broken_probe(context: dict[str, Any]) -> None:
    """Called on the device, in the task's own process, when its last try has failed."""
    print(f"on_failure_callback: {context['task_instance'].task_id} failed: {context['exception']}")


class LetSettle(BaseOperator):
    """Gives its slot back while the plant settles: the wait happens in the triggerer, not on the device."""

    def __init__(self, *, seconds: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds

    def execute(self, context: Any) -> None:
        print(f"settling for {self.seconds:g} s")
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=self.seconds)), method_name="resume")

    def resume(self, context: Any, event: Any = None) -> str:
        print("settled, back on the device")
        return "settled"


@task
def read_sensors() -> list[dict[str, Any]]:
    if SENSOR_FILE.exists():
        readings = json.loads(SENSOR_FILE.read_text())
    else:
        readings = [
            {"sensor": name, "celsius": base + random.uniform(-1, 1)}
            for name, base in {"boiler": 85.0, "pump": 42.0, "exhaust": 61.0}.items()
        ]
    print(f"read {len(readings)} sensors")
    return readings


@task.branch
def judge(readings: list[dict[str, Any]]) -> str:
    hottest = max(readings, key=lambda reading: reading["celsius"])
    print(f"hottest: {hottest['sensor']} at {hottest['celsius']:.1f} °C")
    return "cool_down" if hottest["celsius"] > TOO_HOT else "carry_on"


@task
def cool_down() -> str:
    print("opening the valve")
    return "valve open"


@task
def carry_on() -> None:
    print("nothing to do")


@task
def calibrate(reading: dict[str, Any]) -> dict[str, Any]:
    kelvin = round(reading["celsius"] + 273.15, 2)
    print(f"{reading['sensor']}: {kelvin} K")
    return {"sensor": reading["sensor"], "kelvin": kelvin}


@task(retries=1, retry_delay=timedelta(seconds=1))
def flaky_bus() -> str:
    """The field bus does not answer at first, as such buses do."""
    attempt = get_current_context()["ti"].try_number
    print(f"asking the bus, try {attempt}")
    if attempt == 1:
        raise ConnectionError("the bus did not answer")
    return f"answered at try {attempt}"


@task(on_failure_callback=report_broken_probe)
def broken_probe() -> None:
    """Fails on purpose: `report` runs all the same."""
    raise RuntimeError("the probe is broken (this example fails on purpose)")


@task(trigger_rule="all_done")
def report(calibrated: list[dict[str, Any]], disk: str, bus: str) -> dict[str, Any]:
    plant = Connection.get("plant_api")
    summary = {
        "site": Variable.get("site_name"),
        "plant": f"{plant.host}:{plant.port}",
        "calibrated": sorted(item["sensor"] for item in calibrated),
        "disk": disk,
        "bus": bus,
    }
    print(f"report: {json.dumps(summary, sort_keys=True)}")
    return summary


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1),
    catchup=False,
    tags=["edge"],
    default_args={"queue": "edge", "retries": 0},
)
def edge_site():
    readings = read_sensors()
    calibrated = calibrate.expand(reading=readings)
    disk_free = BashOperator(task_id="disk_free", bash_command="echo looking at the disk; df -h / | tail -1")
    settle = LetSettle(task_id="settle", seconds=2)
    bus = flaky_bus()

    judgement = judge(readings)
    cooled = cool_down()
    judgement >> [cooled, carry_on()]
    final = report(calibrated, disk_free.output, bus)
    cooled >> settle >> final
    broken_probe() >> final


edge_site()
