"""What differs between the versions of the Task SDK (Airflow 3.1 to 3.3), and nothing else."""

import contextlib
import importlib
import logging
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import httpx
import structlog
from airflow.dag_processing.bundles.base import BaseDagBundle
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.sdk.api.datamodels._generated import BundleInfo, TaskInstance
from airflow.sdk.execution_time import comms, supervisor, task_runner
from pydantic import TypeAdapter

from airflow_mqtt.protocol.task_log import fitted
from airflow_mqtt.worker import task_log
from airflow_mqtt.worker.runner import sentinel
from airflow_mqtt.worker.runner.ahead import Ahead, fork_ahead
from airflow_mqtt.worker.runner.client import call_nobody, make_client, prepare_client
from airflow_mqtt.worker.runner.transport import BASE_URL
from airflow_mqtt.worker.runner.watch import Stamp, Watch

__all__ = ["make_client"]  # what of the SDK a supervisor needs comes from here

#: Modules that every task loads, or nearly; the warm process has them before it forks. Not all are in each version, or
#: there where the SDK is without Airflow's core beside it.
WARM = (
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.log",
    "airflow.sdk.plugins_manager",
    "airflow_mqtt.executor.plugin",  # that one loads it, wherever it is installed
    "airflow.sdk.execution_time.callback_supervisor",  # 3.3 and later
    "airflow.dag_processing.bundles.manager",
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.dagbag",  # 3.2 and later
    "airflow.models.dagbag",
    "airflow.models.dag",
    "airflow.sdk.serde",  # 3.2 and later
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk._shared.logging.remote",  # 3.2 and later
    "airflow.sdk._shared.logging.factory",  # 3.3 and later
    "airflow.version",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.operators.python",
    "jinja2.ext",
    "setproctitle",
    "encodings.idna",
)


def warm_up() -> None:
    """Do what each task would do: import what it needs, make what a `Client` caches, configure the supervisor's log."""
    for module in WARM:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
    _take_any_executor()
    _keep_lines_short()
    _make_type_adapters_once()
    _load_coordinators()
    prepare_client()
    _configure_logs_ahead()


def _take_any_executor() -> None:
    """Let a Dag name executors that the device's configuration does not know.

    They are the site's, whose dag-processor and scheduler have checked `executor=…`. Here the Dag bag checks it again,
    and would drop the Dag (`_validate_executor_fields` in `airflow.dag_processing.dagbag`; 3.1: in `models.dagbag`).
    """
    try:
        from airflow.exceptions import AirflowConfigException, UnknownExecutorException  # noqa: PLC0415
        from airflow.executors.executor_loader import ExecutorLoader  # noqa: PLC0415
        from airflow.executors.executor_utils import ExecutorName  # noqa: PLC0415
    except ImportError:
        return  # the SDK without Airflow's core beside it
    lookup = ExecutorLoader.lookup_executor_name_by_str

    def found(name: str, *arguments: Any, **options: Any) -> Any:
        try:
            return lookup(name, *arguments, **options)
        except (UnknownExecutorException, AirflowConfigException):
            return ExecutorName(module_path=name)

    ExecutorLoader.lookup_executor_name_by_str = found


def _make_type_adapters_once() -> None:
    """Let a task's process find the `TypeAdapter`s that it uses made already: it made five, always the same three.

    They are of the protocol between the task's process and its supervisor, and of rendered fields
    (`comms.CommsDecoder`, `task_runner.startup`, `task_runner._serialize_rendered_fields`). A decoder's class is looked
    up by its types, and looks at its frames, once.
    """
    made: list[tuple[Any, TypeAdapter[Any]]] = []  # not all kinds can be hashed

    def adapter(kind: Any) -> TypeAdapter[Any]:
        for known, found in made:
            if known is kind:
                return found
        made.append((kind, TypeAdapter(kind)))
        return made[-1][1]

    for module, kinds in ((comms, ("ToTask",)), (task_runner, ("StartupDetails", "JsonValue"))):
        if getattr(module, "TypeAdapter", None) is TypeAdapter:
            module.TypeAdapter = adapter
            for kind in kinds:
                if hasattr(module, kind):
                    adapter(getattr(module, kind))
    with contextlib.suppress(Exception):
        comms.CommsDecoder[comms.ToTask, comms.ToSupervisor](socket=None)


def _load_coordinators() -> None:
    """Read what each supervisor reads of the configuration (3.3 and later). What is wrong there, the task says."""
    with contextlib.suppress(Exception):
        importlib.import_module("airflow.sdk.execution_time.coordinator").get_coordinator_manager()


def _keep_lines_short() -> None:
    """Let supervisors write no line into a task's log that is too long to be shown: its link would carry it in vain."""
    modules = [supervisor]
    with contextlib.suppress(ImportError):
        modules.append(importlib.import_module("airflow.sdk.execution_time.callback_supervisor"))  # 3.3 and later
    for module in modules:
        configure = module._configure_logging  # noqa: SLF001

        def shortening(*arguments: Any, configure: Any = configure, **options: Any) -> Any:
            logger, file = configure(*arguments, **options)
            logger._logger = structlog.BytesLogger(cast("BinaryIO", _ShortLines(file)))  # noqa: SLF001
            return logger, file

        module._configure_logging = shortening  # noqa: SLF001


class _ShortLines:
    """The file of a task's log as `structlog.BytesLogger` writes to it: one line at a time."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, line: bytes) -> None:
        self._file.write(fitted(line.removesuffix(b"\n")) + b"\n")

    def flush(self) -> None:
        self._file.flush()


def _configure_logs_ahead() -> None:
    """Configure logging for supervisors, and have at hand what each task's process configures.

    The SDK's own function does the latter, for a descriptor that stands in for the task's pipe to its supervisor. A
    task's process has only to put the pipe in its place: to configure all anew took it milliseconds, and a write to
    each logger and handler, whose pages it shared with its parent until then.

    Messages of a supervisor itself, not of the task, go to stdout as JSON, wherever that leads after the fork.
    """
    from airflow.sdk.log import configure_logging  # noqa: PLC0415  slow

    stand_in = os.open(os.devnull, os.O_WRONLY)
    supervisor._configure_logs_over_json_channel(stand_in)  # noqa: SLF001
    config, handlers = structlog.get_config(), logging.root.handlers[:]
    configure_logging(json_output=True, output=sys.stdout.buffer)
    others = logging.root.handlers[:]

    def configure(log_fd: int) -> None:
        os.dup2(log_fd, stand_in, inheritable=False)
        structlog.configure(**config)
        added = [handler for handler in logging.root.handlers if handler not in others]  # by the Dag's file
        logging.root.handlers[:] = [*handlers, *added]

    supervisor._configure_logs_over_json_channel = configure  # noqa: SLF001


# --- Dags that are parsed before the fork -----------------------------------------------------------------


def parse_ahead(bundle_name: str, path: str) -> tuple[str, dict[str, Stamp]]:
    """Parse a Dag file as a task does (`task_runner.parse`), and keep it for the tasks forked from this process.

    Return why it must not be used, or nothing, and what it depends on. Of bundles only those will do whose files are
    there without being fetched: what `initialize` fetches for a task may be newer than what is here.
    """
    bundle = DagBundlesManager().get_bundle(name=bundle_name, version=None)
    if type(bundle).initialize is not BaseDagBundle.initialize:
        return "its bundle is fetched by each task", {}
    folder = os.fspath(Path(bundle.path, path))
    module, more = _dag_bag()
    original = module.BundleDagBag
    supervisor.block_orm_access()
    with Watch(bundle.path) as watch, _nobody_to_ask(watch):
        _load_plugins(watch)
        watch.read(folder)
        bag = original(dag_folder=folder, safe_mode=False, load_op_links=False, bundle_path=bundle.path, **more(bundle))
    if bag.import_errors or not bag.dags:
        watch.unfit("it has no Dags, or cannot be imported")

    def kept(*arguments: Any, **options: Any) -> Any:
        wanted = (options.get("dag_folder"), options.get("bundle_path"))
        return bag if wanted == (folder, bundle.path) else original(*arguments, **options)

    module.BundleDagBag = kept
    return watch.why, watch.stamps


def _load_plugins(watch: Watch) -> None:
    """Load Airflow's plugins, as each task does before it parses. Their files count as the Dag's own."""
    with contextlib.suppress(Exception):  # the task says it
        task_runner.get_listener_manager()
    if watch.why:
        watch.why = f"a plugin of Airflow is there, and {watch.why}"


def _dag_bag() -> tuple[Any, Callable[[Any], dict[str, Any]]]:
    """Return from where `task_runner.parse` takes `BundleDagBag`, and what it gives it beside what all versions do."""
    try:
        module = importlib.import_module("airflow.dag_processing.dagbag")
    except ImportError:
        return importlib.import_module("airflow.models.dagbag"), lambda _bundle: {}  # 3.1
    return module, lambda bundle: {"bundle_name": bundle.name}


@contextlib.contextmanager
def _nobody_to_ask(watch: Watch) -> Iterator[None]:
    """Stand in for the supervisor, of whom a task may ask Connections and Variables while it parses."""

    class Nobody:
        def __getattr__(self, name: str) -> Any:
            watch.unfit("it asks Airflow for something")
            raise RuntimeError("a Dag that is parsed before its task has nobody to ask")

    task_runner.SUPERVISOR_COMMS = Nobody()
    try:
        yield
    finally:
        del task_runner.SUPERVISOR_COMMS


def part_from_parent() -> None:
    """Let tasks of one parent not draw the same random numbers; Python's own generator sees to that itself."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()


def hear_of_ends(ended: Callable[[], None]) -> None:
    """Let supervisors of this process hear at once that theirs has ended; `ended` is called first."""
    sentinel.watch(supervisor.ActivitySubprocess, ended)
    try:
        from airflow.sdk.execution_time.callback_supervisor import CallbackSubprocess  # noqa: PLC0415  3.3 and later
    except ImportError:
        return
    sentinel.watch(CallbackSubprocess, ended)


def rehearse(channel: socket.socket) -> Ahead | None:
    """Fork the process of a task ahead, without `channel`; then do once more what a supervisor does up to the gate.

    The fork made all pages shared again.
    """
    found = fork_ahead(channel)
    call_nobody()
    return found


def run_task(workload: dict[str, Any], client: Any, log_path: Path) -> int:
    """Run an `ExecuteTask` workload to its end; return the exit code of the task's process."""
    arguments = {
        "ti": TaskInstance.model_validate(workload["ti"]),
        "bundle_info": BundleInfo.model_validate(workload["bundle_info"]),
        "dag_rel_path": workload["dag_rel_path"],
        "token": "",
        "client": client,
        "log_path": str(log_path),
    }
    sentry = workload.get("sentry_integration", "")
    if sentry:
        arguments["sentry_integration"] = sentry  # 3.2 and later
    supervise = getattr(supervisor, "supervise_task", None) or supervisor.supervise
    return int(supervise(**arguments))


def refusal(error: BaseException) -> str:
    """Return what Airflow refused and why, where that is what `error` comes from; else nothing."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError):
            request = cause.request
            path = request.url.path.removeprefix(httpx.URL(BASE_URL).path)
            return task_log.refusal(request.method, path, cause.response.status_code, cause.response.text)
        cause = cause.__cause__ or cause.__context__
    return ""


def run_callback(workload: dict[str, Any], client: Any, log_path: Path) -> int:
    """Run an `ExecuteCallback` workload to its end. The SDK raises when the callback fails."""
    from airflow.sdk.execution_time import callback_supervisor  # noqa: PLC0415  3.3 and later

    _keep_inside(callback_supervisor)
    callback = workload["callback"]
    return int(
        callback_supervisor.supervise_callback(
            id=callback["id"],
            callback_path=callback["data"].get("path", ""),
            callback_kwargs=callback["data"].get("kwargs", {}),
            dag_rel_path=workload["dag_rel_path"],
            bundle_info=BundleInfo.model_validate(workload["bundle_info"]),
            client=client,
            log_path=str(log_path),
        )
    )


def run_connection_test(workload: dict[str, Any], client: Any) -> int:
    """Run a `TestConnection` workload to its end, in this process. The SDK reports what came of it by itself.

    It makes its client of an address, so ours is put in the place of that.
    """
    from airflow.sdk.execution_time import connection_test_supervisor  # noqa: PLC0415  3.3 and later

    connection_test_supervisor.Client = lambda **_: client
    return int(
        connection_test_supervisor.supervise_connection_test(
            connection_test_id=uuid.UUID(workload["connection_test_id"]),
            connection_id=workload["connection_id"],
            timeout=workload["timeout"],
            token="",
            server=BASE_URL,
        )
    )


def _keep_inside(module: Any) -> None:
    """Let the callback's process, which is forked from this one, run nothing but what is meant to be a callback."""
    from airflow_mqtt.worker.runner import callbacks  # noqa: PLC0415  of what 3.3 and later have

    execute = module.execute_callback

    def checked(callback_path: str, *, bundle_path: Any, **options: Any) -> tuple[bool, str | None]:
        why = callbacks.refusal(callback_path, [bundle_path, _plugins_folder()])
        if why:
            options["log"].error(why, callback_path=callback_path)
            return False, why
        return execute(callback_path=callback_path, bundle_path=bundle_path, **options)  # type: ignore[no-any-return]

    module.execute_callback = checked


def _plugins_folder() -> str:
    from airflow.sdk.configuration import conf  # noqa: PLC0415  slow

    return str(conf.get("core", "plugins_folder", fallback=""))
