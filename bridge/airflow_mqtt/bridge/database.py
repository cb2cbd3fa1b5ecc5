"""The shell around the database: engines, and transactions that only the leader may commit."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from airflow_mqtt.bridge import tables
from airflow_mqtt.protocol.errors import AirflowMqttError, RefusedError

_DRIVERS: Final = {
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}

#: Seconds that a writer waits for SQLite's lock, which the scheduler holds too.
_SQLITE_BUSY: Final = 30.0

#: Execution option of connections that only read: on SQLite they need not wait for writers.
_READ_ONLY: Final = "airflow_mqtt_read_only"


class _Connection(sqlite3.Connection):
    """Closes its cursors with it.

    A task that is cancelled in the middle of a read leaves a cursor behind, in some traceback. SQLite puts off the
    closing of its connection, and keeps the lock, until that is collected: nobody could commit meanwhile.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        cursor = super().cursor(*args, **kwargs)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        for cursor in tuple(self._cursors):
            cursor.close()
        super().close()


class DeposedError(AirflowMqttError):
    """Another bridge has taken the lease: nothing may be written any more."""


def make_engine(url: str, *, idle_limit: float = 3.0) -> AsyncEngine:
    """Return an engine for Airflow's database URL, whichever driver that names.

    `idle_limit` is for how many seconds PostgreSQL waits for the next statement of a transaction. A leader that was
    stopped, or cut off, in the middle of one holds a lock on the lease, and nobody could take over until its TCP
    connection is given up, which may be hours.
    """
    parsed = make_url(url)
    backend = parsed.drivername.partition("+")[0]
    parsed = parsed.set(drivername=_DRIVERS[backend])
    if backend == "sqlite":
        engine = create_async_engine(parsed, connect_args={"timeout": _SQLITE_BUSY, "factory": _Connection})
        _take_write_lock_at_begin(engine)
        return engine
    if "sslmode" in parsed.query:  # libpq's name, which asyncpg does not know
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": str(parsed.query["sslmode"])})
    limit = {"idle_in_transaction_session_timeout": str(max(1, round(idle_limit * 1000)))}
    return create_async_engine(
        parsed, pool_size=10, max_overflow=10, pool_pre_ping=True, connect_args={"server_settings": limit}
    )


def _take_write_lock_at_begin(engine: AsyncEngine) -> None:
    """Let transactions on SQLite begin as writers.

    One that reads first and writes later fails with "database is locked" when somebody wrote in between. See
    "Serializable isolation / Savepoints / Transactional DDL" in SQLAlchemy's page on pysqlite.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def _no_implicit_begin(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        reads = connection.get_execution_options().get(_READ_ONLY)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


class Database:
    """Transactions of one bridge, for one team.

    `epoch` is that of the lease it holds, 0 while it holds none.
    """

    def __init__(self, engine: AsyncEngine, team_name: str) -> None:
        self.engine = engine
        self.team_name = team_name
        self.epoch = 0

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that commits only if this bridge still leads.

        The lease's row is locked for the time of the transaction: nobody takes over between check and commit. The
        lock is the weakest there is, `FOR KEY SHARE`. With `FOR SHARE`, transactions that overlap without a gap would
        keep the renewal of the lease waiting for as long as they come; this one only `lease.take` waits for.
        Raises `DeposedError`.
        """
        async with self.engine.begin() as connection:
            epoch = await connection.scalar(
                select(tables.bridge.c.epoch)
                .where(tables.bridge.c.team_name == self.team_name)
                .with_for_update(read=True, key_share=True)
            )
            if epoch != self.epoch:
                raise DeposedError(f"the lease has epoch {epoch}, this bridge held {self.epoch}")
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self.engine.connect() as connection:
            yield await connection.execution_options(**{_READ_ONLY: True})

    async def check(self) -> None:
        """Raise `RefusedError` when our tables are not there."""
        async with self.read() as connection:
            try:
                await connection.execute(select(tables.bridge.c.epoch).limit(1))
            except Exception as error:
                if _is_missing_table(error):
                    raise RefusedError(
                        "the database has no tables of airflow-mqtt: run `airflow db migrate` at the Airflow site,"
                        " with airflow-mqtt[airflow] installed there"
                    ) from None
                raise


def _is_missing_table(error: Exception) -> bool:
    """By SQLite's text and PostgreSQL's code `undefined_table`."""
    code = getattr(getattr(error, "orig", None), "sqlstate", None)
    return code == "42P01" or "no such table" in str(error)


def is_transient(error: BaseException) -> bool:
    """Whether `error` is the database's, and may pass: it is restarting, out of connections, locked, cut off."""
    return isinstance(error, (DBAPIError, PoolTimeout, OSError, sqlite3.OperationalError))
