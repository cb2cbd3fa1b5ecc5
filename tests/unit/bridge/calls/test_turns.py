"""Turns are fair, whoever waits, gives up, or is cancelled."""

import asyncio
import contextlib

import pytest

from airflow_mqtt.bridge.calls.turns import Turns


async def in_order(turns, owners, hold):
    """Have each of `owners` ask for a turn, in this order; return the order in which they get it."""
    got = []

    async def take(owner):
        async with turns.of(owner):
            got.append(owner)
            await hold()

    await asyncio.gather(*(take(owner) for owner in owners))
    return got


async def test_those_that_wait_come_owner_by_owner():
    turns = Turns(1, 1)
    got = await in_order(turns, ["a"] * 5 + ["b"] * 2 + ["c"], lambda: asyncio.sleep(0))
    assert got == ["a", "a", "b", "c", "a", "b", "a", "a"]
    assert turns._count == 0 and not turns._inside and not turns._waiting


async def test_one_owner_has_its_part_and_the_others_the_rest():
    turns, inside, most = Turns(4, 2), {}, {}

    async def hold():
        await asyncio.sleep(0)

    async def take(owner):
        async with turns.of(owner):
            inside[owner] = inside.get(owner, 0) + 1
            most[owner] = max(most.get(owner, 0), inside[owner])
            most["all"] = max(most.get("all", 0), sum(inside.values()))
            await hold()
            inside[owner] -= 1

    await asyncio.gather(*(take(owner) for owner in "aaaaaaaaabbbbccc"))
    assert most == {"a": 2, "b": 2, "c": 2, "all": 4}


@pytest.mark.parametrize("came", [False, True])
async def test_who_is_cancelled_takes_no_turn_with_it(came):
    turns, release = Turns(1, 1), asyncio.Event()
    first = asyncio.ensure_future(in_order(turns, ["a"], release.wait))
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(in_order(turns, ["b"], lambda: asyncio.sleep(0)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if came:
        release.set()
        while not first.done():
            await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    release.set()
    await first
    assert await asyncio.wait_for(in_order(turns, ["c"], lambda: asyncio.sleep(0)), 60) == ["c"]
    assert turns._count == 0 and not turns._waiting
