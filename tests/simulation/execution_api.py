"""Airflow, as far as jobs see it."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Airflow:
    """The Execution API, as far as it keeps states of task instances."""

    states: dict[str, str] = field(default_factory=dict)
    pids: dict[str, Any] = field(default_factory=dict)
    up: bool = True

    def call(self, method: str, path: str, body: str | None) -> tuple[int, str | None]:
        subject, action = path.split("/")[1], path.rsplit("/", 1)[-1]
        value = json.loads(body or "{}")
        state = self.states.get(subject)
        if action == "run":
            if state == "running" and self.pids.get(subject) == value.get("pid"):
                return 200, "{}"
            if state != "queued":
                return 409, json.dumps({"detail": {"previous_state": state}})
            self.states[subject], self.pids[subject] = "running", value.get("pid")
            return 200, "{}"
        if action == "state":
            if state == value["state"]:
                return 200, None
            if state != "running":
                return 409, json.dumps({"detail": {"previous_state": state}})
            self.states[subject] = value["state"]
            return 204, None
        if action == "heartbeat":
            return (204, None) if state == "running" else (409, None)
        return 201, "{}"
