"""Everything in which the supported versions of Airflow (3.1 to 3.3) differ."""

import re
import uuid
from collections.abc import Collection
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

from airflow.configuration import conf
from airflow.executors.base_executor import BaseExecutor
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import ColumnElement, Uuid, cast, func, select, tuple_, update
from sqlalchemy.orm import Session

from airflow_mqtt.database.queries.paging import is_sqlite, sent
from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.kinds import Kind


def _has_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module here, and a package in a later version
        return False


#: From 3.2 on the scheduler writes an id of the dispatch together with the state "queued".
PRE_ASSIGNS: Final = hasattr(BaseExecutor, "pre_assigns_external_executor_id")

#: From 3.3 on the Task SDK can supervise a callback like a task.
RUNS_CALLBACKS: Final = _has_module("airflow.sdk.execution_time.callback_supervisor")

#: From 3.3 on it can test a connection, too.
TESTS_CONNECTIONS: Final = _has_module("airflow.sdk.execution_time.connection_test_supervisor")

#: From 3.2 on a job that waits has a token of its own scope, which the start gate exchanges for the real one.
SCOPED_TOKENS: Final = _has_module("airflow.executors.workloads.base")

#: From 3.3 on a metric with tags is also said under its older name, which has them in it (`[metrics] legacy_names_on`).
NAMES_METRICS_TWICE: Final = _has_module("airflow._shared.observability.metrics.metrics_registry")

#: Options of `[metrics]`, each of which has them sent somewhere.
_METRICS: Final = ("statsd_on", "statsd_datadog_enabled", "otel_on")

_CALLBACK_LOG: Final = re.compile(r"executor_callbacks/(?P<dag_id>[^/]+)/(?P<run_id>.+)/[^/]+")

#: 3.2 on: `Uuid`, which takes `uuid.UUID`. Before: text.
_UUID_KEYS: Final = isinstance(TaskInstance.__table__.c.id.type, Uuid)


def own_session() -> AbstractContextManager[Session]:
    """Return a session that is nobody else's: the scheduler's own one is bound to the thread."""
    session: AbstractContextManager[Session] = create_session(scoped=False)
    return session


def _key(task_instance_id: str) -> Any:
    parsed = uuid.UUID(task_instance_id)
    return parsed if _UUID_KEYS else str(parsed)


def _as_key(session: Session, text: ColumnElement[str]) -> ColumnElement[Any]:
    """Return the id of a task instance as its column has it. PostgreSQL has had its own type for that all along."""
    if not is_sqlite(session):
        return cast(text, Uuid)
    return func.replace(text, "-", "") if _UUID_KEYS else text


def dispatches_of(session: Session, task_instance_ids: Collection[str]) -> dict[str, str | None]:
    """Return task instance id -> `external_executor_id` of those that still exist.

    A retry gives a task instance a new id, so that one of an earlier try is not found.
    """
    # The ids come back as they were sent: to make objects of a thousand takes longer than to find them.
    table, wanted = sent(session, task_instance_ids)
    columns = TaskInstance.__table__.c
    found = select(wanted, columns.external_executor_id).join_from(
        table, TaskInstance.__table__, columns.id == _as_key(session, wanted)
    )
    return dict(session.execute(found).all())


def cleared_dispatches(session: Session, tasks: Collection[tuple[str, str, str, int]]) -> set[str]:
    """Return the dispatches of those of `tasks` (Dag, run, task, map index) that were cleared while they ran.

    Clearing gives a task instance a new id at once (`clear_task_instances`), so that it is not found by the one that
    its job has. It keeps `external_executor_id`, and stays "restarting" until it hears that this dispatch has ended.
    """
    key = tuple_(TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index)
    statement = select(TaskInstance.external_executor_id).where(key.in_(tasks), TaskInstance.state == "restarting")
    return {dispatch for dispatch in session.scalars(statement) if dispatch is not None}


def set_dispatch(session: Session, task_instance_id: str, job_id: str) -> None:
    """Write what the scheduler pre-assigns from 3.2 on, in its own session."""
    session.execute(
        update(TaskInstance)
        .where(TaskInstance.id == _key(task_instance_id))
        .values(external_executor_id=job_id)
        .execution_options(synchronize_session=False)
    )


def untracked_key(kind: Kind, subject: str) -> Any:
    """Return by which key Airflow knows a piece of work that is no task."""
    if kind is kinds.CONNECTION_TEST:
        from airflow.models import connection_test  # noqa: PLC0415 - not before 3.3

        return connection_test.ConnectionTestKey(id=subject)
    from airflow.models import callback  # noqa: PLC0415 - not in 3.1

    return callback.CallbackKey(id=subject)


def run_of_callback(workload: Any) -> tuple[str, str] | None:
    """Return Dag and run of an `ExecuteCallback`. Only the path of its log says so (`ExecuteCallback.make`)."""
    found = _CALLBACK_LOG.fullmatch(str(workload.log_path or ""))
    return (found["dag_id"], found["run_id"]) if found else None


def mint(generator: Any, subject: str, *, waiting: bool) -> str:
    """Return a fresh token for a job that waits, or whose token was exchanged at the start gate.

    As `BaseWorkloadSchema.generate_token` (3.2 on) and `ExecuteTask.make` (3.1) do.
    """
    if not SCOPED_TOKENS:
        token: str = generator.generate({"sub": subject})
    elif waiting:
        claims = {"sub": subject, "scope": "workload"}
        token = generator.generate(extras=claims, valid_for=token_life(waiting=True))
    else:
        token = generator.generate(extras={"sub": subject, "scope": "execution"})
    return token


def token_life(*, waiting: bool) -> float:
    """Return how long a token from `mint` is good for, in seconds."""
    if waiting and SCOPED_TOKENS:
        return float(conf.getfloat("scheduler", "task_queued_timeout"))
    return float(conf.getint("execution_api", "jwt_expiration_time"))


def plugin_errors() -> dict[str, str]:
    """Load the plugins, and return from where one could not be loaded -> why."""
    from airflow import plugins_manager  # noqa: PLC0415 - it loads nothing by itself, and few need it

    if "get_import_errors" in vars(plugins_manager):
        return dict(plugins_manager.get_import_errors())
    plugins_manager.ensure_plugins_loaded()  # 3.1
    return dict(plugins_manager.import_errors)


def finds_database_manager() -> bool:
    """Whether `airflow db migrate` knows of our tables: by the provider's metadata from 3.2 on, else by a setting."""
    from airflow.providers_manager import ProvidersManager  # noqa: PLC0415 - a command alone needs it

    named = conf.get("database", "external_db_managers", fallback=None) or ""
    return hasattr(ProvidersManager, "db_managers") or "airflow_mqtt.executor.db.MqttDBManager" in named


def callback_timeout() -> float:
    """Return for how many seconds a callback may wait for a worker."""
    named = conf.get("mqtt", "callback_queued_timeout", fallback=None)
    return float(named) if named else float(conf.getfloat("scheduler", "task_queued_timeout"))


@cache
def stats() -> Any:
    """Return Airflow's metrics: what has `incr`, `gauge` and `timer`."""
    if _has_module("airflow._shared.observability.metrics.stats"):
        from airflow._shared.observability.metrics import stats as module  # noqa: PLC0415 - not in 3.1

        # Functions of the module from 3.3 on, methods of a class in it before.
        return getattr(module, "Stats", module)
    from airflow.stats import Stats  # noqa: PLC0415 - deprecated later

    return Stats


def has_metrics() -> bool:
    """Whether Airflow's metrics go anywhere."""
    return any(conf.getboolean("metrics", name, fallback=False) for name in _METRICS)


def belongs_to_team(auth_manager: Any, user: Any, team_name: str) -> bool:
    """Whether `user` belongs to a team. Airflow knows teams from 3.2 on; everybody belongs to none."""
    if not team_name:
        return True
    from airflow.api_fastapi.auth.managers.models import resource_details  # noqa: PLC0415 - for api-servers only

    if not hasattr(resource_details, "TeamDetails"):
        return True
    details = resource_details.TeamDetails(name=team_name)
    try:
        return bool(auth_manager.is_authorized_team(method="GET", details=details, user=user))
    except NotImplementedError:  # an auth manager that knows no teams
        return True
