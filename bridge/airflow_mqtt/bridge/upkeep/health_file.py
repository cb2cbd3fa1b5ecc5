"""A sign of life for who supervises the process: a file that is touched each turn of the bridge's loop.

A standby says nothing on the broker, so nobody could tell one that hangs from one that waits.
"""

import contextlib
from pathlib import Path


class Pulse:
    """Touches `path`; does nothing without one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def beat(self) -> None:
        # A file that can no longer be touched gets old, and that is what its reader looks for.
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.touch()
