"""What differs between the versions of Airflow, as the installed one has it."""

from importlib.metadata import version

from airflow_mqtt.executor import compat


def test_compat_fits_the_installed_airflow():
    minor = tuple(int(part) for part in version("apache-airflow").split(".")[:2])
    assert (minor >= (3, 2)) == compat.PRE_ASSIGNS
    assert (minor >= (3, 2)) == compat.SCOPED_TOKENS
    assert (minor >= (3, 3)) == compat.RUNS_CALLBACKS


def test_airflow_loads_the_executor_by_its_documented_path(world):
    from airflow.executors.executor_loader import ExecutorLoader

    from airflow_mqtt.executor import MqttExecutor

    loaded = ExecutorLoader.get_default_executor()
    assert type(loaded) is MqttExecutor
    loaded.start()
    loaded.heartbeat()
    loaded.end()
    loaded.terminate()


def test_airflow_accepts_the_provider(world):
    from airflow.providers_manager import ProvidersManager

    info = ProvidersManager().providers["airflow-mqtt"]
    assert info.data["executors"] == ["airflow_mqtt.executor.MqttExecutor"]


def test_airflow_knows_the_tables_as_migrated(world):
    from airflow_mqtt.executor.db import MqttDBManager

    with world.session() as session:
        assert MqttDBManager(session).check_migration()
