"""Bridge and worker as processes, and a look at what the broker says of them."""

import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from airflow_mqtt.config.broker_url import parse_broker_url
from demo.processes import Server, wait_for
from demo.site import clean_environment

QUEUE = "edge"


def program() -> str:
    """Return the command `airflow-mqtt` of this Python."""
    return os.path.normpath(Path(sys.executable).parent / "airflow-mqtt")  # which a person may be told to run


def bridge(
    directory: Path,
    *,
    broker_url: str,
    database_url: str,
    execution_api_url: str,
    name: str = "bridge",
    options: Sequence[str] = (),
) -> Server:
    """Return `airflow-mqtt bridge run`, not started. Whoever says that it serves a queue is believed: it is a demo."""
    directory.mkdir(parents=True, exist_ok=True)
    command = [
        program(), "bridge", "run", "--broker-url", broker_url, "--database-url", database_url,
        "--execution-api-url", execution_api_url, "--allow", "all", *options,
    ]  # fmt: skip
    return Server(name, command, log=directory / f"{name}.log", env=clean_environment(), cwd=directory)


def worker(
    directory: Path,
    *,
    broker_url: str,
    dags_folder: Path,
    name: str = "edge-1",
    queues: str = QUEUE,
    slots: int = 2,
    options: Sequence[str] = (),
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Return `airflow-mqtt worker run`, not started. It has its own copy of the Dags, as a device has.

    `prefix` goes before the command, to run it somewhere else (`ip netns exec …`).
    """
    directory.mkdir(parents=True, exist_ok=True)
    dags = directory / "dags"
    shutil.copytree(dags_folder, dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    settings = {
        "AIRFLOW_HOME": str(directory / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    command = [
        *prefix, program(), "worker", "run", "--broker-url", broker_url, "--name", name,
        "--queues", queues, "--slots", str(slots), "--state-dir", str(directory / "state"), *options,
    ]  # fmt: skip
    env = {**clean_environment(), **settings, **(environment or {})}
    return Server(name, command, log=directory / f"{name}.log", env=env, cwd=directory)


class Watch:
    """Listens on topic filters with one account and keeps the last payload of each topic."""

    def __init__(
        self, broker_url: str, filters: Sequence[str] = ("airflow/v1/+/+/status", "airflow/v1/bridge/status")
    ) -> None:
        self._url = parse_broker_url(broker_url)
        self._filters = filters
        self._subscribed = threading.Event()
        self.last: dict[str, Any] = {}
        self.history: list[tuple[str, Any]] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.username_pw_set(self._url.username, self._url.password)
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._received

    def _connected(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe([(name, 1) for name in self._filters])

    def _received(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            content = json.loads(message.payload)
        except ValueError:
            content = message.payload
        self.last[message.topic] = content
        self.history.append((message.topic, content))

    def __enter__(self) -> Self:
        self._client.connect(self._url.host, self._url.port)
        self._client.loop_start()
        if not self._subscribed.wait(60):
            raise TimeoutError(f"{self._url} did not answer a subscription")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def state(self, topic: str) -> str | None:
        """Return the `state` in the last payload of `airflow/v1/<topic>`."""
        content = self.last.get(f"airflow/v1/{topic}")
        return content.get("state") if isinstance(content, dict) else None

    def await_state(self, topic: str, *states: str, timeout: float = 60, servers: Sequence[Server] = ()) -> str:
        """Wait until `topic` says one of `states`; end early when one of `servers` has ended."""

        def there() -> str | None:
            for server in servers:
                if not server.alive:
                    server.await_ready()
            found = self.state(topic)
            return found if found in states else None

        try:
            return wait_for(there, what=f"{topic} to be {' or '.join(states)}", timeout=timeout)
        except TimeoutError as error:
            tails = "\n".join(server.tail() for server in servers)
            raise TimeoutError(f"{error}; it is {self.state(topic)!r}\n{tails}") from None
