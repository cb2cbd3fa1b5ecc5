"""Databases of tests, with our tables: at once, or as Alembic makes them, as they are at a site.

By Alembic their indexes are in the order in which they came: of two that are as good, SQLite takes the last.
"""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event

from airflow_mqtt.database import tables

PACKAGE = Path(tables.__file__).parent


def engine_of(url: str, **options: Any) -> Engine:
    """Return an engine of somebody beside the bridge. As PostgreSQL in tests, SQLite does not wait for the disk."""
    made = create_engine(url.replace("postgresql://", "postgresql+psycopg2://"), **options)
    if made.dialect.name == "sqlite":
        event.listen(made, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    return made


def with_tables(url: str) -> Engine:
    """Return an engine as `engine_of` does, and make the tables."""
    made = engine_of(url)
    tables.metadata.create_all(made)
    return made


def config(connection: Connection | None = None) -> Config:
    made = Config(str(PACKAGE / "alembic.ini"))
    made.set_main_option("script_location", str(PACKAGE / "migrations"))
    made.attributes["connection"] = connection
    return made


def upgrade(engine: Engine, to: str = "heads") -> None:
    with engine.begin() as connection:
        command.upgrade(config(connection), to)


def downgrade(engine: Engine, to: str) -> None:
    with engine.begin() as connection:
        command.downgrade(config(connection), to)
