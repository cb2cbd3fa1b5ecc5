"""The shell around the database: engines, and transactions that only the leader may commit."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote
from weakref import WeakSet

from sqlalchemy import event, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from airflow_mqtt.database import tables
from airflow_mqtt.database.connections import Session, connect_by_url, session_settings
from airflow_mqtt.database.errors import DeposedError
from airflow_mqtt.protocol.errors import RefusedError

_DRIVERS: Final = {
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}

#: Seconds that a writer waits for SQLite's lock, which the scheduler holds too.
SQLITE_BUSY: Final = 30.0

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


def make_engine(url: str, *, instance: str = "", idle_limit: float = 3.0) -> AsyncEngine:
    """Return an engine of bridge `instance` for Airflow's database URL, whichever driver that names.

    `idle_limit` is for how many seconds PostgreSQL waits for the next statement of a transaction, or for a client to
    take what it sends. A leader that was stopped, or cut off, in the middle of either holds a lock on the lease, and
    nobody could take over until its TCP connection is given up, which may be hours.
    """
    parsed = make_url(url)
    backend = parsed.drivername.partition("+")[0]
    parsed = parsed.set(drivername=_DRIVERS[backend])
    if backend == "sqlite":
        engine = create_async_engine(
            _existing(parsed), connect_args={"timeout": SQLITE_BUSY, "factory": _Connection}, hide_parameters=True
        )
        _take_write_lock_at_begin(engine)
        return engine
    settings = session_settings(instance, idle_limit)

    async def connect() -> Session:
        return await connect_by_url(url, settings=settings)

    def driver_connection() -> Any:
        # Statements are prepared without a name: one that has a name is lost when a pooler sends us elsewhere.
        return engine.sync_engine.dialect.dbapi.connect(  # type: ignore[union-attr]
            async_creator_fn=connect, prepared_statement_cache_size=0, prepared_statement_name_func=str
        )

    engine = create_async_engine(
        parsed.set(query={}),
        creator=driver_connection,
        pool_size=10,
        max_overflow=10,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    _tell_settings_at_begin(engine)
    return engine


def sqlite_uri(path: str) -> str:
    """Return the name by which SQLite opens the file at `path` without making one: a mistyped path stays a mistake.

    https://www.sqlite.org/uri.html
    """
    return f"{_name(path)}?mode=rw"


def _name(path: str) -> str:
    return path if path.startswith("file:") else f"file:{quote(str(Path(path).absolute()))}"


def _existing(url: URL) -> URL:
    return url.set(database=_name(str(url.database))).update_query_dict({"mode": "rw", "uri": "true"})


def _tell_settings_at_begin(engine: AsyncEngine) -> None:
    """Let each transaction in a session that is a pooler's begin with our settings."""

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        if settings := connection.connection.driver_connection.settings:
            connection.exec_driver_sql(settings)


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
        """Raise what `refusal` tells of tables that are not there, not as this version needs them, or not ours to read.

        Raises `RefusedError` for a SQLite file that is not there, or none: later, somebody may be putting it back.
        """
        if self.engine.dialect.name == "sqlite":
            _look(str(self.engine.url.database))
        async with self.read() as connection:
            for table in tables.metadata.sorted_tables:
                await connection.execute(select(*table.c).limit(0))


#: What SQLite says of a file that is not there or may not be opened, and of one that is something else.
_NO_DATABASE: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB})


def _look(name: str) -> None:
    """Raise `RefusedError` when there is no database at `name`.

    Not by aiosqlite: its thread goes on when a connection fails, and complains of an event loop that has closed.
    """
    try:
        with closing(sqlite3.connect(sqlite_uri(name), uri=True, timeout=0)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_DATABASE:  # the rest of the code says more of the cause
            raise _no_database(Path(unquote(name.removeprefix("file:"))), str(error)) from None


def _no_database(path: Path, said: str) -> RefusedError:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return RefusedError(f"there is no database at {path}; check database_url, or make it with `airflow db migrate`")
    except OSError as error:
        said = str(error.strerror)
    return RefusedError(
        f"the database at {path} cannot be used ({said}); check database_url, and what the bridge may read"
    )
