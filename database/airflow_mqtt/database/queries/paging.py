"""What all queries share: pages, patterns of names, and what stands in the documents of a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import JSON, ColumnElement, Numeric, Select, cast, func, select
from sqlalchemy.orm import Session

from airflow_mqtt.database.access import EVERY
from airflow_mqtt.protocol.errors import PayloadError

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
# They are JSON as text. Both databases read it, each in its own words. Only the bridge and operators write them.


def read(document: str) -> dict[str, Any]:
    """Return a document; an empty one in place of one that nobody can read."""
    try:
        found = orjson.loads(document)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def number_in(session: Session, document: ColumnElement[Any], key: str) -> ColumnElement[Any]:
    """Return the number `key` of a document; null where it is not."""
    return cast(text_in(session, document, key), Numeric)


def text_in(session: Session, document: ColumnElement[Any], key: str) -> ColumnElement[Any]:
    """Return the text `key` of a document; null where it is not. Of `key` nobody else chooses a word."""
    if is_sqlite(session):
        return func.json_extract(document, f"$.{key}")
    return func.json_extract_path_text(cast(document, JSON), key)


def has_label(session: Session, document: ColumnElement[Any], label: str) -> ColumnElement[bool]:
    """Whether the labels of a document have this one: `key=value`, or `key` whatever its value is."""
    key, said, value = label.partition("=")
    if is_sqlite(session):
        pair = func.json_each(document, "$.labels").table_valued("key", "value")
        same = (pair.c.key == key, pair.c.value == value) if said else (pair.c.key == key,)
        return select(pair.c.key).where(*same).exists()
    found = func.json_extract_path_text(cast(document, JSON), "labels", key)
    return found == value if said else found.is_not(None)
