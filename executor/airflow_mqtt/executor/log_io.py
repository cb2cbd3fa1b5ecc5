"""What Airflow asks for the log of a task. Light, since it is in processes that never read one: see `log_reader`."""

import os
import re
from collections.abc import Callable
from typing import Any, Final

#: Where a log is from, and its texts or streams of lines: `airflow.logging.remote.RemoteLogIO`.
Answer = tuple[list[str], list[Any] | None]

#: How the log of a triggerer is called beside that of its task: `FileTaskHandler.add_triggerer_suffix`.
_TRIGGER_PATH: Final = re.compile(r"(?P<task>.+)\.trigger\.(?P<triggerer>\d+)\.log")


class MqttLogIO:
    """A `RemoteLogIO` (`airflow.logging.remote`) over our tables, in front of the one that would be there else.

    What is not ours is answered as the other one would. Of a task of ours both are shown: a device that reaches the
    site's store may have uploaded its log there as well.
    """

    def __init__(self, other: Any = None) -> None:
        self._other = other

    @property
    def processors(self) -> tuple[Any, ...]:
        return tuple(self._other.processors) if self._other is not None else ()

    def read(self, relative_path: str, ti: Any) -> Answer:
        """Return (where the log is from, its texts or streams of lines). Asked by Airflow 3.1."""
        return _answer(relative_path, ti, getattr(self._other, "read", _nothing))

    def stream(self, relative_path: str, ti: Any) -> Answer:
        """Return (where the log is from, streams of its lines, or texts). Asked by Airflow 3.2 and later."""
        read = getattr(self._other, "read", _nothing)
        return _answer(relative_path, ti, getattr(self._other, "stream", read))

    def upload(self, path: str | os.PathLike[str], ti: Any = None) -> None:
        """Keep the log that a triggerer wrote for a task of ours; what is not ours goes where it went before.

        Each supervisor of a task asks for this at its end, wherever it runs.
        """
        found = _TRIGGER_PATH.fullmatch(os.fspath(path)) if ti is not None else None
        if not (found and _kept(ti, found["task"], int(found["triggerer"]))) and self._other is not None:
            self._other.upload(path, ti)


def _answer(relative_path: str, ti: Any, other: Callable[[str, Any], Answer]) -> Answer:
    from airflow_mqtt.executor import log_reader  # noqa: PLC0415 - only where a log is read

    return log_reader.answer(relative_path, ti, other)


def _kept(ti: Any, log_path: str, triggerer: int) -> bool:
    from airflow_mqtt.executor import task_log  # noqa: PLC0415 - only where a triggerer's log is kept

    return task_log.kept(ti, log_path, triggerer)


def _nothing(_path: str, _ti: Any) -> Answer:
    return [], None
