"""Calls of the Execution API on behalf of jobs, and their answers."""

from dataclasses import dataclass
from enum import StrEnum

from airflow_mqtt.protocol.messages import checks
from airflow_mqtt.protocol.messages.checks import Maybe
from airflow_mqtt.protocol.messages.message import Message, must_be


class Method(StrEnum):
    """The HTTP methods of the Execution API."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


@dataclass(frozen=True, kw_only=True)
class Request(Message):
    """One call of the Execution API on behalf of an attempt.

    `path` is relative to the API's root (`task-instances/…/run`), `query` as in a URL, `body` the JSON text.
    `headers` are the few that matter: `content-type`, `airflow-api-version`, and those of a trace that is recorded
    (`trace_context`). Of a success that is to be `brief` only the status is told. A final state that `ends` the attempt
    is its last call, and says in place of an event `finished` that the supervisor ended in order, with `exit_code`.
    """

    id: str = must_be(checks.job_id)
    journal: str = must_be(checks.job_id)
    job: str = must_be(checks.job_id)
    attempt: int = must_be(checks.ordinal)
    method: str = must_be(checks.one_of(Method))
    path: str = must_be(checks.path)
    query: str = must_be(checks.body, default="")
    headers: dict[str, str] = must_be(checks.text_map, default_factory=dict)
    body: str | None = must_be(Maybe(checks.body), default=None)
    brief: bool = must_be(checks.flag, default=False)
    ends: bool = must_be(checks.flag, default=False)
    exit_code: int | None = must_be(Maybe(checks.int32), default=None)


@dataclass(frozen=True, kw_only=True)
class Response(Message):
    """The answer to one request; `status` is an HTTP status. `ended`: what the request `ends` has ended."""

    id: str = must_be(checks.job_id)
    journal: str = must_be(checks.job_id)
    status: int = must_be(checks.http_status)
    headers: dict[str, str] = must_be(checks.text_map, default_factory=dict)
    body: str | None = must_be(Maybe(checks.body), default=None)
    ended: bool = must_be(checks.flag, default=False)
