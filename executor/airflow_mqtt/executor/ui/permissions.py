"""Who may look, and who may act: Airflow's auth manager says so, in permissions that every auth manager has.

A view of our own (`is_authorized_custom_view`) would not do: the simple auth manager lets every viewer act in one, and
FAB nobody, until an administrator has made a permission of that name.

- To look: the view "Jobs", as Airflow's Edge provider asks for its page.
- To act: to edit pools. Whoever may say how many tasks run at once may say so of workers, too.
- To read a job's log: the logs of tasks of its Dag.
- All of it for a team: to belong to that team.
"""

from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    AccessView,
    DagAccessEntity,
    DagDetails,
    PoolDetails,
)
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, HTTPException

from airflow_mqtt.executor import compat


def may_read(user: Any, team_name: str = "") -> bool:
    """Whether `user` may look at the workers and jobs of a team; the empty name is that of no team."""
    jobs = get_auth_manager().is_authorized_view(access_view=AccessView.JOBS, user=user)
    return bool(jobs and compat.belongs_to_team(get_auth_manager(), user, team_name))


def may_act(user: Any, team_name: str = "") -> bool:
    """Whether `user` may act on them; nobody who may not look."""
    details = PoolDetails(**_of_team(team_name))
    pools = get_auth_manager().is_authorized_pool(method="PUT", details=details, user=user)
    return bool(pools and may_read(user, team_name))


def may_read_log(user: Any, team_name: str, dag_id: str) -> bool:
    """Whether `user` may read logs of tasks of this Dag, which is the team's."""
    details = DagDetails(id=dag_id, **_of_team(team_name))
    entity = DagAccessEntity.TASK_LOGS
    return bool(get_auth_manager().is_authorized_dag(method="GET", access_entity=entity, details=details, user=user))


def _of_team(team_name: str) -> dict[str, str]:
    """Only where there are teams: not every version of Airflow has such a detail."""
    return {"team_name": team_name} if team_name else {}


def reader(user: GetUserDep, team_name: str = "") -> Any:
    """Return who asks, if he may look at the team of the request."""
    if not may_read(user, team_name):
        raise HTTPException(403, 'You may not look at workers and jobs: it takes the view "Jobs" of Airflow')
    return user


Reader = Annotated[Any, Depends(reader)]


def require_act(user: Any, team_name: str) -> None:
    """Raise for who may not act."""
    if not may_act(user, team_name):
        raise HTTPException(403, "You may not act on workers and jobs: it takes the right to edit pools of Airflow")
