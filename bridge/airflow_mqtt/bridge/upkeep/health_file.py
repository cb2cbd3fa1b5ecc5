"""A sign of life for who supervises the process: a file that is touched while the bridge's loop turns.

A standby says nothing on the broker, so nobody could tell one that hangs from one that waits.
"""

import contextlib
import time
from pathlib import Path
from typing import Final

#: Seconds between two touches; a loop may turn a hundred times as often.
_INTERVAL: Final = 1.0


class HealthFile:
    """Touches `path`; does nothing without one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._touched = float("-inf")

    def touch(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._touched < _INTERVAL:
            return
        self._touched = now
        # A file that can no longer be touched gets old, and that is what its reader looks for.
        with contextlib.suppress(OSError):
            self._path.touch()
