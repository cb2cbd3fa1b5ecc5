"""Task logs as lines, from the chunks that the bridge has stored. Who asks for them: `log_reader`."""

import codecs
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import orjson
from sqlalchemy import ColumnElement, and_, delete, func, insert, select, tuple_
from sqlalchemy.orm import Session

from airflow_mqtt.config.bridge import SETTINGS
from airflow_mqtt.database import tables
from airflow_mqtt.database.queries import queues
from airflow_mqtt.executor.long_lines import Line
from airflow_mqtt.protocol import task_log
from airflow_mqtt.protocol.jobs import TERMINAL, JobState

_logger = logging.getLogger(__name__)

_job = tables.job.c
_log = tables.job_log.c

#: Chunks of one read: with the 16 KiB of a chunk, about a megabyte at a time in memory.
_PAGE: Final = 64

#: Bytes, and parts, of the small logs that are read at once: a try of many short dispatches is as one log.
_PAGE_BYTES: Final = 1024 * 1024
_PAGE_PARTS: Final = 1000

#: Bytes of a stored chunk of a triggerer's log.
_CHUNK: Final = 64 * 1024

#: Bounds the log of a triggerer as it does that of a job.
_LOG_LIMIT: Final = next(setting for setting in SETTINGS if setting.name == "log_limit")

_CUT: Final = "Log cut here: log_limit in [mqtt]."

#: How our lines in a task's log are signed.
_OURS: Final = "airflow_mqtt.executor"


_NO_WORKER: Final = "; no worker serves this queue now, see `airflow mqtt list-workers`"


class Part(NamedTuple):
    """One log: that of an attempt, or, with a negative attempt, that of the triggerer with that number.

    `size` is in bytes that have arrived, `missing` in those that have not. All bytes up to `arrived` have; where some
    of them are not there, `log_limit` has cut them off. `last_word` ends what is shown, `at` is a time of the job.
    """

    job_id: str
    attempt: int
    label: str
    complete: bool
    size: int
    missing: int = 0
    arrived: int = 0
    where: str = ""
    last_word: str = ""
    at: float = 0.0


class Gap(NamedTuple):
    """Bytes of a log that are not there."""

    begin: int
    end: int


def assemble(chunks: Iterable[tuple[int, bytes]]) -> Iterator[bytes | Gap]:
    """Join chunks of (offset, data), in order of their offsets. What comes twice is left out."""
    end = 0
    for offset, data in chunks:
        if offset > end:
            yield Gap(end, offset)
            end = offset
        fresh = data[end - offset :]
        if fresh:
            yield fresh
            end += len(fresh)


def lines_of(pieces: Iterable[bytes | Gap], part: Part) -> Iterator[str]:
    """Return the lines of a log in `pieces`, and at a gap one that says so. The last one, if it has no end yet, only
    when the log is complete.

    What is too long to be shown `long_lines` shortens.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    line = Line()
    last = ""
    for piece in pieces:
        if isinstance(piece, Gap):
            decoder.reset()
            line = Line()
            if piece.end > part.arrived:
                yield _said(part, last, _of_gap(piece, part))
            continue
        *ends, rest = decoder.decode(piece).split("\n")
        for end in ends:
            yield from line.add(end)
            yield from (shown := line.end())
            last, line = shown[-1], Line()
        yield from line.add(rest)
    yield from line.add(decoder.decode(b"", final=True))
    if part.complete and (shown := line.end()) != [""]:
        last = shown[-1]
        yield from shown
    if part.last_word:
        yield _said(part, last, part.last_word)


def _of_gap(gap: Gap, part: Part) -> str:
    return f"{gap.end - max(gap.begin, part.arrived)} bytes of this log are missing here. {part.where}"


def _said(part: Part, last: str, text: str) -> str:
    """Return a line of ours that stands below the line `last`: Airflow sorts by time."""
    at: float | str = part.at
    with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
        found = orjson.loads(last)["timestamp"]
        at = found if isinstance(found, str) else at
    return task_log.line(at, "warning", text, _OURS).decode().rstrip()


def parts_of(session: Session, ti: Any, same_try: ColumnElement[bool]) -> list[Part]:
    """Return the logs of the jobs of `ti` that are of the `same_try`, in the order of their dispatch."""
    columns = (
        _job.id, _job.state, _job.worker, _job.attempt, _job.queue, _job.team_name, _job.reason, _job.queued_at,
        _job.finished_at, _job.log_bytes, _job.log_size, _job.log_tail,
    )  # fmt: skip
    size = func.sum(func.length(_log.data))
    with_logs = tables.job.outerjoin(tables.job_log, _log.job_id == _job.id)
    statement = (
        select(*columns, _log.attempt.label("logged"), size.label("size"))
        .select_from(with_logs)
        .where(_of(ti), same_try)
        .group_by(_job.id, _log.attempt)
        .order_by(_job.queued_at, _job.id, _log.attempt)
    )
    rows = session.execute(statement).all()
    return [_part(row, unserved=_unserved(session, row)) for row in rows]


def has_jobs(session: Session, ti: Any, try_number: int) -> bool:
    """Whether `ti` has been given to us in this try."""
    query = select(_job.id).where(_of(ti), _job.try_number == try_number).limit(1)
    return session.scalar(query) is not None


def _unserved(session: Session, job: Any) -> bool:
    """Whether a job waits for a worker in a queue that none serves now."""
    from airflow_mqtt.executor import fleet  # noqa: PLC0415 - Airflow imports our logging_config early

    if job.state != JobState.QUEUED:
        return False
    return not queues.is_served(session, job.team_name, job.queue, fleet.enforced(session, job.team_name))


def _of(ti: Any) -> ColumnElement[bool]:
    """Whether a job is of the task of `ti`, in the order of `ix_mqtt_job_task`."""
    return and_(
        _job.dag_id == ti.dag_id,
        _job.run_id == ti.run_id,
        _job.task_id == ti.task_id,
        _job.map_index == getattr(ti, "map_index", -1),
    )


def _part(row: Any, *, unserved: bool) -> Part:
    """Return what is to be read of one attempt of a job, or of its triggerer: `logged` is None where nothing is."""
    attempt = row.attempt if row.logged is None else row.logged
    ended = JobState(row.state) in TERMINAL
    label = _label(row) + (_NO_WORKER if unserved else "")
    part = Part(row.id, attempt, label, complete=True, size=int(row.size or 0))
    if attempt != row.attempt:
        return part._replace(complete=ended or 0 < attempt < row.attempt)
    missing = _missing(row)
    part = part._replace(
        complete=ended and not missing,
        missing=missing,
        arrived=row.log_bytes,
        where=f"They are still on worker {row.worker}, and will come when its link has room.",
        at=row.finished_at or row.queued_at,
    )
    if missing and not ended:
        # Not as a line: who asks for a growing log piece by piece counts lines, and would miss one of the task's.
        part = part._replace(label=f"{part.label}; {missing} bytes more are on the device")
    return part._replace(last_word=_last_word(row, part) if ended else "")


def _missing(row: Any) -> int:
    """Return how many bytes of the log have not arrived, as far as its worker has said."""
    upto = row.log_size if row.log_tail is None or row.log_bytes >= row.log_tail else row.log_tail
    return max(0, int(upto) - int(row.log_bytes))


def _last_word(row: Any, part: Part) -> str:
    """Return what is said below a log that is not complete, or in place of one that will never be."""
    if part.missing:
        return f"This log is not complete yet: {part.missing} bytes of it are missing. {part.where}"
    if JobState(row.state) in TERMINAL and not part.size and row.reason:
        return f"There is no log: job {row.id} was {row.state} before it wrote one: {row.reason}"
    return ""


def _label(job: Any) -> str:
    if job.logged is None:
        why = f" ({job.reason})" if job.reason else ""
        return f"airflow-mqtt: job {job.id} is {job.state} in queue {job.queue}{why}; no log of it has arrived yet"
    if job.logged < 0:
        return f"airflow-mqtt: log of triggerer {-job.logged} for job {job.id}"
    return f"airflow-mqtt: job {job.id}, attempt {job.logged}, on worker {job.worker}"


def streams(parts: Sequence[Part]) -> list[Iterator[str]]:
    """Return the lines of `parts`: a stream of the jobs, one of the triggerers, or one that is empty.

    Jobs of a try follow each other, and so do their lines. A triggerer writes beside them: Airflow sorts what it says
    in between.
    """
    logged = [part for part in parts if part.size or part.last_word]
    jobs, triggerers = ([part for part in logged if (part.attempt > 0) is of_job] for of_job in (True, False))
    return [_lines(one) for one in (jobs, triggerers) if one] or [_lines([])]


def _lines(parts: Sequence[Part]) -> Iterator[str]:
    # A generator on purpose: Airflow takes nothing else for a stream.
    for page in _pages(parts):
        chunks = _chunks_of(page) if len(page) > 1 else {page[0]: _chunks(page[0])}
        for part in page:
            yield from lines_of(assemble(chunks.get(part, ())), part)


def _pages(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Return runs of `parts` that are read at once. One that is larger than a page is alone."""
    page: list[Part] = []
    size = 0
    for part in parts:
        if page and (size + part.size > _PAGE_BYTES or len(page) == _PAGE_PARTS):
            yield page
            page, size = [], 0
        page.append(part)
        size += part.size
    if page:
        yield page


def _chunks_of(parts: Sequence[Part]) -> dict[Part, list[tuple[int, bytes]]]:
    """Read all chunks of several small logs in one query."""
    from airflow_mqtt.executor import compat  # noqa: PLC0415 - Airflow imports our logging_config early

    known = {(part.job_id, part.attempt): part for part in parts}
    columns = (_log.job_id, _log.attempt, _log.offset, _log.data)
    # The ids alone as well: for pairs, SQLite reads the whole table.
    wanted = _log.job_id.in_({part.job_id for part in parts}), tuple_(_log.job_id, _log.attempt).in_(known)
    statement = select(*columns).where(*wanted).order_by(*columns[:3])
    found: dict[Part, list[tuple[int, bytes]]] = {}
    with compat.own_session() as session:
        for job_id, attempt, offset, data in session.execute(statement):
            found.setdefault(known[job_id, attempt], []).append((offset, data))
    return found


def _chunks(part: Part) -> Iterator[tuple[int, bytes]]:
    """Read the chunks page by page, each in a session of its own: a reader may take its time in between."""
    from airflow_mqtt.executor import compat  # noqa: PLC0415 - Airflow imports our logging_config early

    last = -1
    while True:
        page = (
            select(_log.offset, _log.data)
            .where(_log.job_id == part.job_id, _log.attempt == part.attempt, _log.offset > last)
            .order_by(_log.offset)
            .limit(_PAGE)
        )
        with compat.own_session() as session:
            rows: Any = session.execute(page).all()
        yield from ((offset, data) for offset, data in rows)
        if len(rows) < _PAGE:
            return
        last = rows[-1].offset


def kept(ti: Any, task_path: str, triggerer: int) -> bool:
    """Keep what a triggerer wrote beside the log at `task_path`; False when no job of ours has this path."""
    try:
        return _keep(ti, task_path, triggerer)
    except Exception as error:  # a log that is not kept must not end a triggerer
        _logger.warning("The log of triggerer %s for %s could not be kept: %s", triggerer, task_path, error)
        return False


def _keep(ti: Any, task_path: str, triggerer: int) -> bool:
    """Store the whole file, in place of what was there."""
    from airflow.configuration import conf  # noqa: PLC0415 - Airflow imports our logging_config early

    from airflow_mqtt.executor import compat  # noqa: PLC0415 - Airflow imports our logging_config early

    base = Path(conf.get_mandatory_value("logging", "base_log_folder"))
    limit = _LOG_LIMIT.parse(conf.get("mqtt", _LOG_LIMIT.name, fallback=None) or _LOG_LIMIT.default or "")
    with (base / f"{task_path}.trigger.{triggerer}.log").open("rb") as file, compat.own_session() as session:
        job = first_job(session, ti, task_path)
        if job is None:
            return False
        session.execute(delete(tables.job_log).where(_log.job_id == job, _log.attempt == -triggerer))
        for offset, data in _pieces(file, limit):
            row = {"job_id": job, "attempt": -triggerer, "offset": offset, "data": data}
            session.execute(insert(tables.job_log), row)
    return True


def first_job(session: Session, ti: Any, task_path: str) -> str | None:
    """Return the first job of `ti` with this log: a triggerer writes on in one file at each deferral of the task."""
    query = select(_job.id).where(_of(ti), _job.log_path == task_path).order_by(_job.queued_at).limit(1)
    return session.scalar(query)


def _pieces(file: IO[bytes], limit: int) -> Iterator[tuple[int, bytes]]:
    """Read a file as chunks with their offsets, up to `limit` bytes; that there is more is said at their end."""
    offset = 0
    while offset < limit and (data := file.read(min(_CHUNK, limit - offset))):
        yield offset, data
        offset += len(data)
    if file.read(1):
        yield offset, b"\n" + task_log.line(time.time(), "warning", _CUT, _OURS)
