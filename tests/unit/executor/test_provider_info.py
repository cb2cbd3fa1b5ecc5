"""What Airflow learns before it has loaded anything of ours."""

import subprocess
import sys

from airflow_mqtt.executor.provider import get_provider_info


def test_options_are_as_airflow_wants_them():
    options = get_provider_info()["config"]["mqtt"]["options"]
    assert {"callback_queue", "broker_url", "database_url", "execution_api_url", "root"} <= set(options)
    for option in options.values():
        assert {"description", "version_added", "type", "example", "default"} <= set(option)


def test_secrets_are_marked():
    options = get_provider_info()["config"]["mqtt"]["options"]
    assert options["broker_url"]["sensitive"]
    assert options["database_url"]["sensitive"]


def test_reading_the_metadata_imports_neither_airflow_nor_a_database_toolkit():
    code = (
        "import sys; from airflow_mqtt.executor.provider import get_provider_info; get_provider_info();"
        "print([name for name in ('airflow', 'sqlalchemy', 'paho', 'aiomqtt') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
