"""What all queries share: pages, patterns of names, and what stands in the documents of a row."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import orjson
from sqlalchemy import (
    JSON,
    ColumnElement,
    FromClause,
    Numeric,
    Select,
    String,
    any_,
    case,
    cast,
    column,
    func,
    literal,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.database.access import EVERY
from airflow_mqtt.database.documents import is_damaged
from airflow_mqtt.database.errors import is_unfit
from airflow_mqtt.protocol.errors import PayloadError

T = TypeVar("T")

_worker = tables.worker.c

#: Rows of the largest page. Whoever wants all asks for one page after the other.
MAX_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """Which of the rows, in which order. `sort` is one of those that the query names."""

    sort: str = ""
    descending: bool = False
    offset: int = 0
    limit: int = 100


class Found(NamedTuple):
    """The rows of one page, and how many there are in all."""

    total: int
    rows: list[dict[str, Any]]


def order_of(
    page: Page, columns: Mapping[str, ColumnElement[Any]], last: ColumnElement[Any]
) -> tuple[ColumnElement[Any], ...]:
    """Return what to order by; `last` decides between equals. Raises `PayloadError` when there is no such column."""
    if page.sort not in columns:
        raise PayloadError(f"nothing is sorted by {page.sort[:50]!r}: {', '.join(columns)}")
    keys = (columns[page.sort], last)
    return tuple(key.desc() for key in keys) if page.descending else keys


def page_of(session: Session, query: Select[Any], page: Page) -> tuple[int, Sequence[Any]]:
    """Return how many rows `query` finds in all, and those of `page`.

    They are counted only where the page does not say by itself how many there are: what few rows are like may be a
    look at each.
    """
    rows = session.execute(query.offset(page.offset).limit(page.limit)).all()
    if len(rows) < page.limit and (rows or not page.offset):
        return page.offset + len(rows), rows
    counted = query.with_only_columns(func.count(), maintain_column_froms=True).order_by(None)
    return session.scalar(counted) or 0, rows


def as_dict(row: Any) -> dict[str, Any]:
    """Return a row with the names of its columns as plain texts: SQLAlchemy's own kind of text is no key in JSON."""
    return {str(name): value for name, value in zip(row._fields, row, strict=True)}


# --- patterns ---------------------------------------------------------------------------------------------------


def is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def matches(session: Session, column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """Whether `column` is `pattern`, in which `*` stands for any text. Letters are as they are, large or small."""
    if EVERY not in pattern:
        return column == pattern
    if is_sqlite(session):  # where LIKE takes a for A
        return column.op("GLOB", is_comparison=True)("".join(f"[{one}]" if one in "?[" else one for one in pattern))
    return column.like("%".join(_escaped(part) for part in pattern.split(EVERY)), escape="\\")


def _escaped(text: str) -> str:
    return "".join(f"\\{one}" if one in "\\%_" else one for one in text)


# --- documents --------------------------------------------------------------------------------------------------
#
# They are JSON as text. Both databases read it, each in its own words.


class Documents(NamedTuple):
    """The documents of a worker's row, as conditions may read them."""

    info: ColumnElement[str]
    status: ColumnElement[str]
    desired: ColumnElement[str]


def reading(session: Session, team_name: str, look: Callable[[Documents], T]) -> T:
    """Return what `look` finds, which reads documents of the workers of a team in SQL. Damaged ones count as empty.

    SQLite knows a damaged one. PostgreSQL (before its version 16) gives up instead; then it is told which they are.
    """
    if is_sqlite(session):
        return look(_documents(lambda column: func.json_valid(column) == 0))
    try:
        with session.begin_nested():  # what fails would take the caller's transaction with it
            return look(Documents(_worker.info, _worker.status, _worker.desired))
    except DBAPIError as error:
        if not is_unfit(error):
            raise
    damaged = _damaged(session, team_name)
    return look(_documents(lambda _: _worker.name.in_(damaged)))


def _documents(is_damaged: Callable[[ColumnElement[str]], ColumnElement[bool]]) -> Documents:
    return Documents(
        *(case((is_damaged(column), "{}"), else_=column) for column in (_worker.info, _worker.status, _worker.desired))
    )


def _damaged(session: Session, team_name: str) -> Collection[str]:
    """Return the names of the workers with a document that is damaged. It reads all rows of the team."""
    query = select(_worker.name, _worker.info, _worker.status, _worker.desired).where(_worker.team_name == team_name)
    return [name for name, *documents in session.execute(query) if any(map(is_damaged, documents))]


def number_in(session: Session, document: ColumnElement[Any], key: str) -> ColumnElement[Any]:
    """Return the number `key` of a document; null where it is not."""
    return cast(text_in(session, document, key), Numeric)


def text_in(session: Session, document: ColumnElement[Any], key: str) -> ColumnElement[Any]:
    """Return the text `key` of a document; null where it is not. Of `key` nobody else chooses a word."""
    if is_sqlite(session):
        return func.json_extract(document, f"$.{key}")
    return func.json_extract_path_text(cast(document, JSON), key)


def items_of(session: Session, document: ColumnElement[Any], name: str) -> tuple[FromClause, ColumnElement[Any]]:
    """Return the texts of a document that is a list, as a table called `name`, and that table's one column."""
    if is_sqlite(session):
        each = func.json_each(document).table_valued("value", name=name)
        return each, each.c.value
    listed = func.json_array_elements_text(cast(document, JSON)).table_valued(column("value", String))
    items = listed.render_derived(name)
    return items, items.c.value


def sent(session: Session, values: Collection[str]) -> tuple[FromClause, ColumnElement[Any]]:
    """Return texts as a table, and its one column, for a statement that is the same however many they are.

    They travel as one parameter. An `IN` with a thousand of them takes SQLAlchemy and PostgreSQL longer to read than
    to answer.
    """
    return items_of(session, literal(orjson.dumps(list(values)).decode(), String), "sent")


def among(session: Session, key: ColumnElement[str], values: Collection[str]) -> ColumnElement[bool]:
    """Whether `key`, which has an index, is one of `values`, sent as one parameter."""
    wanted = select(sent(session, values)[1])
    if is_sqlite(session):
        return key.in_(wanted)
    # PostgreSQL takes such a table for one of 100 rows, and may read all rows for it. For an array it uses the index.
    return key == any_(func.array(wanted.scalar_subquery()))


def has_label(session: Session, document: ColumnElement[Any], label: str) -> ColumnElement[bool]:
    """Whether the labels of a document have this one: `key=value`, or `key` whatever its value is."""
    key, said, value = label.partition("=")
    if is_sqlite(session):
        pair = func.json_each(document, "$.labels").table_valued("key", "value")
        same = (pair.c.key == key, pair.c.value == value) if said else (pair.c.key == key,)
        return select(pair.c.key).where(*same).exists()
    found = func.json_extract_path_text(cast(document, JSON), "labels", key)
    return found == value if said else found.is_not(None)
