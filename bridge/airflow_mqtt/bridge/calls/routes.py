"""Which calls of the Execution API a job may make. Pure.

The paths are those of `airflow.api_fastapi.execution_api.routes` (Airflow 3.1 to 3.3). Airflow checks the token's
subject on the task instance's own routes only; here every route that names a task instance, or writes an XCom, is
bound to the job's own, its map index included. What is not listed is refused.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote

from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol.rights import Right

#: Own requests of the worker, answered by the bridge and never forwarded.
CALLBACK_GATE: Final = re.compile(r"callbacks/(?P<subject>[^/]+)/run")

_GATE: Final = re.compile(r"(task-instances|callbacks)/[^/]+/run")
_HEARTBEAT: Final = re.compile(r"task-instances/[^/]+/heartbeat")
_FINAL_STATE: Final = re.compile(r"task-instances/[^/]+/state")

_ENCODED = re.compile(r"%(2e|2f|5c)", re.IGNORECASE)
_LEVEL = r"[^/]+"
_KEY = r".+"  # keys of variables, XComs and stores may hold slashes
_SUBJECT = r"(?P<subject>[^/]+)"
_OWN_XCOM = rf"xcoms/(?P<dag_id>[^/]+)/(?P<run_id>[^/]+)/(?P<task_id>[^/]+)/{_KEY}"

#: How a write says of which of a task's mapped instances the XCom is, and what it says without it.
_MAP_INDEX: Final = "map_index"
_UNMAPPED: Final = "-1"

#: (methods, path, what a job needs to call it that calls nothing but its own). A named group must equal the job's field
#: of that name. Where it is a task, so must the map index, which is in the query.
_ROUTES: Final = tuple(
    (frozenset(methods.split()), re.compile(pattern), needs)
    for methods, pattern, needs in (
        ("PATCH", rf"task-instances/{_SUBJECT}/(run|state|skip-downstream|rendered-map-index)", None),
        ("PUT", rf"task-instances/{_SUBJECT}/(heartbeat|rtif)", None),
        ("GET", rf"task-instances/{_SUBJECT}/(previous-successful-dagrun|validate-inlets-and-outlets)", None),
        ("GET", r"task-instances/(count|states|breadcrumbs)", Right.OTHER_TASKS),
        ("GET", rf"task-instances/previous/{_LEVEL}/{_LEVEL}", Right.OTHER_TASKS),
        ("GET", rf"task-reschedules/{_SUBJECT}/start_date", None),
        ("GET", rf"connections/{_KEY}", Right.CONNECTIONS),
        ("GET", rf"variables/{_KEY}", Right.READ_VARIABLES),
        ("PUT DELETE", rf"variables/{_KEY}", Right.WRITE_VARIABLES),
        ("POST DELETE", _OWN_XCOM, None),
        ("GET HEAD", rf"xcoms/{_LEVEL}/{_LEVEL}/{_LEVEL}/{_KEY}", Right.OTHER_XCOMS),
        ("GET", r"assets/(by-name|by-uri|by-alias)", Right.ASSETS),
        ("GET", r"asset-events/(by-asset|by-asset-alias)", Right.ASSETS),
        ("GET", rf"dag-runs/(count|previous|{_LEVEL}/previous)", Right.DAG_RUNS),
        ("GET", rf"dag-runs/{_LEVEL}/{_LEVEL}", Right.DAG_RUNS),
        ("POST", rf"dag-runs/{_LEVEL}/{_LEVEL}", Right.START_DAG_RUNS),
        ("GET", rf"dag-runs/{_LEVEL}/{_LEVEL}/state", Right.DAG_RUNS),
        ("POST", rf"dag-runs/{_LEVEL}/{_LEVEL}/clear", Right.START_DAG_RUNS),
        ("GET", rf"dags/{_LEVEL}", Right.DAGS),
        ("GET POST PATCH", rf"hitlDetails/{_SUBJECT}", None),
        ("DELETE", rf"store/ti/{_SUBJECT}", None),
        ("GET PUT DELETE", rf"store/ti/{_SUBJECT}/{_KEY}", None),
        ("GET", r"store/asset/(by-name|by-uri)/value", Right.ASSETS),
        ("PUT", r"store/asset/(by-name|by-uri)/value", Right.WRITE_ASSETS),
        ("DELETE", r"store/asset/(by-name|by-uri)/(value|clear)", Right.WRITE_ASSETS),
    )
)

#: By this in a query, a read of an XCom is of other runs too.
_PRIOR_DATES: Final = "include_prior_dates"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not forwarded: an HTTP status, a reason in Airflow's style, and a message for a person."""

    status: int
    reason: str
    message: str


def normalise(path: str) -> str | None:
    """Return `path` relative to the API's root and percent-decoded, as a server reads it; None when it is suspect.

    Anything that some client, proxy or server on the way may resolve differently from us (dots, empty levels,
    queries, backslashes, control characters, what is encoded twice) has no place in a call of the Task SDK.
    """
    decoded = unquote(path.removeprefix("/"))
    if any(character < " " or character in "\\\x7f" for character in decoded) or _ENCODED.search(decoded):
        return None
    if "?" in path or "#" in path or any(level in ("", ".", "..") for level in decoded.split("/")):
        return None
    return decoded


def check(
    job: Job, method: str, path: str, query: str = "", *, rights: Collection[str] | None = None
) -> Refusal | None:
    """Return why `job` may not call `method` `path` (normalised) with `query`, or None when it may.

    `rights` are those of its queue (`Right`); None: all.
    """
    for methods, pattern, needs in _ROUTES:
        match = pattern.fullmatch(path)
        if match is None or method not in methods:
            continue
        named = match.groupdict()
        own = all(value == getattr(job, name) for name, value in named.items())
        if not own or ("task_id" in named and not _is_of_own_instance(job, query)):
            return Refusal(403, "forbidden", f"{method} {path} is not this job's own")
        if needs is None or rights is None or not _lacks(job, needs, path, query, rights):
            return None
        return Refusal(403, "not_allowed", f"jobs of queue {job.queue} may not {method} {path}: they lack {needs}")
    return Refusal(403, "forbidden", f"{method} {path} is no call that a job may make")


def _lacks(job: Job, needs: Right, path: str, query: str, rights: Collection[str]) -> bool:
    """Whether `rights` do not reach for a call that `needs` one. XComs of the own run are less than those of any."""
    if needs in rights:
        return False
    if needs is not Right.OTHER_XCOMS:
        return True
    _, dag_id, run_id, task_id, *_ = path.split("/")
    if (dag_id, run_id) != (job.dag_id, job.run_id) or _PRIOR_DATES in dict(parse_qsl(query, keep_blank_values=True)):
        return True
    return task_id != job.task_id and Right.RUN_XCOMS not in rights


def _is_of_own_instance(job: Job, query: str) -> bool:
    """Whether a write of an XCom with this `query` is for the job's own map index.

    The text is compared, since a server reads "+1", "01" and "1.0" as 1 too. Of two it takes one, which we do not
    guess, and what follows a "#" the client would not send.
    """
    if "#" in query:
        return False
    given = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == _MAP_INDEX]
    return (given or [_UNMAPPED]) == [str(job.map_index)]


def is_gate(method: str, path: str) -> bool:
    """Whether this is the call after which user code may run."""
    return method == "PATCH" and _GATE.fullmatch(path) is not None


def is_heartbeat(method: str, path: str) -> bool:
    return method == "PUT" and _HEARTBEAT.fullmatch(path) is not None


def is_final_state(method: str, path: str) -> bool:
    return method == "PATCH" and _FINAL_STATE.fullmatch(path) is not None
