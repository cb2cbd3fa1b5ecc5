"""The systems: how each is configured, what helps it, and what its worker is."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from demo.brokers import Mosquitto
from demo.processes import Server, find_program, free_port, listens
from demo.site import FAST, AirflowSite

QUEUE: Final = "default"

#: Settings of the demo that are not Airflow's defaults, or are of our executor: no system gets them by itself.
_LEFT_OUT: Final = (*FAST, "AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS", "AIRFLOW__MQTT__ALLOW", "AIRFLOW__CORE__EXECUTOR")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a system runs. `prefix` goes before the worker's command, to run it at the end of its cable."""

    directory: Path
    host: str
    database_url: str
    slots: int
    prefix: Sequence[str]

    @property
    def sqlalchemy_url(self) -> str:
        """The database's URL with the driver that Airflow is installed with."""
        return self.database_url.replace("postgresql://", "postgresql+psycopg2://")


class PlainSite(AirflowSite):
    """A site with Airflow's own intervals, as a system's `settings` make it."""

    def _settings(self) -> dict[str, str]:
        return {name: value for name, value in super()._settings().items() if name not in _LEFT_OUT}


class System(ABC):
    """An executor and what belongs to it, in `place`, for `site`."""

    title: ClassVar[str]

    def __init__(self, place: Place, site: AirflowSite) -> None:
        self.place = place
        self.site = site

    @abstractmethod
    def settings(self) -> Mapping[str, str]:
        """Return what the site's configuration says of it."""

    def helpers(self) -> Sequence[Server]:
        """Return what runs beside the site, in the order of the start."""
        return ()

    def worker(self) -> Server | None:
        """Return the worker, not started; None when the scheduler runs the tasks."""
        return None

    def _airflow_worker(self, *arguments: str) -> Server:
        command = [*self.place.prefix, sys.executable, "-m", "airflow", *arguments]
        directory = self.place.directory
        return Server("worker", command, log=directory / "worker.log", env=self.site.environment, cwd=directory)


class Local(System):
    title = "LocalExecutor"

    def settings(self) -> Mapping[str, str]:
        return {"AIRFLOW__CORE__EXECUTOR": "LocalExecutor", "AIRFLOW__CORE__PARALLELISM": str(self.place.slots)}


class Celery(System):
    title = "Celery, Redis"

    def __init__(self, place: Place, site: AirflowSite) -> None:
        super().__init__(place, site)
        self._port = free_port(place.host)

    def settings(self) -> Mapping[str, str]:
        return {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CELERY__BROKER_URL": f"redis://{self.place.host}:{self._port}/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{self.place.sqlalchemy_url}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(self.place.slots),
        }

    def helpers(self) -> Sequence[Server]:
        program = find_program("redis-server", "apt-get install redis-server")
        host, port = self.place.host, self._port
        command = [program, "--port", str(port), "--bind", host, "--save", "", "--protected-mode", "no"]
        log = self.place.directory / "redis.log"
        return [Server("redis", command, log=log, cwd=self.place.directory, ready=lambda: listens(port, host))]

    def worker(self) -> Server:
        return self._airflow_worker("celery", "worker", "-q", QUEUE)


class Edge(System):
    title = "Edge provider"

    def settings(self) -> Mapping[str, str]:
        return {
            "AIRFLOW__CORE__EXECUTOR": "airflow.providers.edge3.executors.EdgeExecutor",
            "AIRFLOW__EDGE__API_ENABLED": "True",
            "AIRFLOW__EDGE__API_URL": f"{self.site.url}/edge_worker/v1/rpcapi",
        }

    def worker(self) -> Server:
        return self._airflow_worker("edge", "worker", "--concurrency", str(self.place.slots), "-q", QUEUE)


class Mqtt(System):
    title = "airflow-mqtt"
    #: Flags of its worker beside the usual.
    options: ClassVar[Sequence[str]] = ()

    def __init__(self, place: Place, site: AirflowSite) -> None:
        super().__init__(place, site)
        self._broker = Mosquitto(place.directory / "broker", accounts=["bench"], bind=place.host)

    def settings(self) -> Mapping[str, str]:
        return {"AIRFLOW__CORE__EXECUTOR": "airflow_mqtt.executor.MqttExecutor", "AIRFLOW__MQTT__ALLOW": "all"}

    def helpers(self) -> Sequence[Server]:
        from demo.edge import bridge  # noqa: PLC0415  not installed beside the others

        return [
            self._broker,
            bridge(
                self.place.directory,
                broker_url=self._broker.url("bridge"),
                database_url=self.place.database_url,
                execution_api_url=self.site.execution_api_url,
            ),
        ]

    def worker(self) -> Server:
        return self._worker("bench", self._broker.url("bench"))

    @contextmanager
    def slow_worker(self, round_trip: float) -> Iterator[Server]:
        """Another worker, not started, in the first one's place; its link has a round trip of so many seconds."""
        from proxy import Proxy  # type: ignore[import-not-found]  # noqa: PLC0415  tests have no types

        host = self.place.host
        with Proxy(self._broker.port, host=host, bind=host) as proxy:
            proxy.delay(round_trip / 2)
            worker = self._worker("slow", self._broker.url("bench", port=proxy.port))
            try:
                yield worker
            finally:
                worker.stop()

    def _worker(self, directory: str, broker_url: str) -> Server:
        from demo.edge import worker  # noqa: PLC0415

        return worker(
            self.place.directory / directory, broker_url=broker_url, dags_folder=self.site.dags_folder,
            name="bench", queues=QUEUE, slots=self.place.slots, prefix=self.place.prefix, options=self.options,
        )  # fmt: skip


SYSTEMS: Final[dict[str, type[System]]] = {"local": Local, "celery": Celery, "edge": Edge, "mqtt": Mqtt}
