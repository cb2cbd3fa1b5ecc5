"""What runs on the device: one small process that never imports Airflow.

The *journal* (`journal`, SQLite on the device) holds the worker's jobs, a numbered outbox of *events*, and stored
*calls*. The *core* (`core`) is pure: it is told what happened and returns *effects*. The *loop* gathers what happened,
tells the core, commits the journal's effects in one transaction, and only then publishes, answers and starts. It
never waits for the network: see `mqtt`. A
*runner* is a process that runs one attempt with the Task SDK; the *host* is the warm process from which runners are
forked. Only these import Airflow.

The *health* of the device is read now and then (`health`), goes with a heartbeat, and is what `core.rules` judges; the
site's own function for it has a process of its own. A person on the device asks the running worker over the socket of
the runners (`console`, `core.commands`).

Who writes what: the loop writes the journal, its runner the files of its own attempt (log, result). Both may be there
without the other: a runner survives its worker, and a worker that starts again finds the runners and their files.

What may race, and who wins: an order and its copy: the journal knows the attempt, a copy is nothing new. A cancel and
the end of its task: what is in the journal first is reported. Two workers of one name: the newcomer asks first
(`probe`) and leaves when somebody answers. Two processes on one state directory: the second is refused. A journal that
may have gone back in time takes a new name, so that a number names one event only.

When it dies, what it had taken from a task is in the journal; what it had not committed was answered to nobody, and
the runner asks again. The broker publishes its will. When the device dies, the tasks die with it, and the next start
says so. When the disk takes nothing more, the process ends (exit code 74) and its runners go on.
"""
