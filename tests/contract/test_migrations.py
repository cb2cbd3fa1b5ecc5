"""The migrations and `bridge.tables` say the same, on each database."""

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect

import airflow_mqtt.executor
from airflow_mqtt.database import tables

PACKAGE = Path(airflow_mqtt.executor.__file__).parent
VERSION_TABLE = "alembic_version_mqtt"


@pytest.fixture
def engine(database_url: str):
    made = create_engine(database_url.replace("postgresql://", "postgresql+psycopg2://"))
    yield made
    made.dispose()


def config(connection: Connection | None = None) -> Config:
    made = Config(str(PACKAGE / "alembic.ini"))
    made.set_main_option("script_location", str(PACKAGE / "migrations"))
    made.attributes["connection"] = connection
    return made


def upgrade(engine: Engine) -> None:
    with engine.begin() as connection:
        command.upgrade(config(connection), "heads")


def default_differs(_, __, ___, found, ____, wanted) -> bool | None:
    """Alembic takes the empty text of SQLite, with its quotes, for another one. None: judge as usual."""
    empty = found is not None and wanted is not None and not found.strip("()'") and not wanted.strip("()'")
    return False if empty else None


def differences(engine: Engine) -> list[object]:
    options = {
        "version_table": VERSION_TABLE,
        "compare_type": True,
        "compare_server_default": default_differs,
        "target_metadata": tables.metadata,
    }
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata)


def test_the_migrations_make_what_the_tables_say(engine):
    upgrade(engine)
    assert differences(engine) == []


def test_a_second_upgrade_changes_nothing(engine):
    upgrade(engine)
    upgrade(engine)
    assert differences(engine) == []


def test_a_difference_would_be_seen(engine):
    upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_mqtt_job_report")
        connection.exec_driver_sql("ALTER TABLE mqtt_bridge ADD COLUMN more TEXT")
    assert sorted(change[0] for change in differences(engine)) == ["add_index", "remove_column"]


def test_a_downgrade_leaves_nothing(engine):
    upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(config(connection), "base")
    assert inspect(engine).get_table_names() == [VERSION_TABLE]


def test_other_tables_in_the_database_are_left_alone(engine):
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE task_instance (id INTEGER)")
    upgrade(engine)
    assert "task_instance" in inspect(engine).get_table_names()


def test_there_is_one_head_and_the_manager_knows_it():
    heads = ScriptDirectory.from_config(config()).get_heads()
    assert len(heads) == 1
    db = pytest.importorskip("airflow_mqtt.executor.db", exc_type=ImportError)
    assert heads[0] in db.MqttDBManager.revision_heads_map.values()
    assert db.VERSION_TABLE == VERSION_TABLE
