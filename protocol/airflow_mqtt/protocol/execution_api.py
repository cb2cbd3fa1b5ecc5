"""The routes of Airflow's Execution API that a job may call, as one table for bridge and worker. Pure.

The paths are those of `airflow.api_fastapi.execution_api.routes` (Airflow 3.1 to 3.3), in its own notation. What is
not listed is refused.

A call is decided on what a server makes of it: `find` decodes the path once, as one does, and finds the route and what
it names. The bridge forwards `Match.path`, encoded anew, so that exactly this route and key are reached, however the
text that came was written. What a key may hold is the API's to say; what a path may name stands here.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote

from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.kinds import Kind


class Whose(StrEnum):
    """What a path may name."""

    ANYBODYS = "anybody's"
    SUBJECT = "the job's own id"  # the first thing that the path names is the job's subject
    INSTANCE = "the job's own task instance"  # Dag, run, task, and the map index in the query


class Does(StrEnum):
    """What a call does to the job for which it is made."""

    NOTHING = ""
    START = "start"  # the gate: user code may run after it
    LIVE = "heartbeat"  # never leaves the device: the bridge makes its own
    END = "final state"


class Needs(StrEnum):
    """What a job must be allowed to do for a call. A site grants it for each queue."""

    OWN = "own"  # nothing: it is the job's own affair
    READ_VARIABLES = "variables"
    WRITE_VARIABLES = "variables-write"
    CONNECTIONS = "connections"
    RUN_XCOMS = "xcoms-of-run"  # a read of those of other tasks of the same Dag run
    OTHER_XCOMS = "xcoms-of-others"  # … and of any other; what names the job's own task is its own affair
    OTHER_TASKS = "task-states"
    DAG_RUNS = "dag-runs"
    START_DAG_RUNS = "dag-runs-write"  # to trigger and to clear them
    DAGS = "dags"
    ASSETS = "assets"
    WRITE_ASSETS = "assets-write"


#: What a queue's jobs may be allowed beyond their own affairs.
RIGHTS: Final = [need.value for need in Needs if need is not Needs.OWN]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the Execution API answers when all is well."""

    status: int
    body: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One row.

    `stored` is what a worker answers for the API when there is no link: such a call is a write whose answer carries
    nothing. `times` are the fields of the body that hold a time of the device's clock, `answers` those of the answer
    in which the API gives such a time back (an empty name: the answer is one). `ours` is answered by the bridge and
    never forwarded.
    """

    methods: tuple[str, ...]
    path: str
    needs: Needs
    whose: Whose = Whose.ANYBODYS
    does: Does = Does.NOTHING
    stored: Reply | None = None
    times: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = (kinds.TASK, kinds.CALLBACK)
    ours: bool = False
    since: str = "3.1"
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", _compiled(self.path))


def _compiled(path: str) -> re.Pattern[str]:
    """Return what the paths of this route look like, decoded. As `starlette.routing.compile_path`."""
    parts = re.split(r"\{(\w+)(:path)?\}", path)
    text = re.escape(parts[0])
    for name, whole, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        text += f"(?P<{name}>{'.*' if whole else '[^/]+'})" + re.escape(literal)
    return re.compile(text, re.DOTALL)


_NO_CONTENT: Final = Reply(204)
_CONNECTION_TESTS: Final = (kinds.CONNECTION_TEST,)
_XCOM: Final = "xcoms/{dag_id}/{run_id}/{task_id}/{key:path}"

ROUTES: Final = (
    Route(
        ("PATCH",), kinds.TASK.gate, Needs.OWN, Whose.SUBJECT, Does.START, times=("start_date",),
        answers=("start_date",), kinds=(kinds.TASK,),
    ),
    Route(
        ("PATCH",), "task-instances/{task_instance_id}/state", Needs.OWN, Whose.SUBJECT, Does.END, _NO_CONTENT,
        times=("end_date", "reschedule_date"),
    ),
    Route(("PUT",), "task-instances/{task_instance_id}/heartbeat", Needs.OWN, Whose.SUBJECT, Does.LIVE, _NO_CONTENT),
    Route(
        ("PUT",), "task-instances/{task_instance_id}/rtif", Needs.OWN, Whose.SUBJECT,
        stored=Reply(201, '{"message":"Rendered task instance fields successfully set"}'),
    ),
    Route(
        ("PATCH",), "task-instances/{task_instance_id}/skip-downstream", Needs.OWN, Whose.SUBJECT, stored=_NO_CONTENT
    ),
    Route(
        ("PATCH",), "task-instances/{task_instance_id}/rendered-map-index", Needs.OWN, Whose.SUBJECT,
        stored=Reply(200, "{}"), since="3.2",
    ),
    Route(("GET",), "task-instances/{task_instance_id}/previous-successful-dagrun", Needs.OWN, Whose.SUBJECT),
    Route(("GET",), "task-instances/{task_instance_id}/validate-inlets-and-outlets", Needs.OWN, Whose.SUBJECT),
    Route(("GET",), "task-instances/count", Needs.OTHER_TASKS),
    Route(("GET",), "task-instances/states", Needs.OTHER_TASKS),
    Route(("GET",), "task-instances/breadcrumbs", Needs.OTHER_TASKS, since="3.2"),
    Route(("GET",), "task-instances/previous/{dag_id}/{task_id}", Needs.OTHER_TASKS, since="3.2"),
    Route(("GET",), "task-reschedules/{task_instance_id}/start_date", Needs.OWN, Whose.SUBJECT, answers=("",)),
    Route(("GET",), "connections/{connection_id}", Needs.CONNECTIONS),
    Route(("GET",), "variables/keys", Needs.READ_VARIABLES, since="3.3"),
    Route(("GET",), "variables/{variable_key:path}", Needs.READ_VARIABLES),
    Route(("PUT", "DELETE"), "variables/{variable_key:path}", Needs.WRITE_VARIABLES),
    Route(("GET",), f"{_XCOM}/item/{{offset}}", Needs.OTHER_XCOMS),
    Route(("GET",), f"{_XCOM}/slice", Needs.OTHER_XCOMS),
    Route(("GET", "HEAD"), _XCOM, Needs.OTHER_XCOMS),
    Route(
        ("POST",), _XCOM, Needs.OWN, Whose.INSTANCE,
        stored=Reply(201, '{"message":"XCom successfully set"}'),
    ),
    Route(("DELETE",), _XCOM, Needs.OWN, Whose.INSTANCE),
    Route(("GET",), "assets/by-name", Needs.ASSETS),
    Route(("GET",), "assets/by-uri", Needs.ASSETS),
    Route(("GET",), "assets/by-alias", Needs.ASSETS, since="3.3"),
    Route(("GET",), "asset-events/by-asset", Needs.ASSETS),
    Route(("GET",), "asset-events/by-asset-alias", Needs.ASSETS),
    Route(("GET",), "dag-runs/count", Needs.DAG_RUNS),
    Route(("GET",), "dag-runs/previous", Needs.DAG_RUNS, since="3.2"),
    Route(("GET",), "dag-runs/{dag_id}/previous", Needs.DAG_RUNS),
    Route(("GET",), "dag-runs/{dag_id}/{run_id}", Needs.DAG_RUNS, since="3.2"),
    Route(("POST",), "dag-runs/{dag_id}/{run_id}", Needs.START_DAG_RUNS),
    Route(("GET",), "dag-runs/{dag_id}/{run_id}/state", Needs.DAG_RUNS),
    Route(("POST",), "dag-runs/{dag_id}/{run_id}/clear", Needs.START_DAG_RUNS),
    Route(("GET",), "dags/{dag_id}", Needs.DAGS, since="3.2"),
    Route(("GET", "POST", "PATCH"), "hitlDetails/{task_instance_id}", Needs.OWN, Whose.SUBJECT),
    Route(("DELETE",), "store/ti/{task_instance_id}", Needs.OWN, Whose.SUBJECT, since="3.3"),
    Route(
        ("GET", "PUT", "DELETE"), "store/ti/{task_instance_id}/{key:path}", Needs.OWN, Whose.SUBJECT, since="3.3"
    ),
    Route(("GET",), "store/asset/by-name/value", Needs.ASSETS, since="3.3"),
    Route(("GET",), "store/asset/by-uri/value", Needs.ASSETS, since="3.3"),
    Route(("PUT", "DELETE"), "store/asset/by-name/value", Needs.WRITE_ASSETS, since="3.3"),
    Route(("PUT", "DELETE"), "store/asset/by-uri/value", Needs.WRITE_ASSETS, since="3.3"),
    Route(("DELETE",), "store/asset/by-name/clear", Needs.WRITE_ASSETS, since="3.3"),
    Route(("DELETE",), "store/asset/by-uri/clear", Needs.WRITE_ASSETS, since="3.3"),
    Route(
        ("GET",), kinds.CONNECTION_TEST.gate, Needs.OWN, Whose.SUBJECT, Does.START, kinds=_CONNECTION_TESTS, since="3.3"
    ),
    Route(
        ("PATCH",), "connection-tests/{connection_test_id}", Needs.OWN, Whose.SUBJECT, stored=_NO_CONTENT,
        kinds=_CONNECTION_TESTS, since="3.3",
    ),
    Route(
        ("PATCH",), kinds.CALLBACK.gate, Needs.OWN, Whose.SUBJECT, Does.START, kinds=(kinds.CALLBACK,), ours=True,
        since="3.3",
    ),
    Route(("PATCH",), "callbacks/{callback_id}/run", Needs.OWN, Whose.SUBJECT, kinds=(kinds.CALLBACK,), since="3.4"),
)  # fmt: skip

#: What Airflow will have itself (a call that exchanges a callback's token), and our gate, which had that path once.
CALLBACK_RUN: Final = ROUTES[-1]
CALLBACK_GATE: Final = ROUTES[-2]

_BY_LEVEL: Final[Mapping[str, list[Route]]] = defaultdict(list)
for _route in ROUTES:
    _BY_LEVEL[_route.path.partition("/")[0]].append(_route)


@dataclass(frozen=True, slots=True)
class Match:
    """A call that is in the table. `path` is decoded; `named` is what it names, in its order."""

    route: Route
    path: str
    named: Mapping[str, str]

    @property
    def subject(self) -> str:
        """The first thing that the path names."""
        return next(iter(self.named.values()), "")

    def names(self, **levels: str) -> bool:
        """Whether the path names these: `dag_id`, `run_id`, `task_id`."""
        return all(self.named.get(name) == value for name, value in levels.items())


class Miss(StrEnum):
    """Why a call is not in the table."""

    DOTS = "it holds a level of dots"
    PATH = "no such path"
    METHOD = "not with this method"


def find(method: str, path: str) -> Match | Miss:
    """Return what `path`, relative to the API's root and percent-encoded as in a URL, is a call of."""
    decoded = unquote(path.removeprefix("/"))
    if has_dots(decoded):
        return Miss.DOTS
    miss = Miss.PATH
    for route in _BY_LEVEL.get(decoded.partition("/")[0], ()):
        found = route.pattern.fullmatch(decoded)
        if found is None:
            continue
        if method in route.methods:
            return Match(route, decoded, found.groupdict())
        miss = Miss.METHOD
    return miss


def has_dots(path: str) -> bool:
    """Whether a level of `path` is "." or "..".

    A client resolves these before it sends (RFC 3986, section 5.2.4), as Airflow's own does, so none of them reaches
    the API; and a proxy on the way may resolve what we encode. Such a path could become another one.
    """
    return "/." in f"/{path}" and any(level in (".", "..") for level in path.split("/"))


def as_meant(match: Match, *, started: bool) -> Match:
    """Return what a worker means by a call of a job that has `started`, or not.

    Nothing is called before the gate. So a `CALLBACK_RUN` that comes first is the gate of a worker of 0.1.0, and one
    that comes later is Airflow's own.
    """
    if match.route is CALLBACK_RUN and not started:
        return Match(CALLBACK_GATE, match.path, match.named)
    return match


def gate_of(kind: Kind, subject: Any) -> str:
    """Return the path of the call by which `subject` starts."""
    return re.sub(r"\{\w+\}", str(subject), kind.gate)
