"""The leader before it leads."""

import gc

import pytest

from airflow_mqtt.bridge import leader as module
from airflow_mqtt.bridge.leader import Leader
from airflow_mqtt.config.bridge import SETTINGS, BridgeSettings
from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.database.engine import Database, make_engine
from airflow_mqtt.database.errors import DeposedError


@pytest.fixture
def collector():
    """Python's collector, as it was before."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


async def test_a_fleet_is_not_looked_through_for_garbage_while_it_is_read(tmp_path, collector, monkeypatch):
    """With ten thousand workers that was a fifth of a takeover."""
    url = f"sqlite:///{tmp_path}/airflow.db"
    given = {"broker_url": "mqtt://broker", "database_url": url, "execution_api_url": "http://api/execution/"}
    settings = BridgeSettings.of(resolve(SETTINGS, [Source(lambda setting: setting.flag, given)]))
    engine = make_engine(url)
    leader = Leader(settings, Database(engine, ""), 1, None, renewed=lambda: None, say=lambda _: None)
    seen = []

    async def snapshot():
        seen.append(gc.get_threshold())
        raise DeposedError("it was another's before all was read")

    monkeypatch.setattr(leader._ledger, "snapshot", snapshot)
    try:
        with pytest.raises(DeposedError):
            await leader.run()
    finally:
        await engine.dispose()
    assert seen == [module._GARBAGE]
