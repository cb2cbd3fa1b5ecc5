"""What docs/how-to/troubleshoot.md quotes of the bridge is what the bridge says: people search for it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("database", "the database has not the tables of this airflow-mqtt ("),
        ("database", "there is no database at "),
        ("service", "the database does not answer, trying again"),
        ("link", "access denied ("),
        ("link", "check its access rules (mosquitto/acl)"),
        ("link", "it ends each connection at once; check account and access rules (mosquitto/acl)"),
        ("link", "connected, but nothing is received"),
    ],
)
def test_it_is_said_as_it_is_written(module, words):
    page = " ".join((ROOT / "docs/how-to/troubleshoot.md").read_text().split())
    assert words in page
    assert words in (ROOT / f"bridge/airflow_mqtt/bridge/{module}.py").read_text()
