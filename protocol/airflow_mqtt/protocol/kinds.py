"""The kinds of work, as data: one row for each workload that Airflow gives to executors. Pure.

The executor makes jobs of these alone, the bridge reads here by which call one starts and whether Airflow hears of its
end, and a worker says which of them it can run. `docs/reference/airflow-support.md` lists what Airflow has.
"""

from dataclasses import dataclass
from typing import Final

from airflow_mqtt.protocol.messages import JobKind


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of work.

    `workload` is Airflow's word for it, the `type` of its document; `holder` and `id` are where in there the id is
    that its token and its routes name: the job's subject. `flag` is the executor's attribute that says to Airflow that
    such work is taken, if there is one.

    `tracked`: Airflow keeps a state of it as of a task instance. It is heartbeated, ends by a final state at the
    Execution API, and is adopted when its scheduler dies. Of what is not, the executor tells the end.

    `gate` is the path by which it starts, `exchanged` says whether its token is exchanged there for one of another
    scope.
    """

    name: str
    workload: str
    holder: str
    id: str
    runs_on: JobKind
    gate: str
    flag: str = ""
    tracked: bool = False
    exchanged: bool = True
    since: str = "3.1"


TASK: Final = Kind(
    name="task",
    workload="ExecuteTask",
    holder="ti",
    id="id",
    runs_on=JobKind.AIRFLOW,
    gate="task-instances/{task_instance_id}/run",
    tracked=True,
)

CALLBACK: Final = Kind(
    name="callback",
    workload="ExecuteCallback",
    holder="callback",
    id="id",
    runs_on=JobKind.AIRFLOW,
    gate="airflow-mqtt/callbacks/{callback_id}/start",
    flag="supports_callbacks",
    since="3.2",
)

CONNECTION_TEST: Final = Kind(
    name="connection test",
    workload="TestConnection",
    holder="",
    id="connection_test_id",
    runs_on=JobKind.CONNECTION_TEST,
    gate="connection-tests/{connection_test_id}/connection",
    flag="supports_connection_test",
    exchanged=False,
    since="3.3",
)

KINDS: Final = (TASK, CALLBACK, CONNECTION_TEST)

_BY_WORKLOAD: Final = {kind.workload: kind for kind in KINDS}


def of(workload: object) -> Kind | None:
    """Return the kind that Airflow calls `workload`; None for one that we do not run."""
    return _BY_WORKLOAD.get(workload) if isinstance(workload, str) else None
