"""The example Dag on a running site: trigger it, say what becomes of it, judge. What each demo shows."""

import json
import time
from collections.abc import Callable

from demo import report
from demo.client import AirflowClient

DAG = "edge_site"
WORKER = "edge-1"
SITE_NAME = "plant-7"


class Teller:
    """Prints lines with the seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, part: str, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {part:<14} {text}", flush=True)

    def end(self, *, good: bool) -> None:
        verdict = "All went as it should" if good else "Something went wrong"
        print(f"\n{verdict}: {time.monotonic() - self._began:.0f} s in all")


def run(client: AirflowClient, teller: Teller, check: Callable[[], None] = lambda: None) -> bool:
    """Run the example Dag and print what became of it; return whether all went as it should.

    `check` is called while waiting and may raise.
    """
    _set_values(client)
    teller.say("dag", f"waiting until Airflow has read {DAG} …")
    client.await_dag(DAG, check=check)
    started = client.trigger(DAG)
    teller.say("dag", f"run {started}")
    follower = _Follower(client, teller, started)

    def look() -> None:
        check()
        follower.look()

    state = client.await_run(DAG, started, check=look, timeout=300)
    follower.look()
    teller.say("dag", f"the run ended: {state}")
    return _judge(client, started, state)


def _set_values(client: AirflowClient) -> None:
    """Give the Dag its Variable and its Connection, which a second run finds there."""
    plant = {"connection_id": "plant_api", "conn_type": "http", "host": "plant.example", "port": 8080}
    for path, body in (("variables", {"key": "site_name", "value": SITE_NAME}), ("connections", plant)):
        answer = client.request("POST", path, json=body)
        if answer.status_code != 409:
            answer.raise_for_status()


class _Follower:
    """Says the state of each task when it is another than at the last look."""

    def __init__(self, client: AirflowClient, teller: Teller, run_id: str) -> None:
        self._client = client
        self._teller = teller
        self._run = run_id
        self._seen: dict[str, object] = {}

    def look(self) -> None:
        for task in self._client.tasks(DAG, self._run):
            name, state = report.label(task), task["state"]
            if state and self._seen.get(name) != state:
                self._seen[name] = state
                again = f" (try {task['try_number']})" if task["try_number"] > 1 else ""
                self._teller.say("task", f"{name}: {state}{again}")


def _judge(client: AirflowClient, run_id: str, state: str) -> bool:
    tasks = client.tasks(DAG, run_id)
    print(f"\n{report.table(tasks)}\n")
    wrong = report.surprises(tasks, WORKER)
    if state != "success":
        wrong.append(f"the run is {state}")
    for line in wrong:
        print(f"  wrong: {line}")
    if not wrong:
        answer = json.dumps(client.xcom(DAG, run_id, "report"), sort_keys=True)
        print(f"  What the device reported (the XCom of `report`):\n    {answer}\n")
        lines = client.log(DAG, run_id, "flaky_bus", 2).splitlines()
        print("  The end of a task's log, as the API server has it from the device (`flaky_bus`, try 2):")
        print("\n".join(f"    {line}" for line in lines[-4:]))
    return not wrong
