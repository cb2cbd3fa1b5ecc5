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


async def test_what_is_no_interruption_ends_it(monkeypatch):
    """It is said by the group of the leader, and not swallowed."""

    async def hear():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await wakeup._for_ever(hear)
