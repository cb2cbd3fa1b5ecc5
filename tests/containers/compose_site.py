"""compose.yaml as a whole: a project of its own, with settings of its own, removed with all it holds at the end."""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import make_env
from engine import compose

import servers
from demo.client import AirflowClient

ROOT = Path(__file__).resolve().parents[2]
WITNESS = "/var/lib/airflow-mqtt/witness"

#: Short intervals: somebody waits.
SETTINGS = {
    "WORKER_KEEPALIVE": "10",
    "WORKER_HEARTBEAT_INTERVAL": "10",
    "WORKER_DRAIN_TIMEOUT": "2",
    "AIRFLOW_DAG_REFRESH_INTERVAL": "5",
    "HEALTH_INTERVAL": "5s",
}

#: All that should be healthy.
PARTS = (
    "database", "broker", "api-server", "scheduler", "dag-processor", "triggerer", "bridge-1", "bridge-2", "edge-1",
    "edge-2",
)  # fmt: skip


def docker(*arguments: str, check: bool = True, timeout: float = 120) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class ComposeProject:
    """Runs Compose on compose.yaml. `settings` go before `.env`, as the environment does."""

    def __init__(self, name: str, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.env_file = directory / f"{name}.env"
        self.values = self._new_values()
        self.env_file.write_text("".join(f"{key}={value}\n" for key, value in self.values.items()))
        known = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "MQTT_"))}
        self.environment = {**known, **SETTINGS, **images(), **(settings or {})}

    def _new_values(self) -> dict[str, str]:
        return {
            **{name: make() for name, make in make_env.VALUES.items()},
            "AIRFLOW_PORT": str(servers.free_port()),
            "MQTT_PORT": str(servers.free_port()),
        }

    def run(self, *arguments: str, timeout: float = 300, env_file: Path | None = None) -> subprocess.CompletedProcess:
        command = [*compose(), "-p", self.name, "--env-file", str(env_file or self.env_file), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def __call__(self, *arguments: str, timeout: float = 300) -> str:
        done = self.run(*arguments, timeout=timeout)
        assert done.returncode == 0, f"compose {' '.join(arguments)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return str(done.stdout)

    def container(self, service: str) -> str:
        filters = [f"label=com.docker.compose.project={self.name}", f"label=com.docker.compose.service={service}"]
        return docker("ps", "--all", "--quiet", "--latest", *(word for text in filters for word in ("--filter", text)))

    def inspect(self, service: str) -> dict[str, Any]:
        return dict(json.loads(docker("inspect", self.container(service)))[0])

    def health(self, service: str) -> str:
        state = self.inspect(service)["State"]
        return str(state.get("Health", {}).get("Status") if state["Running"] else state["Status"])

    def logs(self, service: str) -> str:
        done = subprocess.run(["docker", "logs", self.container(service)], capture_output=True, text=True, check=False)
        return str(done.stdout + done.stderr)

    def execute(self, service: str, *command: str, check: bool = True) -> str:
        return docker("exec", self.container(service), *command, check=check)

    def remove(self) -> None:
        self.run("down", "--volumes", "--remove-orphans", "--timeout", "3")


class ComposeSite(ComposeProject):
    """A whole site."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.values['AIRFLOW_PORT']}"

    def broker_url(self, account: str) -> str:
        password = self.values[f"MQTT_{account.upper().replace('-', '_')}_PASSWORD"]
        return f"mqtt://{account}:{password}@127.0.0.1:{self.values['MQTT_PORT']}"

    def up(self) -> None:
        """`up --wait`, in the words that the Python Compose has too."""
        self("up", "--detach", timeout=400)
        self.await_healthy()
        self.client = AirflowClient(self.url, password=self.values["AIRFLOW_ADMIN_PASSWORD"])

    def await_healthy(self, *services: str, timeout: float = 180) -> None:
        wanted = services or PARTS
        try:
            servers.wait_for(
                lambda: all(self.health(service) == "healthy" for service in wanted),
                what="all to be healthy",
                timeout=timeout,
                every=1,
            )
        except TimeoutError as error:
            ill = [service for service in wanted if self.health(service) != "healthy"]
            logs = "\n".join(f"--- {service}\n{self.logs(service)[-2000:]}" for service in ill)
            raise AssertionError(f"{error}: {ill} are not\n{logs}") from None

    def leader(self) -> str:
        """Return the service that leads, by what is retained on the broker."""
        return str(self.status("airflow/v1/bridge/status")["instance"])

    def status(self, topic: str) -> dict[str, Any]:
        """Return what is retained on `topic`, once there is something."""
        return servers.wait_for(lambda: self.statuses(topic).get(topic), what=f"what is retained on {topic}")

    def statuses(self, *filters: str) -> dict[str, dict[str, Any]]:
        """Return what is retained, as the monitor account reads it inside the broker's container."""
        command = ["mosquitto_sub", "-h", "127.0.0.1", "-u", "monitor", "-P", self.values["MQTT_MONITOR_PASSWORD"]]
        command += ["-v", "-W", "1", *(word for name in filters for word in ("-t", name))]
        lines = self.execute("broker", *command, check=False).splitlines()
        split = [line.split(" ", 1) for line in lines if " {" in line]
        return {topic: json.loads(payload) for topic, payload in split}

    def starts(self, run: str) -> Counter[tuple[str, str]]:
        """Return how often user code of each (map index, try) has started on the device."""
        lines = [line.split() for line in self.execute("edge-1", "cat", WITNESS, check=False).splitlines()]
        return Counter((index, attempt) for name, index, attempt, word in lines if name == run and word == "start")


def images() -> dict[str, str]:
    names = ("AIRFLOW_IMAGE", "BRIDGE_IMAGE", "BROKER_IMAGE", "WORKER_IMAGE", "BASE_IMAGE", "MOSQUITTO_IMAGE")
    return {name: os.environ[name] for name in (*names, "POSTGRES_IMAGE")}


def dags() -> Path:
    """Put example and test Dags in a folder that containers may read."""
    folder = ROOT / ".cache/compose/dags"
    shutil.rmtree(folder, ignore_errors=True)
    for source in (ROOT / "examples/dags", Path(__file__).parent / "dags"):
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@contextmanager
def compose_site(name: str = "amqtt-test") -> Iterator[ComposeSite]:
    site = ComposeSite(name, ROOT / ".cache/compose", {"DAGS_FOLDER": str(dags())})
    site.remove()
    try:
        site.up()
        yield site
    finally:
        site.remove()
