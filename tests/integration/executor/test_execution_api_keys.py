"""Any key reaches Airflow's own Execution API as what it is: by the path that the Task SDK or a stranger writes, through the
table of routes, and as the bridge sends it over HTTP to the real app behind a real server.
"""

import asyncio
import json
import socket
import threading
import uuid
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mqtt.bridge.calls import gate
from airflow_mqtt.bridge.calls.execution_api import ExecutionApi, MalformedError
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol import execution_api
from airflow_mqtt.protocol.execution_api import Match, Miss
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import Request
from airflow_mqtt.worker.runner.transport import BASE_URL, WorkerTransport
from bridge_samples import job as sample

#: One database is enough: what is asked here is which route and key are reached.
pytestmark = pytest.mark.parametrize("world", ["sqlite"], indirect=True, scope="session")

TI = str(uuid.UUID(int=7))
FOREIGN = [
    {"subject": str(uuid.UUID(int=8))},
    {"dag_id": "other"},
    {"run_id": "other"},
    {"task_id": "other"},
]


class Site:
    """Airflow's Execution API behind uvicorn, and the bridge's client of it, in a loop of their own.

    While `routed` is a list, calls are not served: it gets the route and the parameters that the app has found.
    """

    def __init__(self) -> None:
        self.routed: list[tuple[str, str, dict]] | None = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def await_(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def start(self) -> None:
        import uvicorn
        from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI
        from starlette.applications import Starlette
        from starlette.routing import Mount

        app = InProcessExecutionAPI().app
        mounted = Starlette(routes=[Mount("/execution", app)], lifespan=lambda _: app.router.lifespan_context(app))
        listener = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(mounted, log_config=None, access_log=False))
        self.serving = asyncio.ensure_future(self.server.serve([listener]))
        self.api = ExecutionApi(f"http://127.0.0.1:{listener.getsockname()[1]}/execution/")

    async def stop(self) -> None:
        await self.api.close()
        self.server.should_exit = True
        await self.serving

    @contextmanager
    def routing(self):
        self.routed = []
        try:
            yield self.routed
        finally:
            self.routed = None

    def call(self, job: Job, method: str, path: str, query: str = "", body: str | None = None) -> tuple[int, str]:
        """Make a call as the bridge does for `job`, which runs."""
        request = Request(
            id="r", journal="j", job=job.id, attempt=job.attempt, method=method, path=path, query=query, body=body
        )
        match = execution_api.find(method, path)
        if isinstance(match, Miss):
            return gate.refuse_miss(match, request).status, ""
        admitted = gate.admit(job, gate.Call(job.worker, request), match)
        if isinstance(admitted, gate.Refusal):
            return admitted.status, ""
        headers = {"content-type": "application/json"}
        data = None if body is None else body.encode()
        answer = self.await_(
            self.api.call("", method, match.path, query=query, headers=headers, body=data, worker="edge-1")
        )
        return answer.status_code, answer.text


async def pass_on(_middleware, request, call_next):
    return await call_next(request)


@pytest.fixture(scope="module")
def site(world):
    from airflow.api_fastapi.execution_api.app import JWTReissueMiddleware
    from fastapi.routing import APIRoute

    site, real = Site(), APIRoute.handle

    async def handle(route, scope, receive, send):
        if site.routed is None:
            await real(route, scope, receive, send)
        else:
            site.routed.append((scope["method"], route.path, dict(scope["path_params"])))
            await send({"type": "http.response.start", "status": 299, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(APIRoute, "handle", handle)
        patch.setattr(JWTReissueMiddleware, "dispatch", pass_on)  # there are no tokens here
        site.thread.start()
        site.await_(site.start())
        yield site
        site.await_(site.stop())
        site.loop.call_soon_threadsafe(site.loop.stop)
        site.thread.join()


def running(**values) -> Job:
    return sample(state=JobState.RUNNING, worker="edge-1", subject=TI, gate_request="g", **values)


#: What keys are made of: everything printable, and more often what means something to HTTP, to a path or to a shell.
KEYS = st.text(
    st.one_of(st.characters(exclude_categories=("Cc", "Cs")), st.sampled_from("//..%%??##\\\\:;&=+ ~@[]{}|^`\"'<>2e5c")),
    max_size=40,
)  # fmt: skip
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def encodings(key: str) -> list[str]:
    """Return ways to write `key` into a path: as a careful client, as the SDK's, and with everything encoded."""
    every = "".join(f"%{byte:02x}" for byte in key.encode())
    return [quote(key, safe=""), quote(key, safe="/:@!$&'()*+,;="), every]


@PROPERTY
@given(KEYS)
def test_each_key_reaches_its_route_and_no_other(site, key):
    job = running()
    with site.routing() as routed:
        for path in encodings(key):
            calls = {
                ("GET", f"variables/{path}"): ("/variables/{variable_key:path}", {"variable_key": key}),
                ("DELETE", f"xcoms/dag/run/task/{path}"): (
                    "/xcoms/{dag_id}/{run_id}/{task_id}/{key:path}",
                    {"dag_id": "dag", "run_id": "run", "task_id": "task", "key": key},
                ),
                ("PUT", f"store/ti/{TI}/{path}"): (
                    "/store/ti/{task_instance_id}/{key:path}",
                    {"task_instance_id": TI, "key": key},
                ),
            }
            for (method, target), (route, named) in calls.items():
                routed.clear()
                status, _ = site.call(job, method, target)
                if execution_api.has_dots(key):
                    assert (status, routed) == (403, [])
                elif key == "keys" and method == "GET":
                    assert routed == [("GET", "/variables/keys", {})]  # Airflow's own, since 3.3
                else:
                    assert (status, routed) == (299, [(method, route, named)])


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
LEVELS = st.one_of(
    st.sampled_from(sorted({level for route in execution_api.ROUTES for level in route.path.split("/")})),
    st.sampled_from([TI, "dag", "run", "task", "other", "", ".", "..", "%2e%2e", "%2F", "a%2Fb", "%5c", "x?", "#", "%0a"]),
    KEYS.map(quote),
)  # fmt: skip
PATHS = st.lists(LEVELS, min_size=1, max_size=7).map("/".join)


@PROPERTY
@given(st.sampled_from(METHODS), PATHS, st.sampled_from([{}, *FOREIGN]))
def test_whatever_gets_through_is_what_was_decided_on(site, method, path, whose):
    """The route of the table is the one that the app finds, and names the same in it."""
    job = running(**whose) if "subject" not in whose else sample(**(vars_of(running()) | whose))
    match = execution_api.find(method, path)
    with site.routing() as routed:
        try:
            status, _ = site.call(job, method, path)
        except MalformedError:
            return
        if status != 299:
            assert routed == []
            return
        assert isinstance(match, Match)
        ((seen_method, route, named),) = routed
        assert (seen_method, route.removeprefix("/")) == (method, match.route.path)
        assert named == match.named
        if match.route.whose is execution_api.Whose.SUBJECT:
            assert next(iter(named.values())) == job.subject


def vars_of(job: Job) -> dict:
    return {name: getattr(job, name) for name in job.__dataclass_fields__}


# --- the real thing: the Task SDK's client, the table, Airflow's database


class Through(WorkerTransport):
    """The SDK's transport, with the worker, the broker and the bridge left out."""

    def __init__(self, site: Site, job: Job) -> None:
        super().__init__(Path("/nowhere"), job.id, job.attempt)
        self._site, self._of = site, job

    def _insist(self, call):
        status, body = self._site.call(self._of, call["method"], call["path"], call["query"], call["body"])
        return {"status": status, "headers": {"content-type": "application/json"}, "body": body}


HARD = [
    "/config/x", "a//b", "C:\\temp", "https://example.org/a?b=c", "a/b/", "..hidden", "a..b", "...", "100%", "%2F", "a b", "ü€",
    "x+y&z=1", "{a}", "k/item/1", "k/slice", "run", "keys/x",
]  # fmt: skip


@pytest.fixture
def client(site, world):
    from airflow.sdk.api.client import Client

    ti = world.queued_task()
    job = running(dag_id=world.dag_id, run_id=world.run_id, task_id=ti.task_id)
    client = Client(base_url=BASE_URL, token="", transport=Through(site, job))
    client.job = job
    return client


def plain(client, site, key):
    """What the same client does on the API itself, as under LocalExecutor."""
    from airflow.sdk.api.client import Client

    direct = Client(base_url=f"{site.api._url}", token="")
    return direct.variables.get(key)


@pytest.mark.parametrize("key", HARD)
def test_a_variable_of_any_name_is_what_it_is_without_us(client, site, key):
    client.variables.set(key, "here")
    assert client.variables.get(key).value == "here"
    assert plain(client, site, key) == client.variables.get(key)
    client.variables.delete(key)
    assert client.variables.get(key) == plain(client, site, key)
    assert client.variables.get(key).error.value == "VARIABLE_NOT_FOUND"


@pytest.mark.parametrize("key", ["/not/there", "a//b", "https://x", "..", "../../connections/x", "a/../b"])
def test_a_variable_that_is_not_there_gives_the_default(client, key):
    assert client.variables.get(key).error.value == "VARIABLE_NOT_FOUND"


@pytest.mark.parametrize("key", [key for key in HARD if "?" not in key])
def test_an_xcom_of_any_name_is_written_and_read(client, key):
    job = client.job
    where = job.dag_id, job.run_id, job.task_id, key
    client.xcoms.set(*where, json.dumps("here"))
    if not key.endswith(("/slice", "/item/1")):  # to read these is another call, there as here
        assert json.loads(client.xcoms.get(*where).value) == "here"
    client.xcoms.delete(*where)


def test_what_cannot_be_in_a_url_is_the_clients_to_say(client):
    with pytest.raises(httpx.InvalidURL):
        client.variables.get("a\x01b")
