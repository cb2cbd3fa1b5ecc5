"""The tables. Made and changed by the Alembic migrations of `airflow_mqtt.database.migrations`.

All times are seconds since the epoch (doubles): the same number in SQLite, in PostgreSQL and on the wire. Names and
ids are text of any length, since a column that is too short for a real Dag id stops a scheduler.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
    text,
    true,
)

metadata = MetaData()

#: PostgreSQL channel on which the bridge hears of new rows; the payload is the team's name.
NOTIFY_CHANNEL: Final = "airflow_mqtt"

#: SQLite counts only INTEGER primary keys up by itself.
_Id = BigInteger().with_variant(Integer, "sqlite")

#: Holds exactly for the jobs that have not ended. A query that wants the small indexes says so in these words.
LIVES: Final = "finished_at IS NULL"

#: Holds for the jobs of which the leading bridge has to hear something: a new one, a wish for its end, a new token. An
#: ended one that nobody has to hear of is old, whoever wrote it.
NEWS: Final = "news AND (finished_at IS NULL OR report_pending)"
_NEWS_SQLITE: Final = "news = 1 AND (finished_at IS NULL OR report_pending = 1)"


def _partial(name: str, *columns: str, where: str, sqlite: str = "") -> Index:
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(sqlite or where))


job = Table(
    "mqtt_job",
    metadata,
    # The scheduler's `external_executor_id` where Airflow pre-assigns one (3.2 on), else made by the executor.
    Column("id", Text, primary_key=True),
    Column("team_name", Text, nullable=False, server_default=""),
    Column("kind", Text, nullable=False),  # messages.JobKind
    Column("workload_type", Text, nullable=False),  # kinds.Kind.workload
    Column("workload", Text, nullable=False),  # Airflow's JSON, without its token
    Column("token", Text, nullable=False),  # the bridge adds it to Execution API calls; no device sees it
    Column("token_at", Double, nullable=False),  # when it was made or refreshed
    Column("queue", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("labels", Text, nullable=False, server_default="{}"),  # that its worker must have: `labels`
    Column("not_after", Double),  # it fails if it has not begun by then
    Column("state", Text, nullable=False),  # jobs.JobState
    Column("attempt", Integer, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("worker", Text),
    # What others wish of a job that the leading bridge moves: its end, why, and who wishes so. See `transitions`.
    Column("cancel_reason", Text),
    Column("cancel_by", Text, nullable=False, server_default=""),
    # Somebody else than the leader wrote this row, and the leader has not read it yet. True for whoever does not know
    # the column: an executor of 0.1.0.
    Column("news", Boolean, nullable=False, server_default=true()),
    # Who the task instance or callback is, for authorisation, logs and status messages.
    Column("subject", Text, nullable=False),  # task instance id or callback id: the `sub` of the token
    Column("dag_id", Text, nullable=False, server_default=""),
    Column("run_id", Text, nullable=False, server_default=""),
    Column("task_id", Text, nullable=False, server_default=""),
    Column("map_index", Integer, nullable=False, server_default=text("-1")),
    Column("try_number", Integer, nullable=False, server_default=text("0")),
    Column("log_path", Text, nullable=False, server_default=""),
    # Between bridge and executor.
    Column("owner", Text, nullable=False),  # the scheduler's job id that hears of it
    Column("report_pending", Boolean, nullable=False, server_default=false()),
    # Which event accepted it: a `Born` that is older does not list it.
    Column("accept_journal", Text),
    Column("accept_seq", BigInteger),
    # What passed the gateway.
    Column("gate_request", Text),  # id of the request that passed the start gate
    Column("api_version", Text, nullable=False, server_default=""),  # that its Task SDK speaks, and our heartbeats
    Column("unixname", Text),
    Column("pid", Integer),
    Column("final_state", Text),  # what the Execution API accepted: success, failed, deferred, up_for_retry, …
    Column("exit_code", Integer),
    # Of the attempt's log: how far it is here without a gap, how large it is as far as its worker has said, and where
    # its end begins, if that came before its middle: then it is here up to `log_size`.
    Column("log_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("log_stored", BigInteger, nullable=False, server_default=text("0")),  # of all attempts, with what rows cost
    Column("log_size", BigInteger, nullable=False, server_default=text("0")),
    Column("log_tail", BigInteger),
    Column("publishes", Integer, nullable=False, server_default=text("0")),
    Column("published_at", Double),
    Column("queued_at", Double, nullable=False),
    Column("dispatched_at", Double),
    Column("accepted_at", Double),
    Column("started_at", Double),
    Column("running_since", Double),  # when Airflow accepted the start; no heartbeat goes there before
    Column("finished_at", Double),
    # What lives, what is new, and what is to be heard, is found among little, however long the history is. The leader
    # keeps the living in memory in the order of placement: no index has to.
    _partial("ix_mqtt_job_living", "team_name", where=LIVES),
    _partial("ix_mqtt_job_news", "team_name", where=NEWS, sqlite=_NEWS_SQLITE),
    _partial("ix_mqtt_job_report", "team_name", "owner", where="report_pending", sqlite="report_pending = 1"),
    _partial("ix_mqtt_job_subject", "subject", where=LIVES),
    Index("ix_mqtt_job_task", "dag_id", "run_id", "task_id", "map_index", "try_number"),
    Index("ix_mqtt_job_finished", "team_name", "finished_at"),
    # For those who look: what waits, by queue; what a worker holds; the newest. No state is in them, so that most
    # transitions write no index. Whoever wants one that holds a part says of which, in its words. The first two hold
    # all that is counted of a queue, so that no row is read for it; the columns that are the same in each of their
    # entries are there for SQLite, which looks at them again. Labels may be longer than PostgreSQL lets an index hold:
    # of jobs that ask for some, the rows are read.
    _partial(
        "ix_mqtt_job_waiting", "team_name", "queue", "queued_at", "slots", "finished_at", "worker", "labels",
        where=f"{LIVES} AND worker IS NULL AND labels = '{{}}'",
    ),
    _partial(
        "ix_mqtt_job_held", "team_name", "worker", "queue", "slots", "finished_at",
        where=f"{LIVES} AND worker IS NOT NULL",
    ),
    _partial("ix_mqtt_job_asking", "team_name", "queue", where=f"{LIVES} AND worker IS NULL AND labels <> '{{}}'"),
    Index("ix_mqtt_job_queued", "team_name", "queued_at", "id"),
    # What has ended, by state. SQLite writes it once, when its condition begins to hold. PostgreSQL would write all
    # indexes anew with each transition, since one of them has the state (no "heap-only tuples"): it reads all rows.
    Index(
        "ix_mqtt_job_ended", "team_name", "state", "queued_at", "id", sqlite_where=text("finished_at IS NOT NULL")
    ).ddl_if(dialect="sqlite"),
)  # fmt: skip

job_event = Table(
    "mqtt_job_event",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("job_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("by", Text, nullable=False),  # scheduler:<job id>, bridge:<instance>, worker:<name>
    Column("event", Text, nullable=False),  # jobs.JobEvent, or "queue" for the first
    Column("before", Text),
    Column("after", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Index("ix_mqtt_job_event_job", "job_id", "id"),
)

job_log = Table(
    "mqtt_job_log",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

worker = Table(
    "mqtt_worker",
    metadata,
    Column("team_name", Text, primary_key=True, server_default=""),
    Column("name", Text, primary_key=True),
    # Wished.
    Column("desired", Text, nullable=False, server_default="{}"),  # messages.Desired without its revision
    Column("revision", Integer, nullable=False, server_default=text("0")),
    # An operator wants it forgotten. The leader does so once nothing is heard of it and it holds no job.
    Column("removal", Boolean, nullable=False, server_default=false()),
    Column("news", Boolean, nullable=False, server_default=false()),  # as that of a job
    # Seen.
    Column("state", Text, nullable=False),  # workers.WorkerState, derived; kept for people and the UI
    Column("status", Text, nullable=False, server_default="{}"),  # last messages.WorkerStatus that counted
    Column("info", Text, nullable=False, server_default="{}"),  # last messages.WorkerInfo
    Column("instance", Text, nullable=False, server_default=""),
    Column("connection", BigInteger, nullable=False, server_default=text("0")),
    Column(
        "seen_at", Double, nullable=False
    ),  # by the bridge's clock, and later by all the time since in which no bridge listened
    # Position in its stream of events.
    Column("journal", Text, nullable=False, server_default=""),
    Column("past_journals", Text, nullable=False, server_default="[]"),  # a late Born of one of them is known
    Column("seq", BigInteger, nullable=False, server_default=text("0")),
    Column("birth", BigInteger, nullable=False, server_default=text("0")),  # number of its last Born
    Column("clock_offset", Double),  # seconds by which its clock is behind the site's; null: not known
    Column("note", Text, nullable=False, server_default=""),  # why the leading bridge gives it no jobs, if it does not
    _partial("ix_mqtt_worker_news", "team_name", where="news", sqlite="news = 1"),
)

#: What a site allows: one row a team, made by the first operator who says something. See `access`.
access = Table(
    "mqtt_access",
    metadata,
    Column("team_name", Text, primary_key=True, server_default=""),
    Column("document", Text, nullable=False, server_default="{}"),  # access.Access without its revision
    Column("revision", Integer, nullable=False, server_default=text("0")),  # raised by each change
)

#: What people did: one row for each act and each worker or job that it was done to. See `acts`. Retention deletes them.
act = Table(
    "mqtt_act",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("team_name", Text, nullable=False, server_default=""),
    Column("at", Double, nullable=False),
    Column("by", Text, nullable=False),  # cli:<account>, api:<user of Airflow>
    Column("act", Text, nullable=False),  # acts.Act
    Column("subject", Text, nullable=False),  # name of a worker, id of a job, or what else it was done to
    Column("detail", Text, nullable=False, server_default=""),  # its comment, queues, slots or reason
    Column("outcome", Text, nullable=False),  # operations.Wish, operations.Ending
    Index("ix_mqtt_act_team", "team_name", "id"),
    Index("ix_mqtt_act_subject", "team_name", "subject", "id"),
    Index("ix_mqtt_act_at", "team_name", "at"),
)

bridge = Table(
    "mqtt_bridge",
    metadata,
    Column("team_name", Text, primary_key=True, server_default=""),
    Column("holder", Text, nullable=False, server_default=""),  # instance that leads; empty: released
    Column("epoch", BigInteger, nullable=False),  # raised by each takeover; checked in every write
    Column("beat", BigInteger, nullable=False),  # raised by each renewal; a lease that stands still is free
    Column("host", Text, nullable=False, server_default=""),
    Column("word", Text, nullable=False, server_default="{}"),  # bridges.Word: what the leader says of itself
)

#: Bridges that stand by, for people. See `bridges`.
standby = Table(
    "mqtt_standby",
    metadata,
    Column("team_name", Text, primary_key=True, server_default=""),
    Column("instance", Text, primary_key=True),
    Column("host", Text, nullable=False, server_default=""),
    Column("version", Text, nullable=False, server_default=""),
    Column("seen_at", Double, nullable=False),  # by the database's clock
)
