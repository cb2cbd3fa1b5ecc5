"""What jobs of a queue may be allowed beyond what is their own. The words of the Execution API, without its paths."""

from enum import StrEnum


class Right(StrEnum):
    """A class of calls that reach what is not the job's own."""

    READ_VARIABLES = "variables"
    WRITE_VARIABLES = "variables-write"
    CONNECTIONS = "connections"
    RUN_XCOMS = "xcoms-of-run"  # a read of those of other tasks of its own Dag run
    OTHER_XCOMS = "xcoms-of-others"  # … and of any other run and Dag
    OTHER_TASKS = "task-states"
    DAG_RUNS = "dag-runs"
    START_DAG_RUNS = "dag-runs-write"  # to trigger and to clear them
    DAGS = "dags"
    ASSETS = "assets"
    WRITE_ASSETS = "assets-write"
