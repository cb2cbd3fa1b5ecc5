"""The images that the tests need: ours, and stand-ins for the public ones where none is named."""

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from base_image import PREFIX, BuildError, base_image

HERE = Path(__file__).resolve().parent
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Job:
    """An image that is built of `context`."""

    name: str
    context: Path
    base: str
    tag: str
    dockerfile: str = "Dockerfile"
    target: str = ""


#: Settings that name the images of `Dockerfile`, each with its target, in the order in which they stand there.
TARGETS = {
    "THIN_WORKER_IMAGE": "worker-thin",
    "WORKER_IMAGE": "worker",
    "BRIDGE_IMAGE": "bridge",
    "AIRFLOW_IMAGE": "airflow",
}


def make(root: Path, cache: Path) -> dict[str, str]:
    """Make what is missing; return the settings that name the images."""
    cache.mkdir(parents=True, exist_ok=True)
    made = {name: os.environ.get(name, "") for name in ("BASE_IMAGE", "MOSQUITTO_IMAGE", "POSTGRES_IMAGE")}
    made["BASE_IMAGE"] = made["BASE_IMAGE"] or base_image(cache)
    jobs: list[Job] = []
    for setting, name in (("MOSQUITTO_IMAGE", "mosquitto"), ("POSTGRES_IMAGE", "postgres")):
        if not made[setting]:
            made[setting] = f"{PREFIX}/{name}"
            jobs.append(Job(name, HERE / "stand-ins" / name, made["BASE_IMAGE"], made[setting]))
    # Two at a time: one waits for the network while the other unpacks.
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(build, job) for job in jobs]:
            done.result()
    made["BROKER_IMAGE"] = f"{PREFIX}/broker"
    build(Job("broker", root, made["MOSQUITTO_IMAGE"], made["BROKER_IMAGE"], "mosquitto/Dockerfile"))
    # One after the other: they share what stands before them.
    for setting, target in TARGETS.items():
        made[setting] = f"{PREFIX}/{target}"
        build(Job(target, root, made["BASE_IMAGE"], made[setting], target=target))
    return made


def build(job: Job) -> None:
    began = time.monotonic()
    command = ["docker", "build", "--network", "host", "--build-arg", f"BASE_IMAGE={job.base}", "-t", job.tag]
    for proxy in PROXIES:
        if proxy in os.environ:
            command += ["--build-arg", proxy]  # its value is taken from the environment
    command += ["-f", str(job.context / job.dockerfile)]
    if job.target:
        command += ["--target", job.target]
    # The classic builder: BuildKit asks a registry for its frontend, and Debian's client may lack its plug-in.
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run([*command, str(job.context)], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise BuildError(f"building {job.name} failed:\n{output}")
    print(f"built {job.name} in {time.monotonic() - began:.0f} s", flush=True)


def show_sizes(made: dict[str, str]) -> None:
    for tag in sorted(set(made.values())):
        size = subprocess.run(
            ["docker", "image", "inspect", "--format", "{{.Size}}", tag], capture_output=True, text=True, check=True
        )
        print(f"  {tag:<32} {int(size.stdout) / 1e6:6.0f} MB", flush=True)
