"""An Airflow site (database tables, api-server, scheduler, dag-processor, triggerer) that uses `MqttExecutor`."""

import importlib.metadata
import os
import secrets
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from demo.client import AirflowClient
from demo.processes import Server, StartError, free_port, listens

EXAMPLE_DAGS = Path(__file__).resolve().parents[1] / "dags"

#: Names under which a site's parts run, in the order in which they start.
PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")

#: Short intervals: somebody is waiting.
FAST = {
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__MAX_DAGRUNS_TO_CREATE_PER_LOOP": "10",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
}


def clean_environment() -> dict[str, str]:
    """Return this process's environment without any setting of Airflow or of ours."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "AIRFLOW__"))}


class AirflowSite:
    """Airflow's processes below `directory`, each with a log of its own (`<directory>/<part>.log`).

    The api-server keeps its `base_log_folder` apart from all others: what it shows of a task's log came through the
    database. `environment` adds or replaces settings; `python` is the interpreter whose Airflow is used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        database_url: str,
        dags_folder: Path = EXAMPLE_DAGS,
        host: str = "127.0.0.1",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.database_url = database_url
        self.dags_folder = dags_folder
        self.host = host
        self.port = free_port(host)
        self.servers: dict[str, Server] = {}
        self.environment = {**clean_environment(), **self._settings(), **(environment or {})}
        self.client = AirflowClient(self.url)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def execution_api_url(self) -> str:
        return f"{self.url}/execution/"

    def _settings(self) -> dict[str, str]:
        home = self.directory / "airflow"
        settings = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__EXECUTOR": "airflow_mqtt.executor.MqttExecutor",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags_folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": self.execution_api_url,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database_url,
            "AIRFLOW__API__HOST": self.host,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__MQTT__ALLOW": "all",  # as the demo's bridge
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "120",
            "PYTHONUNBUFFERED": "1",
        }
        if airflow_version() < (3, 2):  # from 3.2 on Airflow finds it by the provider's metadata
            settings["AIRFLOW__DATABASE__EXTERNAL_DB_MANAGERS"] = "airflow_mqtt.executor.db.MqttDBManager"
        return {**settings, **FAST}

    def run(self, *arguments: str, timeout: float = 180) -> str:
        """Run `airflow <arguments>` and return its output; `StartError` with the output's end when it fails."""
        result = subprocess.run(
            [*airflow_command(), *arguments],
            env=self._environment_of("cli"),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if result.returncode:
            output = "\n".join((result.stdout + result.stderr).splitlines()[-25:])
            raise StartError(f"airflow {' '.join(arguments)} ended with exit code {result.returncode}\n{output}")
        return result.stdout

    def _environment_of(self, part: str) -> dict[str, str]:
        logs = self.directory / "logs" / part
        return {**self.environment, "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(logs)}

    def migrate(self) -> None:
        """Make Airflow's tables and ours."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.run("db", "migrate")

    def server(self, part: str, *, name: str | None = None) -> Server:
        """Return a process of the site that is not started yet; a second scheduler needs a `name` of its own."""
        arguments = ["scheduler", "--skip-serve-logs"] if part == "scheduler" else [part]
        if part == "triggerer":
            arguments.append("--skip-serve-logs")
        name = name or part
        server = Server(
            name,
            [*airflow_command(), *arguments],
            log=self.directory / f"{name}.log",
            env=self._environment_of(name),
            cwd=self.directory,
            ready=self._api_answers if part == "api-server" else None,
            start_timeout=120,
        )
        self.servers[name] = server
        return server

    def _api_answers(self) -> bool:
        return listens(self.port, self.host) and self.client.healthy()

    def start(self) -> None:
        """Start all parts, the tables being there, and wait for the API."""
        for part in PARTS:
            self.server(part).launch()
        self.servers["api-server"].await_ready()

    def check(self) -> None:
        """Raise `StartError` with its log's end when a part has ended."""
        for server in self.servers.values():
            if not server.alive:
                raise StartError(f"{server.name} ended with exit code {server.returncode}\n{server.tail()}")

    def stop(self) -> None:
        running = [server for server in self.servers.values() if server.alive]
        for server in running:
            server.resume()
            server.process.terminate()  # type: ignore[union-attr]
        for server in running:
            server.stop(timeout=15)


@contextmanager
def running_site(site: AirflowSite) -> Iterator[AirflowSite]:
    """Migrate, start, and stop in the end."""
    try:
        site.migrate()
        site.start()
        yield site
    finally:
        site.stop()


def airflow_version() -> tuple[int, ...]:
    """Return the installed Airflow's version, its first two numbers."""
    return tuple(int(part) for part in importlib.metadata.version("apache-airflow").split(".")[:2])


def airflow_command() -> list[str]:
    return [sys.executable, "-m", "airflow"]
