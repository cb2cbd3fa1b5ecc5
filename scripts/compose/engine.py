"""A Docker engine: the one that answers, or one that is started here and stopped again."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]

#: Seconds in which a new engine must answer, and in which it must end.
START_TIMEOUT = 60
STOP_TIMEOUT = 60

PACKAGES = ("docker.io", "docker-compose", "debootstrap")


class NoEngineError(Exception):
    """No engine answers, and none can be started. The text says why."""


def answers() -> bool:
    """Whether an engine answers to the client as it is set up (DOCKER_HOST, context)."""
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, check=False)
    return asked.returncode == 0


def compose() -> list[str] | None:
    """Return the Compose that is there: v2 as a plug-in of the client, or the Python one."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    found = shutil.which("docker-compose")
    return [found] if found else None


class Engine:
    """Enter to have an engine that answers. What it logs while we run it is in `directory`/dockerd.log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if answers() and compose():
            return self
        install()
        if not answers():
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.daemon is None:
            return
        self.daemon.terminate()
        try:
            self.daemon.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        print("stopped dockerd", flush=True)

    def say(self) -> None:
        whose = "started here" if self.daemon else "was running"
        version = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, check=True
        )
        print(f"Docker engine {version.stdout.strip()} ({whose}), {' '.join(compose() or [])}", flush=True)

    def _start(self) -> None:
        if os.geteuid() != 0:
            raise NoEngineError("none answers, and only root can start one; start Docker, then try again")
        program = shutil.which("dockerd")
        if program is None:
            raise NoEngineError("dockerd is not installed: apt-get install docker.io")
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "dockerd.log"
        with log.open("wb") as output:
            self.daemon = subprocess.Popen(
                [program], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not answers():
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                with contextlib.suppress(ProcessLookupError):
                    self.daemon.terminate()
                raise NoEngineError(f"dockerd does not run here:\n{tail}")
            time.sleep(0.3)


def install() -> None:
    """Install what is missing of Debian's packages."""
    if shutil.which("apt-get") is None:
        raise NoEngineError("this is no Debian; install Docker, start it, then try again")
    done = subprocess.run(["sh", "scripts/install-debian", *PACKAGES], cwd=ROOT, check=False)
    if done.returncode:
        raise NoEngineError("Docker's packages could not be installed")
