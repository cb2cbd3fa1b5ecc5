"""The tables as Alembic makes them: as they are at a site, with their indexes in the order in which they came."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine

from airflow_mqtt.database import tables

PACKAGE = Path(tables.__file__).parent


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
