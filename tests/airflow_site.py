"""A whole site for acceptance tests: Airflow on PostgreSQL, Mosquitto, a bridge, and a worker behind a cable.

`demo.site` starts Airflow, here and in the demo; this module says where everything stands in a test.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import servers
from demo import edge
from demo.client import AirflowClient
from demo.site import EXAMPLE_DAGS, AirflowSite, running_site
from network import EdgeNetwork, edge_network

WORKER = "edge-1"
TEST_DAGS = Path(__file__).parent / "acceptance" / "dags"


@dataclass
class WholeSite:
    """The parts of a running site. Each may be killed and started again by a test that has it to itself."""

    directory: Path
    network: EdgeNetwork
    database: servers.Postgres
    broker: servers.Mosquitto
    airflow: AirflowSite
    bridge: servers.Server
    worker: servers.Server
    watch: edge.Watch

    @property
    def client(self) -> AirflowClient:
        return self.airflow.client

    def check(self) -> None:
        """Raise with the log's end when a part has ended."""
        self.airflow.check()
        for server in (self.broker, self.bridge, self.worker):
            if not server.alive:
                raise AssertionError(f"{server.name} ended with exit code {server.returncode}\n{server.tail(60)}")

    def run(self, dag_id: str, timeout: float = 300) -> str:
        """Run a Dag to its end; return the run's id. Fails when the run did not succeed, with the logs' ends."""
        self.client.await_dag(dag_id, check=self.check)
        run = self.client.trigger(dag_id)
        try:
            state = self.client.await_run(dag_id, run, timeout=timeout, check=self.check)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.describe(dag_id, run)}") from None
        assert state == "success", self.describe(dag_id, run)
        return run

    def describe(self, dag_id: str, run: str) -> str:
        """Return what a person needs to find out why a run did not end well."""
        tasks = [(task["task_id"], task["state"]) for task in self.client.tasks(dag_id, run)]
        logs = [self.bridge, self.worker, self.airflow.servers["scheduler"]]
        return "\n".join([f"{run}: {tasks}", *(server.tail(40) for server in logs)])


def dags_for_tests(directory: Path) -> Path:
    """Put the example Dags and those of the tests in one folder, which Airflow and the device each get."""
    folder = directory / "dags"
    for source in (EXAMPLE_DAGS, TEST_DAGS):
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@contextmanager
def whole_site(directory: Path, environment: Mapping[str, str] | None = None) -> Iterator[WholeSite]:
    """Start all of it below `directory`; `environment` adds settings of Airflow."""
    dags = dags_for_tests(directory)
    with ExitStack() as stack:
        network = stack.enter_context(edge_network())
        database = stack.enter_context(servers.postgres())
        broker = stack.enter_context(servers.mosquitto(directory / "broker", accounts=[WORKER], bind=network.outside))
        # The driver is named: without it SQLAlchemy 2.0 and 2.1 choose different ones.
        url = database.new_database().replace("postgresql://", "postgresql+psycopg2://")
        airflow = AirflowSite(directory / "site", database_url=url, dags_folder=dags, environment=environment)
        stack.enter_context(running_site(airflow))
        bridge = edge.bridge(
            directory / "bridge",
            broker_url=broker.url("bridge"),
            database_url=airflow.database_url,
            execution_api_url=airflow.execution_api_url,
        )
        worker = edge.worker(
            directory / "worker", broker_url=broker.url(WORKER), dags_folder=dags, prefix=network.prefix
        )
        watch = stack.enter_context(edge.Watch(broker.url("monitor")))
        for server, topic, state in (
            (bridge, "bridge/status", "leading"),
            (worker, f"worker/{WORKER}/status", "idle"),
        ):
            stack.enter_context(servers.running(server))
            watch.await_state(topic, state, servers=[server], timeout=90)
        yield WholeSite(directory, network, database, broker, airflow, bridge, worker, watch)
