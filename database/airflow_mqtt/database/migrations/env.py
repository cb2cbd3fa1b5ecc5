"""Run by Alembic: through Airflow's engine, or through a connection that a caller passes in `attributes`."""

from typing import Any

from alembic import context
from sqlalchemy import Connection

from airflow_mqtt.database import tables

#: The same name as in `airflow_mqtt.executor.db`, which imports Airflow; this does so only if it must.
VERSION_TABLE = "alembic_version_mqtt"


def _include_object(_: Any, name: str | None, kind: str, *__: Any) -> bool:
    """Leave Airflow's tables alone, which live in the same database."""
    return kind != "table" or name in tables.metadata.tables


def _configure(**target: Any) -> None:
    context.configure(
        **target,
        target_metadata=tables.metadata,
        version_table=VERSION_TABLE,
        include_object=_include_object,
        compare_type=True,
        compare_server_default=True,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _online() -> None:
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        _configure(connection=connection, transaction_per_migration=True)
        return
    from airflow import settings  # noqa: PLC0415 - tests and tools bring their own connection

    assert settings.engine is not None
    with settings.engine.connect() as own:
        _configure(connection=own, transaction_per_migration=True)


if context.is_offline_mode():
    _configure(url=context.config.get_main_option("sqlalchemy.url"), literal_binds=True)
else:
    _online()
