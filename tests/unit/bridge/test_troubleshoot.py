"""What docs/how-to/troubleshoot.md quotes of the bridge is what the bridge says: people search for it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("database/airflow_mqtt/database/errors", "the database has not the tables of this airflow-mqtt ("),
        ("database/airflow_mqtt/database/engine", "there is no database at "),
        ("bridge/airflow_mqtt/bridge/leader", "the database does not answer, trying again"),
        ("bridge/airflow_mqtt/bridge/mqtt/link", "access denied ("),
        ("bridge/airflow_mqtt/bridge/mqtt/link", "check its access rules (mosquitto/acl)"),
        (
            "bridge/airflow_mqtt/bridge/mqtt/link",
            "it ends each connection at once; check account and access rules (mosquitto/acl)",
        ),
        ("bridge/airflow_mqtt/bridge/mqtt/link", "connected, but nothing is received"),
    ],
)
def test_it_is_said_as_it_is_written(module, words):
    page = " ".join((ROOT / "docs/how-to/troubleshoot.md").read_text().split())
    assert words in page
    assert words in (ROOT / f"{module}.py").read_text()
