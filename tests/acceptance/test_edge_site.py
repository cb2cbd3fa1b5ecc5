"""The example Dag on a real Airflow, its tasks on a worker that reaches nothing but the broker.

All assertions are on Airflow's REST API, whose server shares no disk with bridge and worker.
"""

import pytest

from airflow_site import WORKER, WholeSite
from servers import wait_for

pytestmark = pytest.mark.timeout(900)

DAG = "edge_site"

#: (task, map index) -> (state, last try)
EXPECTED = {
    ("read_sensors", -1): ("success", 1),
    ("judge", -1): ("success", 1),
    ("cool_down", -1): ("success", 1),
    ("carry_on", -1): ("skipped", 0),
    ("calibrate", 0): ("success", 1),
    ("calibrate", 1): ("success", 1),
    ("calibrate", 2): ("success", 1),
    ("disk_free", -1): ("success", 1),
    ("settle", -1): ("success", 1),
    ("flaky_bus", -1): ("success", 2),
    ("broken_probe", -1): ("failed", 1),
    ("report", -1): ("success", 1),
}

#: (task, map index, try) -> what its log must hold.
LOGGED = {
    ("read_sensors", -1, 1): ["read 3 sensors"],
    ("judge", -1, 1): ["hottest: boiler at"],
    ("cool_down", -1, 1): ["opening the valve"],
    ("calibrate", 0, 1): ["boiler: "],
    ("calibrate", 1, 1): ["pump: "],
    ("calibrate", 2, 1): ["exhaust: "],
    ("disk_free", -1, 1): ["looking at the disk"],
    ("settle", -1, 1): ["settling for 2 s", "settled, back on the device"],
    ("flaky_bus", -1, 1): ["asking the bus, try 1", "the bus did not answer"],
    ("flaky_bus", -1, 2): ["asking the bus, try 2"],
    ("broken_probe", -1, 1): ["fails on purpose", "on_failure_callback: broken_probe failed"],
    ("report", -1, 1): ["report: ", "plant-7"],
}


@pytest.fixture(scope="module")
def run(site: WholeSite) -> str:
    return site.run(DAG)


@pytest.fixture(scope="module")
def tasks(site: WholeSite, run: str) -> dict[tuple[str, int], dict]:
    return {(task["task_id"], task["map_index"]): task for task in site.client.tasks(DAG, run)}


def test_states_and_tries(tasks) -> None:
    assert {key: (task["state"], task["try_number"]) for key, task in tasks.items()} == EXPECTED


def test_all_ran_on_the_device(tasks) -> None:
    ran = [task for task in tasks.values() if task["state"] != "skipped"]
    assert {(task["hostname"], task["queue"]) for task in ran} == {(WORKER, "edge")}


def test_each_try_is_recorded(site: WholeSite, run: str) -> None:
    tries = site.client.tries(DAG, run, "flaky_bus")
    assert [(item["try_number"], item["state"]) for item in tries] == [(1, "failed"), (2, "success")]


def test_xcoms(site: WholeSite, run: str) -> None:
    client = site.client
    readings = client.xcom(DAG, run, "read_sensors")
    assert [reading["sensor"] for reading in readings] == ["boiler", "pump", "exhaust"]
    for index, reading in enumerate(readings):
        expected = {"sensor": reading["sensor"], "kelvin": round(reading["celsius"] + 273.15, 2)}
        assert client.xcom(DAG, run, "calibrate", map_index=index) == expected
    assert client.xcom(DAG, run, "settle") == "settled"
    report = client.xcom(DAG, run, "report")
    assert "%" in report.pop("disk")
    assert report == {
        "site": "plant-7",
        "plant": "plant.example:8080",
        "calibrated": ["boiler", "exhaust", "pump"],
        "bus": "answered at try 2",
    }


@pytest.mark.parametrize(("task", "index", "attempt"), LOGGED)
def test_log_of_an_ended_task(site: WholeSite, run: str, task: str, index: int, attempt: int) -> None:
    missing = list(LOGGED[task, index, attempt])

    def complete() -> bool:
        log = site.client.log(DAG, run, task, attempt, index)
        missing[:] = [text for text in LOGGED[task, index, attempt] if text not in log]
        return not missing

    try:
        # The last lines may still be on their way when the state is there already.
        wait_for(complete, what="the log", timeout=60, every=0.3)
    except TimeoutError:
        pytest.fail(f"{missing} not in: {site.client.log(DAG, run, task, attempt, index)}")


def test_log_of_a_running_task(site: WholeSite) -> None:
    dag, task, client = "waits_for_word", "wait_for_word", site.client
    client.await_dag(dag, check=site.check)
    run = client.trigger(dag)
    client.await_task(dag, run, task, {"running"})

    def early_lines() -> bool:
        site.check()
        log = client.log(dag, run, task)
        return "waiting for the word" in log and "ünïcode and stderr" in log

    wait_for(early_lines, what="the first lines of a running task's log", timeout=60, every=0.3)
    assert client.task(dag, run, task)["state"] == "running"
    assert site.watch.await_state(f"worker/{WORKER}/status", "running", timeout=60)
    client.call("POST", "variables", json={"key": f"word_{run}", "value": "done"})
    assert client.await_run(dag, run, check=site.check) == "success"
    assert client.xcom(dag, run, task) == "done"
    wait_for(lambda: "heard the word: done" in client.log(dag, run, task), what="the last line", timeout=60)
    lines = client.log(dag, run, task).splitlines()
    assert len([line for line in lines if line == "waiting for the word"]) == 1, "each line once"


def test_the_device_reaches_only_the_broker(site: WholeSite) -> None:
    ports = {"api-server": site.airflow.port, "database": site.database.port}
    assert site.network.reaches(site.broker.host, site.broker.port)
    for name, port in ports.items():
        for host in ("127.0.0.1", site.network.outside):
            assert not site.network.reaches(host, port), f"the {name} can be reached from the device by {host}"


def test_the_api_server_has_no_task_log_on_its_disk(site: WholeSite, run: str) -> None:
    folder = site.airflow.directory / "logs" / "api-server"
    found = [path for path in folder.rglob("*") if path.is_file() and "opening the valve" in path.read_text()]
    assert found == []


def test_the_worker_is_idle_again(site: WholeSite, run: str) -> None:
    site.watch.await_state(f"worker/{WORKER}/status", "idle", timeout=60)
    status = site.watch.last[f"airflow/v1/worker/{WORKER}/status"]
    assert (status["free"], status["running"]) == (2, 0)
