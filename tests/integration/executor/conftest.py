"""A real metadata database of Airflow's, made by `airflow db migrate`, on SQLite and on PostgreSQL."""

import pytest

pytest.importorskip("airflow")

from integration.executor.world import World, bound_to


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    url = "" if request.param == "sqlite" else request.getfixturevalue("shared_postgres").new_database()
    with bound_to(tmp_path_factory.mktemp("airflow"), url) as made:
        yield made


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
