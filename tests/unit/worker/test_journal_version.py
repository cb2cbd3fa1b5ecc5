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
