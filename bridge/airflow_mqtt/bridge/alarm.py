"""What wakes a task: at once, or soon, with all else that comes until then."""

import asyncio

from airflow_mqtt.bridge.cancellation import pause


class Alarm:
    """An event that may be set for later. One that is set for earlier than that counts."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        self._event.set()

    def ring_within(self, seconds: float) -> None:
        """Ring so many seconds after the first who asked for that since it rang last."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(seconds, self.ring)

    def clear(self) -> None:
        """Be silent until somebody asks again: whoever was woken looks at all that there is."""
        self._event.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    async def wait(self, seconds: float) -> None:
        """Wait until it rings, but not longer than `seconds`."""
        await pause(self._event, seconds)
