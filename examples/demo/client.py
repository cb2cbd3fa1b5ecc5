"""Airflow's public REST API, as much of it as a demo and a test need."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx

from demo.processes import wait_for

#: States in which a Dag run or task instance stays.
RUN_ENDED = frozenset({"success", "failed"})
TASK_ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

Json = dict[str, Any]


class AirflowClient:
    """Calls an api-server with the SimpleAuthManager: as `admin` by `password`, or without one where all are admins."""

    def __init__(self, url: str, *, password: str = "") -> None:
        self.url = url
        self._password = password
        self._http = httpx.Client(base_url=url, timeout=30)
        self._token = ""

    def healthy(self) -> bool:
        """Whether the api-server answers."""
        try:
            return self._http.get("/api/v2/version").status_code == 200
        except httpx.HTTPError:
            return False

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Call `/api/v2/<path>` with a token; a new one is fetched when there is none or it has expired."""
        try:
            response = self._send(method, path, **kwargs)
        except httpx.TimeoutException:
            if method != "GET":
                raise
            response = self._send(method, path, **kwargs)  # a busy machine; asking again does no harm
        if response.status_code == 401:
            self._token = ""
            response = self._send(method, path, **kwargs)
        return response

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        if not self._token:
            account = {"username": "admin", "password": self._password}
            answer = self._http.post("/auth/token", json=account) if self._password else self._http.get("/auth/token")
            answer.raise_for_status()
            self._token = answer.json()["access_token"]
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        return self._http.request(method, f"/api/v2/{path}", headers=headers, **kwargs)

    def call(self, method: str, path: str, **kwargs: Any) -> Json:
        """Like `request`, and return the body's JSON; `httpx.HTTPStatusError` for an answer that is an error."""
        response = self.request(method, path, **kwargs)
        if response.is_error:
            text = f"{method} {path}: {response.status_code} {response.text[:500]}"
            raise httpx.HTTPStatusError(text, request=response.request, response=response)
        body: Json = response.json() if response.content else {}
        return body

    def get(self, path: str, **params: Any) -> Json:
        return self.call("GET", path, params=params)

    # --- Dags and their runs

    def await_dag(self, dag_id: str, timeout: float = 90, check: Callable[[], None] = lambda: None) -> None:
        """Wait until the dag-processor has stored `dag_id`, and unpause it. `check` may raise to end the wait."""

        def found() -> bool:
            check()
            return self.request("GET", f"dags/{dag_id}").status_code == 200

        try:
            wait_for(found, what=f"Dag {dag_id}", timeout=timeout, every=0.3)
        except TimeoutError as error:
            errors = self.get("importErrors").get("import_errors", [])
            raise TimeoutError(f"{error}; import errors: {errors}") from None
        self.call("PATCH", f"dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: Json | None = None) -> str:
        """Start a run and return its id."""
        body = {"logical_date": None, "conf": conf or {}}
        run_id: str = self.call("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"]
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        state: str = self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"]
        return state

    def await_run(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout: float = 180,
        check: Callable[[], None] = lambda: None,
        every: float = 0.5,
    ) -> str:
        """Return the state in which the run ended. `check` is called while waiting and may raise."""

        def ended() -> str | None:
            check()
            state = self.run_state(dag_id, run_id)
            return state if state in RUN_ENDED else None

        return wait_for(ended, what=f"the end of {run_id}", timeout=timeout, every=every)

    # --- task instances

    def tasks(self, dag_id: str, run_id: str) -> list[Json]:
        """Return the run's task instances (`TaskInstanceResponse`)."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        found: list[Json] = self.get(path, limit=100)["task_instances"]
        return found

    def task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Json:
        return self.get(_task_path(dag_id, run_id, task_id, map_index))

    def await_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: set[str] | frozenset[str] = TASK_ENDED,
        timeout: float = 90,
    ) -> Json:
        """Wait until a task is in one of `states`; return it."""

        def there() -> Json | None:
            found = self.task(dag_id, run_id, task_id)
            return found if found["state"] in states else None

        return wait_for(there, what=f"{task_id} to be one of {sorted(states)}", timeout=timeout, every=0.2)

    def tries(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> list[Json]:
        """Return each try of a task instance."""
        found: list[Json] = self.get(_task_path(dag_id, run_id, task_id, map_index) + "/tries")["task_instances"]
        return found

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return an XCom's value."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(path, map_index=map_index, deserialize="true")["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return a try's log as lines of `event` text, as the UI shows it."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self.get(path, map_index=map_index, full_content="true")["content"]
        return "\n".join(_line(item) for item in content)


def _line(item: Any) -> str:
    """Return a line of a structured log; below it the exceptions that it carries, as the UI shows them.

    Whoever writes a log may put anything there.
    """
    if not isinstance(item, dict):
        return str(item)
    errors = item.get("error_detail") or []
    raised = [_error(error) for error in (errors if isinstance(errors, list) else [errors])]
    return "\n".join([str(item.get("event", item)), *raised])


def _error(error: Any) -> str:
    return f"{error.get('exc_type')}: {error.get('exc_value')}" if isinstance(error, dict) else str(error)


def _task_path(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
    return path if map_index < 0 else f"{path}/{map_index}"


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Return the seconds between two times of the API, or None where one is missing."""
    if not start or not end:
        return None
    return _stamp(end) - _stamp(start)


def _stamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
