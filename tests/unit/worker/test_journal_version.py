import sqlite3

import pytest

from airflow_mqtt.protocol.errors import RefusedError
from airflow_mqtt.worker.journal import Journal


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
