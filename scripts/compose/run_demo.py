"""`docker compose run --rm demo`: run the example Dag on the site that compose started, and print what happened.

What `make demo` prints, by the same code (examples/demo); here nothing is started or stopped.
"""

import json
import os
import sys
import time

import httpx

from demo import report
from demo.client import AirflowClient

DAG = "edge_site"
WORKER = "edge-1"
SITE_NAME = "plant-7"


class SiteClient(AirflowClient):
    """Calls an api-server that asks for a password."""

    def __init__(self, url: str, password: str) -> None:
        super().__init__(url)
        self._password = password

    def _send(self, method: str, path: str, **kwargs: object) -> httpx.Response:
        if not self._token:
            account = {"username": "admin", "password": self._password}
            answer = self._http.post("/auth/token", json=account)
            answer.raise_for_status()
            self._token = answer.json()["access_token"]
        try:
            return super()._send(method, path, **kwargs)
        except httpx.TimeoutException:
            if method != "GET":
                raise
            return super()._send(method, path, **kwargs)  # a busy machine; asking again does no harm


def say(began: float, part: str, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {part:<6} {text}", flush=True)


def follow(client: AirflowClient, run: str, seen: dict[str, object], began: float) -> None:
    """Print each task whose state is another than when it was last looked at."""
    for task in client.tasks(DAG, run):
        name, state = report.label(task), task["state"]
        if state and seen.get(name) != state:
            seen[name] = state
            again = f" (try {task['try_number']})" if task["try_number"] > 1 else ""
            say(began, "task", f"{name}: {state}{again}")


def set_values(client: AirflowClient) -> None:
    """Give the Dag its Variable and its Connection, which a second run finds there."""
    plant = {"connection_id": "plant_api", "conn_type": "http", "host": "plant.example", "port": 8080}
    for path, body in (("variables", {"key": "site_name", "value": SITE_NAME}), ("connections", plant)):
        answer = client.request("POST", path, json=body)
        if answer.is_error and answer.status_code != 409:
            answer.raise_for_status()


def judge(client: AirflowClient, run: str, state: str) -> bool:
    tasks = client.tasks(DAG, run)
    print(f"\n{report.table(tasks)}\n")
    wrong = report.surprises(tasks, WORKER)
    if state != "success":
        wrong.append(f"the run is {state}")
    for line in wrong:
        print(f"  wrong: {line}")
    if not wrong:
        answer = json.dumps(client.xcom(DAG, run, "report"), sort_keys=True)
        print(f"  What the device reported (the XCom of `report`):\n    {answer}\n")
        lines = client.log(DAG, run, "flaky_bus", 2).splitlines()
        print("  The end of a task's log, as the API server has it from the device (`flaky_bus`, try 2):")
        print("\n".join(f"    {line}" for line in lines[-4:]))
    return not wrong


def main() -> int:
    began = time.monotonic()
    client = SiteClient(os.environ.get("AIRFLOW_URL", "http://api-server:8080"), os.environ["AIRFLOW_ADMIN_PASSWORD"])
    try:
        set_values(client)
        client.await_dag(DAG)
        run = client.trigger(DAG)
        say(began, "dag", f"run {run}")
        seen: dict[str, object] = {}
        state = client.await_run(DAG, run, check=lambda: follow(client, run, seen, began), timeout=300)
        follow(client, run, seen, began)
    except (httpx.HTTPError, TimeoutError) as error:
        print(f"\ndemo: {error}\nSee: docker compose ps, docker compose logs", file=sys.stderr)
        return 1
    say(began, "dag", f"the run ended: {state}")
    good = judge(client, run, state)
    print(f"\n{'All went as it should' if good else 'Something went wrong'}: {time.monotonic() - began:.0f} s in all")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
