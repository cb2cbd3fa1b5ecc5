"""What is there to be looked at."""

from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter, HTTPException, Query, Request, Response

from airflow_mqtt.database.labels import MAX_LABELS
from airflow_mqtt.database.queries import jobs, logs, overview, queues, workers
from airflow_mqtt.database.queries.jobs import Jobs
from airflow_mqtt.database.queries.paging import MAX_LIMIT, Page
from airflow_mqtt.database.queries.workers import Workers
from airflow_mqtt.executor import compat, fleet
from airflow_mqtt.executor.ui import permissions
from airflow_mqtt.executor.ui.answers import Word, answer
from airflow_mqtt.executor.ui.permissions import Reader
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import cut
from airflow_mqtt.protocol.workers import WorkerState

router = APIRouter()

#: Acts, and jobs, that are shown with a worker or a job.
_FEW: Final = Page(limit=100)
_JOBS: Final = Page(sort="queued_at", descending=True, limit=100)

Offset = Annotated[int, Query(ge=0, le=2**31)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Words = Annotated[list[Word], Query(max_length=MAX_LABELS)]


@router.get("/me")
def me(request: Request, user: GetUserDep, team_name: Word = "") -> Response:
    """Say who asks, and what he may do."""
    rights = {"read": permissions.may_read(user, team_name), "act": permissions.may_act(user, team_name)}
    return answer(request, {"user": user.get_name(), **rights})


@router.get("/teams")
def list_teams(request: Request, user: Reader) -> Response:
    """List the teams that one may look at; the empty name is that of no team."""
    with compat.own_session() as session:
        teams = overview.list_teams(session)
    return answer(request, {"rows": [team for team in teams if permissions.may_read(user, team)]})


@router.get("/workers")
def list_workers(
    request: Request,
    _user: Reader,
    *,
    team_name: Word = "",
    name: Word = "",
    state: Annotated[list[WorkerState], Query()] = [],  # noqa: B006 - FastAPI copies it
    queue: Word = "",
    label: Words = [],  # noqa: B006
    sort: Word = "name",
    descending: bool = False,
    offset: Offset = 0,
    limit: Limit = 100,
) -> Response:
    """List workers."""
    wanted = Workers(name, [one.value for one in state], queue, label)
    with compat.own_session() as session:
        access = fleet.enforced(session, team_name)
        found = workers.list_workers(session, team_name, wanted, Page(sort, descending, offset, limit), access)
    return answer(request, found._asdict())


@router.get("/workers/{name}")
def show_worker(request: Request, _user: Reader, name: Word, team_name: Word = "") -> Response:
    """Show a worker, its jobs, and what was done to it."""
    with compat.own_session() as session:
        worker = workers.find_worker(session, team_name, name, fleet.enforced(session, team_name))
        if worker is None:
            raise HTTPException(404, f"There is no worker {cut(name)}")
        its_jobs = jobs.list_jobs(session, team_name, Jobs(states=jobs.LIVING, worker=name), _JOBS).rows
        acts = overview.list_acts(session, team_name, _FEW, subject=name).rows
    return answer(request, {**worker, "jobs": its_jobs, "acts": acts})


@router.get("/jobs")
def list_jobs(
    request: Request,
    _user: Reader,
    *,
    team_name: Word = "",
    state: Annotated[list[JobState], Query()] = [],  # noqa: B006
    dag_id: Word = "",
    run_id: Word = "",
    task_id: Word = "",
    queue: Word = "",
    worker: Word = "",
    sort: Word = "queued_at",
    descending: bool = True,
    offset: Offset = 0,
    limit: Limit = 100,
) -> Response:
    """List jobs."""
    wanted = Jobs([one.value for one in state], dag_id, run_id, task_id, queue, worker)
    with compat.own_session() as session:
        found = jobs.list_jobs(session, team_name, wanted, Page(sort, descending, offset, limit))
    return answer(request, found._asdict())


def _job(session: Any, team_name: str, job_id: str) -> dict[str, Any]:
    job = jobs.find_job(session, team_name, job_id)
    if job is None:
        raise HTTPException(404, f"There is no job {cut(job_id)}")
    return job


@router.get("/jobs/{job_id}")
def show_job(request: Request, _user: Reader, job_id: Word, team_name: Word = "") -> Response:
    """Show a job, what happened to it, and what was done to it."""
    with compat.own_session() as session:
        job = _job(session, team_name, job_id)
        note = queues.note_of_job(session, team_name, job, fleet.enforced(session, team_name))
        events = jobs.events_of(session, job_id)
        acts = overview.list_acts(session, team_name, _FEW, subject=job_id).rows
    return answer(request, {**job, "note": note, "events": events, "acts": acts})


@router.get("/jobs/{job_id}/log")
def read_log(
    request: Request,
    user: Reader,
    *,
    job_id: Word,
    team_name: Word = "",
    attempt: Annotated[int | None, Query(ge=-(2**31), le=2**31)] = None,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
) -> Response:
    """Read a piece of a job's log, as its worker has sent it."""
    with compat.own_session() as session:
        dag_id = _job(session, team_name, job_id)["dag_id"]
        if not permissions.may_read_log(user, team_name, dag_id):
            raise HTTPException(403, f"You may not read logs of tasks of Dag {dag_id}")
        piece = logs.read_log(session, team_name, job_id, attempt, offset)
    assert piece is not None
    return answer(request, piece._asdict())


@router.get("/queues")
def list_queues(request: Request, _user: Reader, team_name: Word = "") -> Response:
    """List the queues that have jobs or workers."""
    with compat.own_session() as session:
        rows = queues.list_queues(session, team_name, fleet.enforced(session, team_name))
    return answer(request, {"rows": rows})


@router.get("/bridges")
def show_bridges(request: Request, _user: Reader, team_name: Word = "") -> Response:
    """Show who leads, and who stands by."""
    with compat.own_session() as session:
        return answer(request, overview.bridges_of(session, team_name))


@router.get("/acts")
def list_acts(
    request: Request, _user: Reader, team_name: Word = "", offset: Offset = 0, limit: Limit = 100
) -> Response:
    """List what people did, the last first."""
    with compat.own_session() as session:
        found = overview.list_acts(session, team_name, Page(offset=offset, limit=limit))
    return answer(request, found._asdict())
