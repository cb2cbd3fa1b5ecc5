"""What `airflow mqtt check` finds in Airflow's configuration and database."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from airflow.executors.executor_loader import ExecutorLoader
from airflow.utils.log.file_task_handler import FileTaskHandler
from airflow.utils.log.log_reader import TaskLogReader
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Row, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from airflow_mqtt.config.version import VERSION
from airflow_mqtt.database import bridges, tables
from airflow_mqtt.database.documents import read
from airflow_mqtt.database.errors import said_by
from airflow_mqtt.database.queries.workers import queues_of
from airflow_mqtt.executor import compat, db, fleet, remote_logs
from airflow_mqtt.executor.cli import check
from airflow_mqtt.executor.cli.check import Lease, Line, LogReaders, Name, Result, Revision, WorkerFacts
from airflow_mqtt.executor.log_io import MqttLogIO
from airflow_mqtt.protocol.workers import GONE

_bridge = tables.bridge.c
_worker = tables.worker.c

#: How often the lease is looked at, in seconds.
_LOOK_EVERY: Final = 0.2


def look(team_name: str, lease_ttl: float) -> Iterator[Line]:
    """Yield a line for each thing of the site."""
    yield check.executor(_executors())
    yield check.logs(_log_readers())
    yield from _of_database(_of_clock, _of_tables, lambda session: _of_fleet(session, team_name, lease_ttl))


def _of_database(*questions: Callable[[Session], list[Line]]) -> Iterator[Line]:
    """Ask one after the other, until one has found a fault: without tables there is no bridge to look for."""
    for question in questions:
        try:
            with compat.own_session() as session:
                lines = question(session)
        except DBAPIError as error:
            todo = "check [database] sql_alchemy_conn, and that its server can be reached from here"
            lines = [Line("database", Result.FAULT, f"it does not answer: {said_by(error)}", todo)]
        yield from lines
        if check.exit_code(lines):
            return


def _executors() -> list[Name] | str:
    try:
        names = ExecutorLoader.get_executor_names()
        for name in names:
            if name.module_path.startswith("airflow_mqtt."):
                ExecutorLoader.import_executor_cls(name)
    except Exception as error:  # whatever Airflow has against it
        return f"{type(error).__name__}: {error}"
    return [Name(name.module_path, name.alias, getattr(name, "team_name", None)) for name in names]


def _log_readers() -> LogReaders:
    """Load the plugins as an API server does, and see who would read a log then."""
    errors = compat.plugin_errors()
    ours = next((error for source, error in errors.items() if "airflow_mqtt" in source or "airflow-mqtt" in source), "")
    handler = type(TaskLogReader().log_handler)
    own_way = "" if handler.read is FileTaskHandler.read else handler.__name__
    return LogReaders(isinstance(remote_logs.reader(), MqttLogIO), ours, own_way)


def _of_clock(session: Session) -> list[Line]:
    before = time.time()
    there = float(session.scalar(select(bridges.clock(session.get_bind().dialect.name))) or 0)
    return [check.database_clock(there - (before + time.time()) / 2)]


def _of_tables(session: Session) -> list[Line]:
    context = MigrationContext.configure(session.connection(), opts={"version_table": db.VERSION_TABLE})
    scripts = ScriptDirectory(db.MqttDBManager.migration_dir)
    known = {script.revision for script in scripts.walk_revisions()}
    head = scripts.get_current_head() or ""
    return [check.tables(Revision(context.get_current_revision(), head, known, compat.finds_database_manager()))]


def _of_fleet(session: Session, team_name: str, lease_ttl: float) -> list[Line]:
    found = _lease(session, team_name, lease_ttl)
    teams = session.scalars(select(_bridge.team_name).where(_bridge.team_name != team_name)).all()
    access = fleet.enforced(session, team_name)
    query = select(_worker.name, _worker.state, _worker.info, _worker.desired, _worker.clock_offset).where(
        _worker.team_name == team_name
    )
    known = [_worker_facts(row, access) for row in session.execute(query.order_by(_worker.name))]
    bridge_version = found.version if found is not None else ""
    return [
        check.lease(found, team_name, teams),
        *check.workers(known),
        check.versions(VERSION, bridge_version, known),
    ]


def _lease(session: Session, team_name: str, lease_ttl: float) -> Lease | None:
    """Look at the lease until it has moved, or has stood still for longer than a leader lets it."""
    query = select(_bridge.holder, _bridge.host, _bridge.epoch, _bridge.beat).where(_bridge.team_name == team_name)
    first = seen = _fresh(session, query)
    until = time.monotonic() + lease_ttl
    while first is not None and first.holder and seen == first and time.monotonic() < until:
        time.sleep(_LOOK_EVERY)
        seen = _fresh(session, query)
    if seen is None:
        return None
    said = bridges.bridges(session, team_name).leader
    since = said.since if said is not None else None
    led_for = None if since is None else max(0.0, time.time() - since)
    return Lease(seen.holder, seen.host, seen.epoch, seen != first, led_for, said.version if said is not None else "")


def _fresh(session: Session, query: Any) -> Row[Any] | None:
    session.rollback()  # else it is as it was when this transaction began, on SQLite
    found: Row[Any] | None = session.execute(query).one_or_none()
    return found


def _worker_facts(row: Any, access: Any) -> WorkerFacts:
    info = read(row.info)
    served = queues_of(info, read(row.desired).get("queues"))
    refused = [queue for queue in served if not access.may_serve(row.name, queue)]
    return WorkerFacts(row.name, row.state not in GONE, info.get("version") or "", row.clock_offset, refused)
