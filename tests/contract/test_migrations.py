"""The migrations and `database.tables` say the same, on each database, and lose nothing on the way."""

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, Index, MetaData, Select, insert, inspect, or_, select, text
from sqlalchemy.pool import NullPool

from airflow_mqtt.database import tables
from schema import config, downgrade, engine_of, upgrade

VERSION_TABLE = "alembic_version_mqtt"


@pytest.fixture
def engine(database_url: str):
    # Each connection is a new one, which has read nothing of the tables as they were before.
    made = engine_of(database_url, poolclass=NullPool)
    yield made
    made.dispose()


def default_differs(_, __, ___, found, ____, wanted) -> bool | None:
    """Alembic takes the empty text of SQLite, with its quotes, for another one. None: judge as usual."""
    empty = found is not None and wanted is not None and not found.strip("()'") and not wanted.strip("()'")
    return False if empty else None


def is_of(engine: Engine, index: Index) -> bool:
    """Whether a database of this kind has this index."""
    return index._ddl_if is None or index._ddl_if.dialect == engine.dialect.name


def differences(engine: Engine) -> list[object]:
    options = {
        "version_table": VERSION_TABLE,
        "compare_type": True,
        "compare_server_default": default_differs,
        "target_metadata": tables.metadata,
        "include_object": lambda one, _, kind, *__: kind != "index" or is_of(engine, one),
    }
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata)


def test_the_migrations_make_what_the_tables_say(engine):
    upgrade(engine)
    assert differences(engine) == []


def indexes(engine: Engine) -> dict[str, str]:
    """Index -> how the database says that it is made, with its condition, which Alembic does not compare."""
    from_sqlite = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    from_postgresql = "SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE 'ix_mqtt_%'"
    statement = from_sqlite if engine.dialect.name == "sqlite" else from_postgresql
    with engine.connect() as connection:
        return {name: " ".join(sql.split()) for name, sql in connection.execute(text(statement))}


def test_the_indexes_hold_the_rows_that_the_tables_say(engine):
    upgrade(engine)
    migrated = indexes(engine)
    downgrade(engine, "base")
    tables.metadata.create_all(engine)
    assert migrated == indexes(engine)
    ours = [index for table in tables.metadata.tables.values() for index in table.indexes]
    assert set(migrated) == {index.name for index in ours if is_of(engine, index)}


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
    downgrade(engine, "base")
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


# --- from one version to the next -----------------------------------------------------------------------------

OLD_JOB = {
    "kind": "airflow", "workload_type": "ExecuteTask", "workload": "{}", "token": "t", "token_at": 1.0, "queue": "a",
    "priority": 1, "slots": 1, "attempt": 1, "owner": "7", "queued_at": 2.0,
}  # fmt: skip
OLD_WORKER = {"name": "edge-1", "state": "idle", "seen_at": 3.0, "desired": '{"maintenance":true}', "revision": 4}


def found(engine: Engine) -> MetaData:
    """The tables as they are in the database."""
    made = MetaData()
    made.reflect(engine, only=["mqtt_job", "mqtt_worker"])
    return made


def rows(engine: Engine, table: str) -> dict[str, dict[str, object]]:
    """First column -> row, of a table as it is in the database."""
    columns = found(engine).tables[table]
    key = "id" if table == "mqtt_job" else "name"
    with engine.connect() as connection:
        return {row[key]: dict(row) for row in connection.execute(select(columns)).mappings()}


def old_rows(engine: Engine) -> None:
    """Write what an executor and a bridge of 0.1.0 have written."""
    made = found(engine).tables
    with engine.begin() as connection:
        for number, (state, ended) in enumerate([("queued", None), ("running", None), ("failed", 9.0)]):
            row = OLD_JOB | {"id": f"{state}", "state": state, "subject": f"ti-{number}", "finished_at": ended}
            connection.execute(insert(made["mqtt_job"]).values(**row, report_pending=ended is not None))
        connection.execute(insert(made["mqtt_worker"]).values(**OLD_WORKER))


def test_what_0_1_0_wrote_survives_both_ways(engine):
    upgrade(engine, "0001")
    old_rows(engine)
    before = [rows(engine, "mqtt_job"), rows(engine, "mqtt_worker")]
    upgrade(engine)
    jobs, workers = rows(engine, "mqtt_job"), rows(engine, "mqtt_worker")
    for job in jobs.values():
        fresh = (job["news"], job["cancel_reason"], job["cancel_by"], job["api_version"])
        assert fresh == (False, None, "", "")
    assert (workers["edge-1"]["news"], workers["edge-1"]["removal"]) == (False, False)
    downgrade(engine, "0001")
    assert [rows(engine, "mqtt_job"), rows(engine, "mqtt_worker")] == before


def test_an_executor_of_0_1_0_beside_the_new_tables_is_heard(engine):
    """It does not know the column, so that its rows are news."""
    upgrade(engine)
    old_rows(engine)
    assert {job["news"] for job in rows(engine, "mqtt_job").values()} == {True}
    assert not rows(engine, "mqtt_worker")["edge-1"]["news"]


@pytest.mark.parametrize(("state", "after"), [("running", "cancelling"), ("queued", "queued"), ("failed", "failed")])
def test_a_wish_goes_back_as_an_executor_of_0_1_0_writes_it(engine, state, after):
    upgrade(engine)
    old_rows(engine)
    with engine.begin() as connection:
        connection.execute(tables.job.update().where(tables.job.c.id == state).values(cancel_reason="operator: x"))
    downgrade(engine, "0001")
    job = rows(engine, "mqtt_job")[state]
    assert (job["state"], job["reason"]) == (after, "operator: x" if after == "cancelling" else "")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_upgrade_writes_no_row_anew(engine):
    """On PostgreSQL, where a site may have a million of them."""
    where = text("SELECT id, ctid::text, xmin::text FROM mqtt_job ORDER BY id")
    upgrade(engine, "0001")
    old_rows(engine)
    with engine.connect() as connection:
        before = connection.execute(where).all()
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(where).all() == before


# --- the index of what is new ---------------------------------------------------------------------------------


def plan(engine: Engine, statement: Select[Any]) -> str:
    """How the database finds what `statement` asks for."""
    sql = str(statement.compile(engine, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {sql}"))


def many_rows(engine: Engine) -> None:
    """Some thousand jobs and workers, of which few are new."""
    ended = {"state": "succeeded", "finished_at": 9.0, "news": True}
    lives = {"state": "running", "finished_at": None, "news": False}
    jobs = [
        OLD_JOB | {"id": f"{number:04}", "subject": "x"} | (lives if number % 10 == 0 else ended)
        for number in range(4000)
    ]
    workers = [OLD_WORKER | {"name": f"edge-{number}", "news": number < 3} for number in range(2000)]
    with engine.begin() as connection:
        connection.execute(insert(tables.job), jobs)
        connection.execute(insert(tables.worker), workers)
        few = tables.job.c.id.in_(["0000", "0010", "0020"])
        connection.execute(tables.job.update().where(few).values(news=True))
        if engine.dialect.name == "postgresql":  # autovacuum does that; nobody does it in a file of SQLite
            connection.exec_driver_sql("ANALYZE")


def test_what_is_new_is_found_by_its_index(engine):
    upgrade(engine)
    many_rows(engine)
    job, worker = tables.job.c, tables.worker.c
    new_jobs = select(job.id).where(job.team_name == "", job.news, or_(job.finished_at.is_(None), job.report_pending))
    new_workers = select(worker.name).where(worker.team_name == "", worker.news)
    for statement, index in ((new_jobs, "ix_mqtt_job_news"), (new_workers, "ix_mqtt_worker_news")):
        assert index in plan(engine, statement)
        with engine.connect() as connection:
            assert len(connection.execute(statement).all()) == 3
