"""Tests on a Docker engine, with images that `make test-compose` has built. Without it they skip; in CI they fail.

`broker` and `shared_postgres` are containers here: the contract suites that are run on local servers run on these, too.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import servers

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "scripts/compose")]
from parts import address_of  # noqa: E402  found there

# The reaper's image cannot be had everywhere; each test removes what it started.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
pytest.register_assert_rewrite("contract.test_broker_acl", "contract.test_migrations")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole sites take long: they come last."""
    items.sort(key=lambda item: "compose" in item.nodeid)


@pytest.fixture(scope="session", autouse=True)
def _images() -> None:
    if os.environ.get("AIRFLOW_MQTT_TEST_IMAGES") != "ready":
        pytest.skip("the images are made by `make test-compose`")


@dataclass
class ContainerBroker:
    """Our broker's image as a container; it can be asked as `servers.Broker` can."""

    passwords: dict[str, str]
    host: str = ""
    port: int = 0
    address: str = ""
    container: object = field(default=None, repr=False)

    def url(self, account: str, *, host: str | None = None, port: int | None = None) -> str:
        return f"mqtt://{account}:{self.passwords[account]}@{host or self.host}:{port or self.port}"


@pytest.fixture(scope="module")
def container_broker() -> Iterator[ContainerBroker]:
    from testcontainers.core.container import DockerContainer

    broker = ContainerBroker({name: secrets.token_hex(8) for name in ("bridge", "monitor", "edge-1", "edge-2")})
    accounts = " ".join(f"{name}:{password}" for name, password in broker.passwords.items())
    container = DockerContainer(os.environ["BROKER_IMAGE"]).with_env("MQTT_ACCOUNTS", accounts).with_exposed_ports(1883)
    with container as running:
        broker.host, broker.port = running.get_container_host_ip(), int(running.get_exposed_port(1883))
        broker.host = broker.host.replace("localhost", "127.0.0.1")
        broker.address = address_of(running.get_wrapped_container().id)
        broker.container = running
        # Docker's proxy takes connections before the broker does.
        servers.wait_for(lambda: running.exec(["broker-health"]).exit_code == 0, what="the broker", every=0.3)
        yield broker


class ContainerPostgres:
    """The database's image as a container; it makes empty databases as `servers.Postgres` does."""

    def __init__(self, container: object, password: str) -> None:
        self._container = container
        self._password = password
        self.host = container.get_container_host_ip().replace("localhost", "127.0.0.1")
        self.port = int(container.get_exposed_port(5432))
        self.address = address_of(container.get_wrapped_container().id)

    def psql(self, sql: str) -> str:
        command = ["psql", "-U", "airflow", "-d", "airflow", "-XAtqc", sql]
        result = self._container.exec(command)
        output = result.output.decode()
        assert result.exit_code == 0, output
        return output.strip()

    def answers(self) -> bool:
        """By TCP: on its first start the image also answers on its socket, before the database is made."""
        probe = ["sh", "-c", f"PGPASSWORD={self._password} psql -h 127.0.0.1 -U airflow -d airflow -c 'select 1'"]
        return bool(self._container.exec(probe).exit_code == 0)

    def new_database(self) -> str:
        name = f"test_{secrets.token_hex(4)}"
        self.psql(f'create database "{name}"')
        return f"postgresql://airflow:{self._password}@{self.host}:{self.port}/{name}"


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[ContainerPostgres]:
    """Takes the place of the local PostgreSQL in the suites that are run here."""
    from testcontainers.core.container import DockerContainer

    password = secrets.token_hex(8)
    container = DockerContainer(os.environ["POSTGRES_IMAGE"]).with_exposed_ports(5432)
    for name, value in (("USER", "airflow"), ("PASSWORD", password), ("DB", "airflow")):
        container = container.with_env(f"POSTGRES_{name}", value)
    with container as running:
        made = ContainerPostgres(running, password)
        servers.wait_for(made.answers, what="the database", timeout=60, every=0.3)
        yield made
