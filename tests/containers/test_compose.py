"""compose.yaml, started once: it runs the example Dag, and loses nothing while its parts are killed and paused."""

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compose_site import PARTS, ComposeSite, compose_site, docker

import servers
from demo import edge
from demo.edge import Watch

pytestmark = pytest.mark.timeout(600)

#: Exits with 0 when a TCP connection is taken.
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1.5).close()"


@pytest.fixture(scope="module")
def site() -> Iterator[ComposeSite]:
    with compose_site() as running:
        running.client.await_dag("long_work", timeout=180)
        yield running


def test_all_are_healthy_and_the_example_runs(site: ComposeSite) -> None:
    assert {part: site.health(part) for part in PARTS} == dict.fromkeys(PARTS, "healthy")
    shown = site("run", "--rm", "--no-deps", "demo", timeout=400)
    print(shown)
    assert "All went as it should" in shown


def test_an_orphan_in_the_database_ends_no_session(site: ComposeSite) -> None:
    """As a health check leaves one that is given up; `sleep` is there to outlive it."""
    container = site.container("database")
    docker("exec", container, "sh", "-c", "sh -c 'sleep 0.5; kill -PIPE $$' >/dev/null 2>&1 & exit 0")
    docker("exec", container, "sleep", "2")
    logs = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    assert "terminated by signal" not in logs.stdout + logs.stderr


def reaches(site: ComposeSite, service: str, host: str, port: int) -> bool:
    command = ["docker", "exec", site.container(service), "python3", "-c", CONNECT, host, str(port)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def docker_bridge() -> str:
    """Return this machine's address on Docker's own bridge."""
    return docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")


def test_a_device_reaches_only_the_broker(site: ComposeSite) -> None:
    addresses = {
        service: [network["IPAddress"] for network in site.inspect(service)["NetworkSettings"]["Networks"].values()]
        for service in ("api-server", "database", "bridge-1")
    }
    assert reaches(site, "edge-1", "broker", 1883)
    assert reaches(site, "bridge-1", "api-server", 8080)  # the question itself works
    for service, port in (("api-server", 8080), ("database", 5432)):
        for host in (service, *addresses[service]):
            assert not reaches(site, "edge-1", host, port), f"edge-1 reaches {host}:{port}"
    # Nor what listens on this machine: on the network there is no address of it.
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        networks = [*site.inspect("edge-1")["NetworkSettings"]["Networks"].values()]
        gateways = [*(network["Gateway"] for network in networks), docker_bridge()]
        assert not any(reaches(site, "edge-1", host, port) for host in gateways if host)


def test_both_bridges_serve_their_metrics_to_the_site(site: ComposeSite) -> None:
    read = "import urllib.request as u; print(u.urlopen('http://{}:9883/metrics', timeout=20).read().decode())"
    said = [site.execute("bridge-1", "python3", "-c", read.format(bridge)) for bridge in ("bridge-1", "bridge-2")]
    leading = re.findall(r"^airflow_mqtt_leading\{.*\} (\d)", "\n".join(said), re.MULTILINE)
    assert sorted(leading) == ["0", "1"]
    assert not reaches(site, "edge-1", "bridge-1", 9883)


@pytest.mark.parametrize("part", PARTS)
def test_containers_are_confined(site: ComposeSite, part: str) -> None:
    found = site.inspect(part)
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert "no-new-privileges:true" in found["HostConfig"]["SecurityOpt"]
    processes = [line.split() for line in docker("top", found["Id"], "-eo", "pid,uid,comm").splitlines()[1:]]
    # A process that a health check is just starting is Docker's for a moment. So is the init, which only reaps: that of a
    # container whose entry point gives up root by itself is root's.
    of_docker = ("runc", "docker-init", "tini")
    assert [words for words in processes if words[1] == "0" and not any(name in words[2] for name in of_docker)] == []


def test_nothing_secret_is_in_an_image(site: ComposeSite) -> None:
    for part in ("api-server", "bridge-1", "edge-1", "broker"):
        shown = docker("history", "--no-trunc", site.inspect(part)["Image"])
        assert [name for name, value in site.values.items() if len(value) > 20 and value in shown] == []


def test_it_is_watched_from_outside(site: ComposeSite) -> None:
    with Watch(site.broker_url("monitor")) as watch:
        watch.await_state("bridge/status", "leading")
        watch.await_state("worker/edge-1/status", "idle")
        watch.await_state("worker/edge-2/status", "idle")
        servers.wait_for(lambda: "airflow/v1/queue/workshop/status" in watch.last, what="the figures of a queue")


def test_a_device_outside_joins(site: ComposeSite, tmp_path: Path) -> None:
    password = site.execute("broker", "broker-account", "pi-1")
    device = edge.worker(
        tmp_path,
        broker_url=f"mqtt://pi-1:{password}@127.0.0.1:{site.values['MQTT_PORT']}",
        dags_folder=Path(site.environment["DAGS_FOLDER"]),
        name="pi-1",
        queues="garden",
    )
    with servers.running(device):
        site.client.await_dag("outside")
        run = site.client.trigger("outside")
        assert site.client.await_run("outside", run, check=lambda: None) == "success", device.tail()
        assert site.client.task("outside", run, "hello")["hostname"] == "pi-1"


# --- while a task runs ------------------------------------------------------------------------------------


def kill_and_start(site: ComposeSite, service: str) -> None:
    docker("kill", site.container(service))
    time.sleep(2)  # down for a moment, as after a crash
    docker("start", site.container(service))


def pause(site: ComposeSite, service: str) -> None:
    docker("pause", site.container(service))
    time.sleep(8)  # longer than a lease; the fault itself
    docker("unpause", site.container(service))


def unplug(site: ComposeSite, service: str) -> None:
    network = f"{site.name}_edge"
    docker("network", "disconnect", network, site.container(service))
    time.sleep(8)  # the fault itself
    docker("network", "connect", "--alias", service, network, site.container(service))


FAULTS: dict[str, Callable[[ComposeSite], None]] = {
    "kill the broker": lambda site: kill_and_start(site, "broker"),
    "kill the leading bridge": lambda site: kill_and_start(site, site.leader()),
    "kill the worker": lambda site: kill_and_start(site, "edge-1"),
    "pause the broker": lambda site: pause(site, "broker"),
    "pause the leading bridge": lambda site: pause(site, site.leader()),
    "pause the worker": lambda site: pause(site, "edge-1"),
    "unplug the worker": lambda site: unplug(site, "edge-1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_and_nothing_starts_twice(site: ComposeSite, fault: str) -> None:
    client = site.client
    run = client.trigger("long_work", {"seconds": 5})
    servers.wait_for(lambda: len(site.starts(run)) >= 2, what="two tasks to run", timeout=120, every=0.5)
    FAULTS[fault](site)
    state = client.await_run("long_work", run, timeout=240)
    tasks = {str(task["map_index"]): task for task in client.tasks("long_work", run)}
    starts = site.starts(run)
    assert state == "success", (state, starts, site.logs("edge-1")[-2000:], site.logs(site.leader())[-3000:])
    assert {task["state"] for task in tasks.values()} == {"success"}
    assert set(starts.values()) == {1}, f"started twice: {starts}"
    # Every try that Airflow counts has started, and no other: a fault is no reason for a try, the worker's death is. A
    # try that the worker's death ended may have been counted and not yet begun.
    tries = {(index, str(number)) for index, task in tasks.items() for number in range(1, task["try_number"] + 1)}
    last = {(index, str(task["try_number"])) for index, task in tasks.items()}
    assert last <= set(starts) <= tries
    if fault != "kill the worker":
        assert {task["try_number"] for task in tasks.values()} == {1}
    site.await_healthy()


def test_it_comes_back_with_its_state(site: ComposeSite) -> None:
    before = site.client.get("dags/long_work/dagRuns")["total_entries"]
    assert before > 0
    journal = site.status("airflow/v1/worker/edge-1/status")["connection"]
    site("down", timeout=180)
    site.up()
    assert site.client.get("dags/long_work/dagRuns")["total_entries"] == before
    after = site.status("airflow/v1/worker/edge-1/status")["connection"]
    assert after > journal, "the worker began a new journal"
    assert site.execute("broker", "grep", "-c", "^pi-1:", "/var/lib/mosquitto/passwd") == "1"
    run = site.client.trigger("long_work", {"seconds": 0.5})
    assert site.client.await_run("long_work", run, timeout=180) == "success"
