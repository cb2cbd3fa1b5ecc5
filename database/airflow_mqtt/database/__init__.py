"""The tables that schedulers, operators and the leading bridge share, and each statement that changes them.

The *leader* is the bridge that holds the lease with the newest *epoch*. A *wish* is what others want of something that
the leader moves: the end of a job, the desired document of a worker, its removal. *News* is a row with the mark
`news`: somebody else than the leader wrote it. A *batch* is all that the leader writes in one transaction.

Who writes what:

- `mqtt_job`: a scheduler makes the row, replaces `token` and `token_at`, owns `owner` and clears `report_pending`. A
  scheduler or operator ends one that is queued, or writes its wish (`cancel_reason`, `cancel_by`); each sets `news`.
  All else is the leader's: `ledger.WRITTEN`, the mark taken from `news`, and a token that the Execution API renewed.
  Whoever moves a job into a state of which Airflow must hear sets `report_pending`.
- `mqtt_job_event`: one row for each transition, in the transaction of whoever made it.
- `mqtt_job_log`: the leader; a triggerer for the logs of its own.
- `mqtt_worker`: operators write `desired`, `revision`, `removal` and set `news`; the leader the rest, and removes
  rows. A shutdown that a worker has followed it withdraws as an operator would, by a compare-and-set on `revision`.
- `mqtt_act`: operators, a row for each act; `airflow mqtt purge` deletes old ones. Nobody decides by it.
- `mqtt_access`: operators; the leader reads it at its takeover, and when its revision has changed.
- `mqtt_bridge`: whoever leads, or takes over (`bridge.lease`).
- `mqtt_standby`: each bridge that stands by, a row of its own; it deletes those of bridges that are gone.

Modules: `transitions` and `operations` are the guarded writes of those who do not lead; `acts` does them for a person,
to many, and records it. `queries` is what operators look at, `retention` what is deleted some time after its end.
`ledger` is the leader's seam, `postgres` and `sqlite` its two forms, over asyncpg and sqlite3. `engine` serves
everything else through SQLAlchemy. `records` are rows as values, `access` and `desired` documents of operators,
`bridges` what bridges say of themselves, `errors` what a database's errors mean.

What may race, and who wins. A leader that slept, and its successor: each transaction of the ledger holds the lease's
row and its epoch, so the old one is refused (`DeposedError`). A batch, and a scheduler or operator: every change is a
compare-and-set on state, attempt and wish, so the first commit wins; the other is an ordinary outcome (`Conflict`, or
0 rows changed). A batch never waits for a job's row that another holds (`SKIP LOCKED`). For a worker's row it does, and
so does an operator: both lock them in the order of their names, so neither waits for the other for ever. A scheduler
that renews a token, and a batch that has none to write: the batch leaves it alone.

What dies here leaves a transaction that is either committed or not. Who was not answered does not know which, and
reads the rows anew.
"""
