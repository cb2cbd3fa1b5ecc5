"""What jobs of a queue may be allowed beyond what is their own. The words of the Execution API, without its paths."""

from enum import StrEnum


class Right(StrEnum):
    """A class of calls that reach what is not the job's own."""

    VARIABLES_READ = "variables:read"
    VARIABLES_WRITE = "variables:write"
    CONNECTIONS_READ = "connections:read"
    XCOMS_RUN = "xcoms:run"  # read those of other tasks of its own Dag run
    XCOMS_READ = "xcoms:read"  # … and of any other run and Dag
    RUNS_READ = "runs:read"  # the state of Dags, of their runs, and of their task instances
    RUNS_WRITE = "runs:write"  # trigger a Dag, clear a run
    ASSETS_READ = "assets:read"
    ASSETS_WRITE = "assets:write"
