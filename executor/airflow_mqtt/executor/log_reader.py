"""Who answers Airflow when it asks for the log of a task.

It asks in two places (`FileTaskHandler._read`): `of_running` answers for the executor while a task runs, and
`log_io.MqttLogIO` always, in each process in which the plugin or our `logging_config` has put it. Where both are there,
the second one answers alone, so that no line is shown twice.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final

from sqlalchemy import or_
from sqlalchemy.exc import SQLAlchemyError

from airflow_mqtt.database import tables
from airflow_mqtt.executor import remote_logs, task_log
from airflow_mqtt.executor.log_io import Answer, MqttLogIO
from airflow_mqtt.executor.task_log import Part

_job = tables.job.c

#: Lines of another reader that are held in memory.
_AHEAD: Final = 1000


def of_running(ti: Any, try_number: int) -> tuple[list[str], list[str]]:
    """Answer `BaseExecutor.get_task_log`: (where the log is from, its text)."""
    from airflow_mqtt.executor import compat  # noqa: PLC0415 - Airflow imports our logging_config early

    with compat.own_session() as session:
        parts = task_log.parts_of(session, ti, _job.try_number == try_number)
    labels = [part.label for part in parts]
    if isinstance(remote_logs.reader(), MqttLogIO):
        return labels, []
    return labels, ["\n".join(lines) for lines in task_log.streams(parts)]


def answer(relative_path: str, ti: Any, other: Callable[[str, Any], Answer]) -> Answer:
    """Answer `log_io.MqttLogIO`, with what the `other` reader would have answered where that was not ours."""
    try:
        parts = _find(relative_path, ti)
    except SQLAlchemyError as error:  # the logs of other executors are shown all the same
        labels, logs = other(relative_path, ti)
        return [*labels, f"airflow-mqtt: its tables could not be read: {_first_line(error)}"], logs
    if not parts:
        return other(relative_path, ti)
    labels, theirs = _theirs(other, relative_path, ti)
    jobs, *triggerers = task_log.streams(parts)
    return [*(part.label for part in parts), *labels], [joined(jobs, theirs), *triggerers]


def is_ours(ti: Any, try_number: int) -> bool:
    """Whether this try of a task has been a job of ours; False where nobody can say."""
    from airflow_mqtt.executor import compat  # noqa: PLC0415 - see `of_running`

    try:
        with compat.own_session() as session:
            return task_log.has_jobs(session, ti, try_number)
    except SQLAlchemyError:
        return False


def _find(relative_path: str, ti: Any) -> list[Part]:
    from airflow_mqtt.executor import compat  # noqa: PLC0415 - see `of_running`

    # The path is rendered with the template of the Dag run here, and with the current one by the executor.
    same = or_(_job.log_path == relative_path, _job.try_number == ti.try_number)
    with compat.own_session() as session:
        return task_log.parts_of(session, ti, same)


def _theirs(other: Callable[[str, Any], Answer], relative_path: str, ti: Any) -> tuple[list[str], Iterator[str]]:
    """Return what the site's own reader has of a log of ours: where it is from, and its lines."""
    try:
        labels, logs = other(relative_path, ti)
    except Exception as error:  # whatever it is, ours is there
        return [f"The remote log could not be read: {_first_line(error)}"], iter(())
    if not logs:  # as a rule: that it looked and found nothing is no news
        return [], iter(())
    lines = chain.from_iterable(log.split("\n") if isinstance(log, str) else log for log in logs)
    return labels, (line for line in lines if line)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def joined(ours: Iterable[str], theirs: Iterator[str]) -> Iterator[str]:
    """Return the lines of both, each once.

    `theirs` is a copy of all or a part of `ours`, in the same order, with lines of its own in between: up to `_AHEAD`
    in one place, so far is it read ahead.
    """
    ahead = _Ahead(theirs)
    for line in ours:
        yield from ahead.before(line)
        yield line
    yield from ahead.lines
    yield from theirs


class _Ahead:
    """The next `lines` of another reader, and how often each is among them."""

    def __init__(self, theirs: Iterator[str]) -> None:
        self._theirs = theirs
        self.lines = deque(islice(theirs, _AHEAD))
        self._known = Counter(self.lines)

    def before(self, line: str) -> Iterator[str]:
        """Take what comes before `line`, and the line itself; nothing if it is not there."""
        seen = line not in self._known
        while not seen:
            first = self._next()
            if not (seen := first == line):
                yield first

    def _next(self) -> str:
        first = self.lines.popleft()
        self._known[first] -= 1
        if not self._known[first]:
            del self._known[first]  # as large as what is ahead, however long the log is
        fresh = list(islice(self._theirs, 1))
        self.lines.extend(fresh)
        self._known.update(fresh)
        return first
