import pytest

from airflow_mqtt.bridge.calls import forwarder
from gateway_bench import Bench


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path / "bridge.db")
    await made.start()
    await made.add("one")
    yield made
    await made.close()


@pytest.fixture
def fast(monkeypatch):
    """Tries follow each other at once."""
    monkeypatch.setattr(forwarder, "_RETRY_MAX", 0.001)
