"""How the wake-up goes on when it is interrupted."""

import pytest

from airflow_mqtt.bridge.upkeep import wakeup


class StoppedError(Exception):
    """The test has seen enough."""


async def pauses_of(monkeypatch, lasting, count):
    """Return the pauses between tries that are interrupted after `lasting` seconds each, one after the other."""
    now, pauses, left = [0.0], [], list(lasting)

    async def hear():
        now[0] += left.pop(0)
        raise OSError("gone")

    async def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == count:
            raise StoppedError

    monkeypatch.setattr(wakeup.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(wakeup.asyncio, "sleep", sleep)
    with pytest.raises(StoppedError):
        await wakeup._for_ever(hear)
    return pauses


async def test_a_pause_grows_while_it_goes_badly_and_is_short_again_after_it_went_well(monkeypatch):
    long = wakeup._LONGEST
    pauses = await pauses_of(monkeypatch, [0, 0, 0, 0, long + 1, 0], 6)
    assert pauses[:2] == sorted(set(pauses[:2])) and pauses[3] > pauses[0]
    assert pauses[4] == pauses[0] == wakeup._SHORTEST


async def test_whatever_interrupts_it_is_said(monkeypatch, caplog):
    """Nothing is swallowed without a word."""
    monkeypatch.setattr(wakeup, "_SHORTEST", 0.0)
    tries = []

    async def hear():
        tries.append(1)
        if len(tries) == 2:
            raise StoppedError
        raise OSError("a kind of its own")

    async def sleep(seconds):
        if len(tries) == 2:
            raise StoppedError

    monkeypatch.setattr(wakeup.asyncio, "sleep", sleep)
    with pytest.raises(StoppedError):
        await wakeup._for_ever(hear)
    assert "a kind of its own" in caplog.text
