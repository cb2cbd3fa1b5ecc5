"""What can be done."""

from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from airflow_mqtt.database import acts
from airflow_mqtt.database.acts import Act, Order, Result
from airflow_mqtt.database.operations import Ending, Wish
from airflow_mqtt.database.queries.paging import MAX_LIMIT
from airflow_mqtt.executor import acting
from airflow_mqtt.executor.ui.answers import Word
from airflow_mqtt.executor.ui.permissions import require_act
from airflow_mqtt.protocol.messages import MAX_TEXT, MAX_TEXTS, cut

router = APIRouter()

_Names = Annotated[list[Word], Field(min_length=1, max_length=MAX_LIMIT)]

#: What a database has a column for.
_Revision = Annotated[int, Field(ge=0, lt=2**31)]

#: What the status of an answer says when the only worker or job of a request came to nothing.
_STATUSES: Final = {
    Wish.GONE: 404, Wish.UNHEARD: 409, Wish.CONTESTED: 409, Wish.CHANGED: 409, Wish.UNFIT: 422,
    Ending.GONE: 404, Ending.CONTESTED: 409, Ending.ENDED: 409,
}  # fmt: skip


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a comment that is spelt wrong must not be left out

    team_name: Word = ""


class ActOnWorkers(_Request):
    """What to do to which workers. `seen` is worker -> revision that was looked at."""

    names: _Names
    comment: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    queues: Annotated[list[Word], Field(max_length=MAX_TEXTS)] = []
    slots: int | None = None
    seen: dict[str, _Revision] = {}


class CancelJobs(_Request):
    """Which jobs to end, and why."""

    ids: _Names
    reason: Annotated[str, Field(max_length=MAX_TEXT)] = ""


@router.post("/workers/{act}")
def act_on_workers(act: str, wanted: ActOnWorkers, user: GetUserDep) -> dict[str, Any]:
    """Do one act to workers."""
    require_act(user, wanted.team_name)
    if act not in acts.ON_WORKERS:
        raise HTTPException(404, f"There is no act {cut(act)}: {', '.join(acts.ON_WORKERS)}")
    order = Order(Act(act), wanted.comment, wanted.queues, wanted.slots, wanted.seen)
    return _results(acting.on_workers(wanted.team_name, order, wanted.names, by=f"api:{user.get_name()}"))


@router.post("/jobs/cancel")
def cancel_jobs(wanted: CancelJobs, user: GetUserDep) -> dict[str, Any]:
    """End jobs."""
    require_act(user, wanted.team_name)
    reason = wanted.reason.strip() or "cancelled by hand"
    return _results(acting.on_jobs(wanted.team_name, wanted.ids, by=f"api:{user.get_name()}", reason=reason))


def _results(results: list[Result]) -> dict[str, Any]:
    """Answer what came of it. Of a single one that came to nothing, the status says so."""
    if len(results) == 1 and not results[0].is_done:
        raise HTTPException(_STATUSES[results[0].outcome], results[0].text)
    return {"results": [{"name": one.name, "outcome": one.outcome.value, "text": one.text} for one in results]}
