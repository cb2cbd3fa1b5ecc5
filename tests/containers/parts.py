"""Our images as single containers, confined as compose.yaml confines them, and what they say."""

import subprocess
from collections.abc import Mapping
from typing import Any

from servers import wait_for


def confined(image: str, settings: Mapping[str, str]) -> Any:
    """Return a container, not started: a root file system that is read-only, without capabilities."""
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(image, read_only=True, cap_drop=["ALL"], init=True).with_tmpfs_mount("/tmp")
    for key, value in settings.items():
        container = container.with_env(key, value)
    return container


def health(container: Any, part: str) -> tuple[int, str]:
    """Return the exit code of the health check, and what it says."""
    answer = container.exec(["python3", "/usr/local/lib/airflow-mqtt/health.py", part])
    return answer.exit_code, answer.output.decode().strip()


def log(container: Any) -> str:
    """Return what `docker logs` shows."""
    return b"".join(container.get_logs()).decode()


def await_log(container: Any, text: str) -> None:
    """Wait until `docker logs` shows `text`: a line is on its way while the command that wrote it has ended."""
    wait_for(lambda: text in log(container), what=f"{text!r} in the log", every=0.2)


def address_of(container_id: str) -> str:
    """Return the container's address on Docker's own bridge."""
    shape = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    command = ["docker", "inspect", "--format", shape, container_id]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
