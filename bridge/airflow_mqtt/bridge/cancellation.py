"""Cancellation that is not lost.

A cancelled task must end: a bridge that was told to stop, or deposed, waits for all of its tasks. Several things on
the way swallow a cancellation that meets them at the wrong moment: `asyncio.wait_for` before Python 3.12 (which
aiomqtt awaits) when its result came just then, a `TaskGroup` before 3.13 and a closing connection of SQLAlchemy when
their own error did. So endless loops ask for themselves.

https://docs.python.org/3/library/asyncio-task.html#asyncio.Task.cancelling
"""

import asyncio


def raise_if_cancelled() -> None:
    """Raise `CancelledError` if this task was asked to end and something has swallowed that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def pause(event: asyncio.Event, seconds: float) -> bool:
    """Wait for `event`, but not longer than `seconds`; return whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return event.is_set()
