"""`airflow mqtt purge`: delete what ended long ago, now; the bridge's `retention` does so by itself."""

import time
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from airflow_mqtt.database import retention
from airflow_mqtt.database.acts import Act
from airflow_mqtt.executor import acting, compat
from airflow_mqtt.executor.cli.command import command, confirm, who
from airflow_mqtt.executor.cli.output import refuse, say


@command
def purge(args: Namespace) -> None:
    """Delete jobs that ended long ago, with their events and logs, and the record of acts of before that."""
    now = time.time()
    if not 0 <= args.older_than * 86400 <= now:
        refuse("--older-than takes a number of days, back to 1970 at most")
    before = now - args.older_than * 86400
    with compat.own_session() as session:
        jobs, acts = retention.count(session, args.team_name, before=before, now=now)
    since = datetime.fromtimestamp(before, UTC).isoformat(timespec="minutes")
    what = f"{jobs} jobs that ended before {since}, with their events and logs, and {acts} acts of before that"
    if not jobs and not acts:
        say(f"There is nothing of before {since}")
        return
    confirm(f"Delete {what}?", yes=args.yes)
    deleted = _all(lambda session: retention.delete_jobs(session, args.team_name, before=before, now=now))
    gone = _all(lambda session: retention.delete_acts(session, args.team_name, before))
    with compat.own_session() as session:
        outcome = f"{deleted} jobs, {gone} acts"
        acting.record(
            session, args.team_name, Act.PURGE, {"jobs": outcome}, by=who(), detail=f"before {since}", now=now
        )
    say(f"Deleted {deleted} jobs and {gone} acts")


def _all(delete: Callable[[Session], int]) -> int:
    """Delete a batch at a time: each holds SQLite's only lock for a moment."""
    deleted = 0
    while True:
        with compat.own_session() as session:
            batch = delete(session)
        deleted += batch
        if batch < retention.BATCH:
            return deleted
