"""The log of one attempt of a job, as it has come: bytes from an offset on, a piece at a time."""

from typing import Any, Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.jobs import TERMINAL, JobState

_job = tables.job.c
_log = tables.job_log.c

#: Chunks of one answer: with the 16 KiB of a chunk, about a quarter of a megabyte.
_CHUNKS: Final = 16


class Piece(NamedTuple):
    """Text of a log, where the next one begins, and whether this is the end of it."""

    text: str
    next_offset: int
    complete: bool


def read_log(session: Session, team_name: str, job_id: str, attempt: int | None, offset: int) -> Piece | None:
    """Return what there is of the log of `attempt` (None: the job's own) from `offset` on; None without such a job.

    It ends before bytes that have not come yet. Those that never will, `log_limit` has cut them off, are left out.
    """
    columns = (_job.state, _job.attempt, _job.log_bytes, _job.log_size)
    job = session.execute(select(*columns).where(_job.id == job_id, _job.team_name == team_name)).one_or_none()
    if job is None:
        return None
    wanted = job.attempt if attempt is None else attempt
    rows = _chunks(session, job_id, wanted, offset)
    ended = JobState(job.state) in TERMINAL or wanted < job.attempt
    arrived = job.log_bytes if wanted == job.attempt else None
    data, end = _join(rows, offset, arrived)
    whole = len(rows) < _CHUNKS and (arrived is None or arrived >= job.log_size)
    return _piece(data, end, complete=ended and whole)


def _chunks(session: Session, job_id: str, attempt: int, offset: int) -> list[Any]:
    """Return the chunk in which `offset` is, and those behind it."""
    this = (_log.job_id == job_id, _log.attempt == attempt)
    first = select(func.max(_log.offset)).where(*this, _log.offset <= offset).scalar_subquery()
    query = select(_log.offset, _log.data).where(*this, _log.offset >= func.coalesce(first, 0))
    return list(session.execute(query.order_by(_log.offset).limit(_CHUNKS)).all())


def _join(rows: list[Any], offset: int, arrived: int | None) -> tuple[bytes, int]:
    """Return the bytes from `offset` on, and where they end. Beyond `arrived` a gap is of what may still come."""
    parts = []
    end = offset
    for begin, data in rows:
        if begin > end:
            if arrived is not None and begin > arrived:
                break
            end = begin
        fresh = data[end - begin :]
        parts.append(fresh)
        end += len(fresh)
    return b"".join(parts), end


def _piece(data: bytes, end: int, *, complete: bool) -> Piece:
    """Leave a character that is cut in two to the next piece."""
    if not complete:
        cut = _cut_character(data)
        data, end = data[: len(data) - cut], end - cut
    return Piece(data.decode(errors="replace"), end, complete)


def _cut_character(data: bytes) -> int:
    """Return how many bytes at the end of `data` begin a character of UTF-8 that goes on behind them."""
    for back in range(1, min(4, len(data)) + 1):
        first = data[-back]
        if first & 0xC0 == 0x80:
            continue
        length = 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2 if first >= 0xC0 else 1
        return back if length > back else 0
    return 0
