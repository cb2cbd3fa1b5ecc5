import json
import sqlite3

import pytest

from airflow_mqtt.protocol.errors import RefusedError
from airflow_mqtt.protocol.messages import Run
from airflow_mqtt.worker.core.effects import DropCall, DropJob, SaveCall, SaveJob
from airflow_mqtt.worker.core.jobs import Job
from airflow_mqtt.worker.journal import Journal

#: The tables of 0.1.0.
SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE job (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE call (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, position INTEGER NOT NULL, record TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('journal', 'j'), ('schema', '1'), ('connection', '7');
INSERT INTO event VALUES (3, 'three');
INSERT INTO call VALUES ('c1', 'job-1', 1, '{"n":1}');
"""


def test_a_journal_of_the_version_before_goes_on(tmp_path):
    path = tmp_path / "journal.db"
    job = Job(run=Run(job="job-1", attempt=2, kind="airflow", slots=1, workload={"of": "0.1.0"}), queue="default")
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA_1)
        database.execute("INSERT INTO job VALUES (?, ?)", (job.id, json.dumps(job.record())))
    with Journal(path) as journal:
        held = journal.load()
        assert (held.meta["journal"], held.meta["connection"]) == ("j", "7")
        assert (held.jobs, held.calls) == ([job.record()], [("job-1", {"n": 1})])
        job.launches = 3
        journal.write(
            [SaveJob(job.id, job.record()), SaveCall("c1", job.id, 1, {"n": 2}), SaveCall("c2", job.id, 2, {})]
        )
    with Journal(path) as journal:
        held = journal.load()
        assert (held.jobs, held.calls) == ([job.record()], [("job-1", {"n": 2}), ("job-1", {})])
        journal.write([DropJob(job.id), DropCall("c1"), DropCall("c2")])
        assert (journal.load().jobs, journal.load().calls) == ([], [])


def test_the_version_before_refuses_a_journal_of_this_one(tmp_path):
    """It would find jobs without their orders. What it looks at says another version, from the first opening on."""
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA_1)
    with Journal(path):
        pass
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchall() == [("2",)]


def test_a_journal_of_another_version_is_refused_in_one_line(tmp_path):
    path = tmp_path / "journal.db"
    with Journal(path):
        pass
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    with pytest.raises(RefusedError, match="schema 99") as caught:
        Journal(path)
    assert "\n" not in str(caught.value)
    assert "--state-dir" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"no journal at all, but text that is long enough to be looked at", b"SQLite format 3\0" + b"x" * 4096]
)
def test_a_journal_that_cannot_be_read_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match="cannot be used") as caught:
        Journal(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content
