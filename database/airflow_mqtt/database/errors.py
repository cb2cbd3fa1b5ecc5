"""What a database's errors mean: whether they pass by themselves, or what a person must mend.

An error that is not known passes: a message is dropped only where the database says that what it holds does not fit.
"""

import sqlite3
from typing import Final

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from airflow_mqtt.protocol.errors import AirflowMqttError, RefusedError


class DeposedError(AirflowMqttError):
    """Another bridge has taken the lease: nothing may be written any more."""


class UnfitError(ValueError):
    """What was to be written cannot be written in any database."""


#: Classes of PostgreSQL's error codes that blame what was given: a value, a constraint, a limit.
_UNFIT: Final = frozenset({"22", "23", "54"})

#: No such schema, table, column.
_LACKING: Final = frozenset({"3F000", "42P01", "42703"})

#: Access that a person must mend: classes of password and database, and the right to a table.
_ACCESS: Final = frozenset({"28", "3D"})
_RIGHTS: Final = "42501"

#: What the user may not do, or nobody in this database, such as in a copy that only follows another.
_FORBIDDEN: Final = frozenset({_RIGHTS, "25006"})

#: What this server will never do: syntax, an unknown function or setting, types that do not go together.
_IMPOSSIBLE: Final = frozenset({"42601", "42704", "42804", "42883"})

_BLAMING: Final = (UnfitError, OverflowError, UnicodeEncodeError, sqlite3.DataError, sqlite3.IntegrityError)

_DRIVERS: Final = ("asyncpg", "aiosqlite", "sqlite3")


def is_unfit(error: BaseException) -> bool:
    """Whether `error` blames what the database was given: the only kind of which a message can be the cause."""
    if code := _code(error):
        return code[:2] in _UNFIT
    if _is_of_a_driver(error) and isinstance(error, ValueError):  # asyncpg's own, before it has asked the server
        return type(error).__name__ == "DataError"
    return isinstance(error, (*_BLAMING, DataError, IntegrityError))


def is_transient(error: BaseException) -> bool:
    """Whether `error` is the database's or its driver's, and may pass. So does all that nobody knows."""
    ours = isinstance(error, (DBAPIError, PoolTimeout, OSError, sqlite3.Error)) or _is_of_a_driver(error)
    return bool(ours or _code(error)) and not is_unfit(error) and refusal(error) is None


def refusal(error: BaseException) -> RefusedError | None:
    """Return what to tell a person whose database will refuse this version for ever; None for any other error."""
    code = _code(error)
    if lacks_tables(error):
        return RefusedError(
            f"the database has not the tables of this airflow-mqtt ({said_by(error)}): run `airflow db migrate` at the"
            " Airflow site, with the same version of airflow-mqtt[airflow] installed there"
        )
    if code[:2] in _ACCESS or code == _RIGHTS:
        return RefusedError(f"the database refuses: {said_by(error)}; check database_url and the rights of its user")
    if code in _IMPOSSIBLE:
        return RefusedError(
            f"the database cannot do what this airflow-mqtt asks of it: {said_by(error)}; check database_url, and that"
            " the server is a PostgreSQL that Airflow supports"
        )
    return None


def lacks_tables(error: BaseException) -> bool:
    """Whether a table or a column is not there, or the schema that they would be in."""
    return _code(error) in _LACKING or (isinstance(error, (DBAPIError, sqlite3.Error)) and _lacks(error))


def for_operator(error: BaseException) -> str:
    """Return what to tell a person whose look or act met `error`: what, where, and what mends it."""
    if lacks_tables(error):
        return "the database has not the tables of airflow-mqtt: run `airflow db migrate`"
    if _code(error) in _FORBIDDEN or "readonly database" in str(error):  # SQLite's word
        return (
            f"the database does not allow that: {said_by(error)}; it takes a user in [database] sql_alchemy_conn who"
            " may write Airflow's tables and those of airflow-mqtt"
        )
    if is_unfit(error):
        return f"the database does not take that: {said_by(error)}"
    return f"the database does not answer: {said_by(error)}; check [database] sql_alchemy_conn"


def said_by(error: BaseException) -> str:
    """Return the first line of what the database itself says. Its details may hold a whole row, tokens and all."""
    text = (str(getattr(error, "orig", error)).strip().splitlines() or [type(error).__name__])[0]
    return text.rpartition("Error'>: ")[2]


def _code(error: BaseException) -> str:
    """The SQLSTATE, as asyncpg and psycopg call it, or psycopg2; empty where the database has none."""
    said = getattr(error, "orig", error)
    return getattr(said, "sqlstate", None) or getattr(said, "pgcode", None) or ""


def _is_of_a_driver(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _DRIVERS


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
