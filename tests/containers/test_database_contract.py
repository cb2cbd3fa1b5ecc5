"""The migrations' contract, on the database's image: the same tests as on a local PostgreSQL."""

import pytest

from contract.test_migrations import *  # noqa: F403  the suite
from contract.test_migrations import engine  # noqa: F401  and its fixture


@pytest.fixture
def database_url(postgres_url: str) -> str:
    return postgres_url
