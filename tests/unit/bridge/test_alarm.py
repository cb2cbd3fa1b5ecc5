"""What wakes the writer's loop."""

import asyncio

from airflow_mqtt.bridge.alarm import Alarm

LONG = 600.0


async def rang(alarm):
    """Whether it rings at once."""
    waiting = asyncio.ensure_future(alarm.wait(LONG))
    for _ in range(5):
        await asyncio.sleep(0)
    if not waiting.done():
        waiting.cancel()
        return False
    return True


async def test_it_rings_at_once():
    alarm = Alarm()
    assert not await rang(alarm)
    alarm.ring()
    assert await rang(alarm)


async def test_it_rings_once_for_all_who_want_it_soon():
    alarm = Alarm()
    for _ in range(100):
        alarm.ring_within(0.01)
    assert not await rang(alarm)
    await alarm.wait(LONG)
    alarm.clear()
    assert not await rang(alarm)
    alarm.ring_within(0.01)
    await alarm.wait(LONG)


async def test_who_was_woken_has_seen_what_would_have_rung_later():
    alarm = Alarm()
    alarm.ring_within(0.01)
    alarm.ring()
    assert await rang(alarm)
    alarm.clear()
    await asyncio.sleep(0.05)
    assert not await rang(alarm)
