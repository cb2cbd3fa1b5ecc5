"""The tables as Airflow's database managers know them: `airflow db migrate` makes and changes them."""

from pathlib import Path
from typing import Any, Final

from airflow.utils.db_manager import BaseDBManager
from alembic import command

from airflow_mqtt.database import tables

#: Where the migrations are.
PACKAGE: Final = Path(tables.__file__).parent
VERSION_TABLE: Final = "alembic_version_mqtt"


class MqttDBManager(BaseDBManager):  # type: ignore[misc]
    """Found through the provider from Airflow 3.2 on; 3.1 wants it in `[database] external_db_managers`."""

    metadata = tables.metadata
    version_table_name = VERSION_TABLE
    migration_dir = str(PACKAGE / "migrations")
    alembic_file = str(PACKAGE / "alembic.ini")
    supports_table_dropping = True
    #: Version of airflow-mqtt -> the newest migration that it needs.
    revision_heads_map: dict[str, str] = {"0.1.0": "0001", "0.2.0": "0011"}  # noqa: RUF012 - declared so by the base class

    def create_db_from_orm(self) -> None:
        """Run the real migrations on an empty database as well: one way to make the tables, and it is tested."""
        command.upgrade(self.get_alembic_config(), "heads")
        self.log.info("Tables of airflow-mqtt have been created")

    def downgrade(self, to_revision: str, from_revision: str | None = None, show_sql_only: Any = False) -> None:
        """Go back to `to_revision`. With SQL only, say from where."""
        if show_sql_only and not from_revision:
            from_revision = self.get_current_revision()
        revision = f"{from_revision}:{to_revision}" if show_sql_only else to_revision
        command.downgrade(self.get_alembic_config(), revision=revision, sql=show_sql_only)
