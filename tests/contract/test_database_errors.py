"""Which errors of a real database pass by themselves, and which a person must mend."""

import asyncio
import ctypes
import ctypes.util
import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

import servers
from airflow_mqtt.database import engine, tables
from airflow_mqtt.database import postgres_url as postgres_url_module
from airflow_mqtt.database.engine import Database, make_engine
from airflow_mqtt.database.errors import for_operator, is_transient, refusal
from airflow_mqtt.protocol.errors import RefusedError
from schema import with_tables


def error_of(url, *, work=None):
    """Return what `Database.check`, or `work` with its engine, raises."""

    async def attempt():
        engine = make_engine(url)
        try:
            await (work(engine) if work else Database(engine, "").check())
        except Exception as error:
            return error
        finally:
            await engine.dispose()
        return None

    return asyncio.run(attempt())


def change(url, *statements):
    engine = with_tables(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_tables_that_are_there_are_accepted(database_url):
    with_tables(database_url).dispose()
    assert error_of(database_url) is None


def test_no_tables(database_url):
    change(database_url, *(f"DROP TABLE {table.name}" for table in reversed(tables.metadata.sorted_tables)))
    error = error_of(database_url)
    assert not is_transient(error)
    assert "airflow db migrate" in str(refusal(error))


def test_no_file(sqlite_url):
    error = error_of(sqlite_url)
    assert isinstance(error, RefusedError)
    assert "there is no database at /" in str(error) and "airflow db migrate" in str(error)
    assert isinstance(error_of(sqlite_url), RefusedError)  # the first look has made none


def test_a_file_that_goes_while_it_is_used_may_come_back(sqlite_url):
    with_tables(sqlite_url).dispose()

    async def gone(engine):
        Path(make_url(sqlite_url).database).unlink()
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1 FROM mqtt_job"))

    error = error_of(sqlite_url, work=gone)
    assert is_transient(error) and refusal(error) is None
    assert not Path(make_url(sqlite_url).database).exists()


def test_a_locked_file_is_waited_for(sqlite_url):
    with_tables(sqlite_url).dispose()
    with closing(sqlite3.connect(make_url(sqlite_url).database)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        engine._look(make_url(sqlite_url).database)


def test_a_column_that_this_version_needs_is_missing(database_url):
    change(database_url, "ALTER TABLE mqtt_job DROP COLUMN running_since")
    error = error_of(database_url)
    assert not is_transient(error)
    assert "running_since" in str(refusal(error)) and "airflow db migrate" in str(refusal(error))
    assert "\n" not in str(refusal(error))


def test_a_database_that_does_not_exist(postgres_url):
    error = error_of(make_url(postgres_url).set(database="nowhere").render_as_string(hide_password=False))
    assert "database_url" in str(refusal(error) or error)
    assert not is_transient(error)


def test_what_may_only_be_read_is_said_to_who_would_write(database_url):
    made = with_tables(database_url)
    forbid = "PRAGMA query_only = ON" if made.dialect.name == "sqlite" else "SET TRANSACTION READ ONLY"
    with made.connect() as connection, pytest.raises(sa.exc.DBAPIError) as caught:
        connection.execute(sa.text(forbid))
        connection.execute(sa.text("DELETE FROM mqtt_act"))
    told = for_operator(caught.value)
    assert told.startswith("the database does not allow that: ")
    assert "who may write" in told and "\n" not in told
    made.dispose()


def test_a_user_without_rights(postgres_url):
    change(
        postgres_url,
        "DROP ROLE IF EXISTS visitor",
        "CREATE ROLE visitor LOGIN PASSWORD 'visitor'",
    )
    url = make_url(postgres_url).set(username="visitor", password="visitor").render_as_string(hide_password=False)
    error = error_of(url)
    assert not is_transient(error)
    assert "rights of its user" in str(refusal(error))


def test_what_passes_by_itself(postgres_url):
    with_tables(postgres_url).dispose()

    async def ended_by_the_server(engine):
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async def idle_for_too_long(engine):
        async with engine.connect() as connection:
            await connection.execute(sa.text("SET idle_in_transaction_session_timeout = 50"))
            await connection.execute(sa.text("SELECT 1"))
            await asyncio.sleep(0.3)
            await connection.execute(sa.text("SELECT 1"))

    async def locked(engine):
        async with engine.connect() as one, engine.connect() as other:
            await one.execute(sa.text("LOCK mqtt_bridge"))
            await other.execute(sa.text("SET lock_timeout = 50"))
            await other.execute(sa.text("LOCK mqtt_bridge"))

    for work in (ended_by_the_server, idle_for_too_long, locked):
        error = error_of(postgres_url, work=work)
        assert is_transient(error), (work, error)
        assert refusal(error) is None
    nobody = make_url(postgres_url).set(port=1).render_as_string(hide_password=False)
    assert is_transient(error_of(nobody))


def test_what_one_message_holds_is_no_fault_of_the_database(postgres_url):
    with_tables(postgres_url).dispose()

    async def too_large(engine):
        async with engine.begin() as connection:
            await connection.execute(sa.update(tables.job).values(exit_code=2**40))

    error = error_of(postgres_url, work=too_large)
    assert not is_transient(error)
    assert refusal(error) is None


@pytest.mark.parametrize(
    "query", ["connect_timeout=5", "application_name=bridge", "sslmode=prefer", "sslmode=disable&connect_timeout=3"]
)
def test_the_options_of_libpq_are_understood(postgres_url, query):
    """`sql_alchemy_conn` of Airflow has them, and people copy that."""
    with_tables(postgres_url).dispose()
    assert error_of(f"{postgres_url}?{query}") is None


@pytest.mark.parametrize("name", sorted({*postgres_url_module.IGNORED, *postgres_url_module.TRANSLATED}))
def test_each_option_that_is_no_setting_of_the_server_is_understood(postgres_url, name):
    with_tables(postgres_url).dispose()
    value = {
        "options": "-c%20geqo=off",
        "hostaddr": "127.0.0.1",
        "ssl": "prefer",
        "requiressl": "0",
        "connect_timeout": "5",
    }
    url = f"{postgres_url}?{name}={value.get(name, '1')}"
    assert error_of(url) is None
    target = postgres_url_module.parse(url)
    assert name in postgres_url_module.TRANSLATED or [name in line for line in (*target.notes, *target.warnings)]


def test_every_option_of_the_installed_libpq_is_known():
    """Libpq itself lists them: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PQCONNDEFAULTS"""
    for name in libpq_options():
        assert name in postgres_url_module.TAKEN | postgres_url_module.TRANSLATED | postgres_url_module.IGNORED.keys()


def libpq_options():
    library = ctypes.util.find_library("pq")
    if library is None:
        servers.missing("libpq is not installed: apt-get install libpq5")

    class Option(ctypes.Structure):
        _fields_ = [(name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")]
        _fields_.append(("dispsize", ctypes.c_int))

    libpq = ctypes.CDLL(library)
    libpq.PQconndefaults.restype = ctypes.POINTER(Option)
    found = []
    for option in libpq.PQconndefaults():
        if option.keyword is None:
            return found
        found.append(option.keyword.decode())
    return found


def test_a_setting_that_the_server_has_not_is_no_missing_table(postgres_url):
    with_tables(postgres_url).dispose()
    for query in ("keepalivez=1", "options=-c%20nosuch=1", "jit=perhaps", "sslmode=perhaps"):
        error = error_of(f"{postgres_url}?{query}")
        assert isinstance(error, RefusedError) and "migrate" not in str(error) and "database_url" in str(error), error


def test_nothing_but_a_missing_table_is_told_as_one(postgres_url):
    with_tables(postgres_url).dispose()
    for statement in (
        "SELECT nosuch(1)",
        "SELEC 1",
        "SELECT 'a' + 1",
        "SET nosuch TO 1",
        "EXECUTE nosuch",
        "SELECT 1/0",
    ):

        async def run(engine, statement=statement):
            async with engine.connect() as connection:
                await connection.exec_driver_sql(statement)

        error = error_of(postgres_url, work=run)
        assert "migrate" not in str(refusal(error)), statement


def test_a_token_is_not_in_the_text_of_an_error(database_url):
    with_tables(database_url).dispose()

    async def fail(engine):
        async with engine.begin() as connection:
            await connection.execute(sa.insert(tables.job).values(id="one", token="s3cr3t", workload="s3cr3t"))

    error = error_of(database_url, work=fail)
    assert "NOT NULL" in str(error).upper() or "not-null" in str(error)
    assert "s3cr3t" not in str(error).partition("DETAIL")[0]


def test_the_server_gives_up_on_a_leader_that_no_longer_reads(postgres_url):
    async def limits(engine):
        async with engine.connect() as connection:
            shown = [
                (await connection.execute(sa.text(f"SHOW {name}"))).scalar()
                for name in ("tcp_user_timeout", "idle_in_transaction_session_timeout")
            ]
        raise asyncpg.InterfaceError(str(shown))

    assert str(error_of(postgres_url, work=limits)) == "['3000', '3s']"
