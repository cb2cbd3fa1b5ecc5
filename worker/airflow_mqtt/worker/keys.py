"""A secret for each attempt: who calls in a job's name on the local socket must have been started for it.

All tasks run as the worker's user, and may connect. A runner gets its secret from its parent and keeps it in memory.
The disk has only its digest, for a worker that is started again while the runner lives.
"""

import hashlib
import os
from pathlib import Path

from airflow_mqtt.worker.job_files import JobFiles

Attempt = tuple[str, int]


class Keys:
    """The digests of the secrets that were given out. An attempt that is launched again has another besides."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._known: dict[Attempt, set[str]] = {}

    def give(self, job: str, attempt: int) -> str:
        """Return a new secret for a runner that is to be started; `OSError` when it cannot be kept."""
        key = os.urandom(16).hex()
        found = self._digests(job, attempt)
        JobFiles(self._state_dir, job, attempt).add_key(_digest(key))
        self._known[job, attempt] = found | {_digest(key)}
        return key

    def fit(self, job: str, attempt: int, key: str) -> bool:
        """Whether `key` was given to a runner of this attempt; any does where none was: an older worker started it."""
        digests = self._digests(job, attempt)
        return not digests or _digest(key) in digests

    def forget(self, job: str, attempt: int) -> None:
        self._known.pop((job, attempt), None)

    def _digests(self, job: str, attempt: int) -> set[str]:
        """Return what is known, or what the worker before this one wrote down; read once, so that it stays that."""
        if (job, attempt) not in self._known:
            found = JobFiles(self._state_dir, job, attempt).read_keys()
            if not found:
                return found
            self._known[job, attempt] = found
        return self._known[job, attempt]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()
