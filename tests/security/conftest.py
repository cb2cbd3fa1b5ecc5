"""A site as it is deployed, and a device in it whose account somebody else has: Mosquitto with mosquitto/acl, a real
bridge on PostgreSQL, a stub of the Execution API."""

from collections.abc import Iterator

import pytest

import servers
from bridge_bench import Site
from fakes import FakeExecutionApi, FakeWorker
from security.flood import LOUD

VICTIM, STOLEN = "edge-1", "edge-2"


@pytest.fixture(scope="module")
def broker() -> Iterator[servers.Mosquitto]:
    with servers.mosquitto(accounts=[VICTIM, *dict.fromkeys(LOUD.values())]) as server:
        yield server


@pytest.fixture(scope="module")
def site(
    broker: servers.Mosquitto, shared_postgres: servers.Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with FakeExecutionApi() as api:
        made = Site(shared_postgres.new_database(), broker, api, tmp_path_factory.mktemp("site"))
        yield made
        made.close()


@pytest.fixture(scope="module")
def victim(broker: servers.Mosquitto) -> Iterator[FakeWorker]:
    with FakeWorker(broker.url(VICTIM), VICTIM, queues=["default"], slots=100) as played:
        yield played


@pytest.fixture(scope="module")
def stolen(broker: servers.Mosquitto) -> Iterator[FakeWorker]:
    """The device itself goes on beside whoever has its account."""
    with FakeWorker(broker.url(STOLEN), STOLEN, queues=["other"], slots=100) as played:
        yield played
