"""Fixtures of all tests: servers that a whole session shares. A test that breaks a server starts its own."""

import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import schema
import servers

# No time is asserted anywhere, by Hypothesis neither: other work on the machine is no defect.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[servers.Postgres]:
    """One PostgreSQL for all tests of a run. At its end nobody needs what is in its hundreds of databases."""
    with servers.postgres() as server:
        yield server
        server.signal(signal.SIGQUIT)


@pytest.fixture
def postgres_url(shared_postgres: servers.Postgres) -> str:
    """The URL of an empty PostgreSQL database."""
    return shared_postgres.new_database()


@pytest.fixture(scope="session", params=["transaction", "session"])
def pooler(request: pytest.FixtureRequest, shared_postgres: servers.Postgres) -> Iterator[servers.Pgbouncer]:
    """A PgBouncer before the shared PostgreSQL, once in each mode."""
    with servers.pgbouncer(shared_postgres, request.param) as server:
        yield server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path}/airflow.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database, once of each kind."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """A database of each kind with our tables, as those who are not the leader write to it."""
    made = schema.with_tables(database_url)
    yield made
    made.dispose()


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    with Session(engine) as made:
        yield made
