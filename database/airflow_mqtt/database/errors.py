"""What a database's errors mean: whether they pass by themselves, or what a person must mend."""

import sqlite3
from typing import Final

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from airflow_mqtt.protocol.errors import AirflowMqttError, RefusedError


class DeposedError(AirflowMqttError):
    """Another bridge has taken the lease: nothing may be written any more."""


#: Classes of PostgreSQL's error codes that pass by themselves: connections, locks, room, a server that goes or comes.
_PASSING: Final = frozenset({"08", "40", "53", "55", "57", "58"})

#: Those that a person must mend: access, database or schema that is not there, syntax (a column that is missing).
_REFUSING: Final = frozenset({"28", "3D", "3F", "42"})

#: Of these: no such schema, table, column.
_LACKING: Final = frozenset({"3F000", "42P01", "42703"})

_IDLE_IN_TRANSACTION: Final = "25P03"


def is_transient(error: BaseException) -> bool:
    """Whether `error` is the database's, and may pass: it is restarting, out of connections, locked, cut off."""
    code = _code(error)
    if code:
        return code[:2] in _PASSING or code == _IDLE_IN_TRANSACTION
    if not isinstance(error, DBAPIError):
        return isinstance(error, (PoolTimeout, OSError, sqlite3.OperationalError)) and not _lacks(error)
    return not isinstance(error, (ProgrammingError, IntegrityError, DataError, NotSupportedError)) and not _lacks(error)


def refusal(error: BaseException) -> RefusedError | None:
    """Return what to tell a person whose database will refuse this version for ever; None for any other error."""
    if not (_code(error)[:2] in _REFUSING or (isinstance(error, (DBAPIError, sqlite3.Error)) and _lacks(error))):
        return None
    said = str(getattr(error, "orig", error)).strip().splitlines()[0].rpartition("Error'>: ")[2]
    if _code(error)[:2] in ("28", "3D") or _code(error) == "42501":
        return RefusedError(f"the database refuses: {said}; check database_url and the rights of its user")
    return RefusedError(
        f"the database has not the tables of this airflow-mqtt ({said}): run `airflow db migrate` at the Airflow site,"
        " with the same version of airflow-mqtt[airflow] installed there"
    )


def lacks_tables(error: DBAPIError) -> bool:
    """Whether a table or a column is not there, or the schema that they would be in."""
    return _code(error) in _LACKING or _lacks(error)


def _code(error: BaseException) -> str:
    """The SQLSTATE, as asyncpg and psycopg call it, or psycopg2; empty where the database has none."""
    said = getattr(error, "orig", error)
    return getattr(said, "sqlstate", None) or getattr(said, "pgcode", None) or ""


def _lacks(error: BaseException) -> bool:
    """Whether SQLite says that a table or column is not there. It has one kind of error for this and for locks."""
    return any(text in str(error) for text in ("no such table", "no such column", "has no column"))


def raise_unless_transient(error: Exception) -> None:
    """Raise `error`, or what it says to a person, unless it may pass by itself."""
    if refused := refusal(error):
        raise refused from None
    if not is_transient(error):
        raise error


def brief(error: BaseException) -> str:
    """Return the first line of what `error` says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
