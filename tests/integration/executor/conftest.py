"""A real metadata database of Airflow's, made by `airflow db migrate`, on SQLite and on PostgreSQL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("airflow")

from integration.executor.world import World

_CONSTANT = {
    "AIRFLOW__CORE__EXECUTOR": "airflow_mqtt.executor.MqttExecutor",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of these tests, long enough for HS512 to be content with it, really",
    "AIRFLOW__DATABASE__EXTERNAL_DB_MANAGERS": "airflow_mqtt.executor.db.MqttDBManager",
}


def _connection(kind: str, home: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{home}/airflow.db"
    return request.getfixturevalue("shared_postgres").new_database().replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Airflow in this process, bound to a fresh database."""
    home = tmp_path_factory.mktemp("airflow")
    changed = {
        **_CONSTANT,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _connection(request.param, home, request),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            patch.setenv(name, value)
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        done = subprocess.run(migrate, env=dict(os.environ), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        yield from _bound(home)


def _bound(home: Path):
    from airflow import settings

    settings.configure_vars()
    settings.configure_orm()
    yield World(home)
    settings.dispose_orm()


@pytest.fixture
def run(capsys):
    """Run a command `airflow mqtt …` in this process and return what it printed."""
    from airflow.cli import cli_parser

    parser = cli_parser.get_parser()

    def run_command(*arguments):
        args = parser.parse_args(["mqtt", *arguments])
        capsys.readouterr()
        args.func(args)
        return capsys.readouterr().out

    return run_command


@pytest.fixture(autouse=True)
def _clean(world: World):
    world.clear()
    yield
    world.clear()
