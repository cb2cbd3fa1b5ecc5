"""What Airflow loads: `MqttExecutor`, the database manager, `airflow mqtt`, and the plugin with its log reader and the
HTTP API of operators (`ui`). `acting` does what people want, for commands and API, and records it.

A *dispatch* is what the scheduler hands over once; it is a row of `mqtt_job`, a *job*. A task instance has one job for
each time that it was queued, of which the newest counts. A *pass* is one call of `sync`.

Schedulers make jobs, in the transaction that sets the task instance to queued. They own `owner`, clear
`report_pending`, and replace tokens. They end a job that waits in its queue, and wish for the end of one that a worker
holds (`database.operations`); only the leading bridge moves that.

What may race, and who wins: a scheduler that supersedes a dispatch, and the start gate of that dispatch: whoever
commits first, since the gate opens for no job whose end is wished, and a job that has started is not superseded. A
pass, and a bridge that writes the same rows: neither waits, the pass takes those rows the next time. Two schedulers
that adopt one job, or renew one token: the first.

A scheduler that dies before its commit has queued nothing. One that dies after it has told Airflow nothing of its jobs,
or all of them: another adopts them. When a commit is not answered, what it would have told is told by the next pass.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_mqtt.executor.executor import MqttExecutor

__all__ = ["MqttExecutor"]


def __getattr__(name: str) -> Any:
    """Import the executor, and with it Airflow, only when somebody asks for it.

    Airflow imports this package for its provider metadata in every command, before it is itself set up.
    """
    if name == "MqttExecutor":
        from airflow_mqtt.executor.executor import MqttExecutor  # noqa: PLC0415

        return MqttExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
