"""A broker of its own for each test, and what stands on its two sides: the other of the two is always real."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from bridge_bench import Site
from fakes import FakeExecutionApi, FakeWorker
from worker_bench import FakeBridge

NAME = "edge-1"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[servers.Mosquitto]:
    """A broker for each test: what one retains must not reach another."""
    with servers.mosquitto(tmp_path / "broker", accounts=[NAME, "edge-2"]) as server:
        yield server


@pytest.fixture
def bridge(broker: servers.Mosquitto) -> Iterator[FakeBridge]:
    """A bridge that we play, for a real worker."""
    with FakeBridge(broker.url("bridge"), NAME) as peer:
        yield peer


@pytest.fixture(scope="module")
def api() -> Iterator[FakeExecutionApi]:
    with FakeExecutionApi() as server:
        yield server


@pytest.fixture
def site(broker: servers.Mosquitto, database_url: str, tmp_path: Path, api: FakeExecutionApi) -> Iterator[Site]:
    """Real bridges, once on each database, for workers that we play."""
    api.seen.clear()
    api.answers.clear()
    made = Site(database_url, broker, api, tmp_path)
    yield made
    made.close()


@pytest.fixture
def worker(broker: servers.Mosquitto) -> Iterator[FakeWorker]:
    with FakeWorker(broker.url(NAME), NAME) as played:
        yield played
