"""What the person looks at, and what each key makes of it. Pure.

The keys are those of `top`, `htop` and `less`. `KEYS` is one table: `press` looks a key up, and the help shows it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from airflow_mqtt.monitor.tables import TABLES

#: Seconds between two pictures: from, to, and by which factor `+` and `-` change them.
INTERVALS: Final = (0.5, 60.0)
_FACTOR: Final = 2.0

#: Characters of a filter.
_LONGEST_FILTER: Final = 200

#: How the keys without a character are called here.
UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "up", "down", "page up", "page down", "home", "end"
LEFT, RIGHT, TAB, ENTER, ESCAPE, BACKSPACE, RESIZE = "left", "right", "tab", "enter", "esc", "backspace", "resize"


@dataclass(frozen=True, slots=True)
class Order:
    """By which column a table is sorted."""

    column: str
    descending: bool


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at. `first` is the first row shown, `page` how many rows have room, `rows` how many there are."""

    table: str = "workers"
    orders: Mapping[str, Order] = field(default_factory=dict)
    wanted: str = ""  # what the rows must hold
    typed: str | None = None  # a filter while it is typed
    first: int = 0
    page: int = 1
    rows: int = 0
    shows_help: bool = False
    interval: float = 2.0
    is_due: bool = False  # a fresh picture is asked for
    has_ended: bool = False

    @property
    def order(self) -> Order:
        return self.orders.get(self.table) or first_order(self.table)

    def fitted(self, rows: int, page: int) -> "View":
        """Return the view for so many rows, of which `page` have room: none is behind the last one."""
        last = max(0, rows - page)
        return replace(self, rows=rows, page=page, first=min(max(0, self.first), last))


def first_order(table: str) -> Order:
    name = TABLES[table].sorts_by
    return Order(name, TABLES[table].column(name).descending)


def press(view: View, key: str) -> View:
    """Return what `view` is after `key`: one character, or one of the names above."""
    if view.typed is not None:
        return _type(view, view.typed, key)
    if view.shows_help and key not in ("q", "Q", RESIZE):
        return replace(view, shows_help=False)
    act = _ACTS.get(key)
    return view if act is None else act(view)


def _type(view: View, typed: str, key: str) -> View:
    """Take a key of a filter; what is typed so far is what rows must hold."""
    match key:
        case "enter":
            return replace(view, typed=None)
        case "esc":
            return replace(view, typed=None, wanted="", first=0)
        case "backspace":
            typed = typed[:-1]
        case _ if len(key) == 1 and key.isprintable() and len(typed) < _LONGEST_FILTER:
            typed += key
    return replace(view, typed=typed, wanted=typed, first=0)


def _show(table: str) -> Callable[[View], View]:
    return lambda view: replace(view, table=table, first=0)


def _next_table(view: View) -> View:
    names = list(TABLES)
    return _show(names[(names.index(view.table) + 1) % len(names)])(view)


def _scroll(rows: Callable[[View], int]) -> Callable[[View], View]:
    return lambda view: replace(view, first=view.first + rows(view)).fitted(view.rows, view.page)


def _sort(step: int) -> Callable[[View], View]:
    def act(view: View) -> View:
        columns = TABLES[view.table].columns
        names = [column.name for column in columns]
        column = columns[(names.index(view.order.column) + step) % len(names)]
        return _ordered(view, Order(column.name, column.descending))

    return act


def _reverse(view: View) -> View:
    return _ordered(view, replace(view.order, descending=not view.order.descending))


def _ordered(view: View, order: Order) -> View:
    return replace(view, orders={**view.orders, view.table: order}, first=0)


def _pace(factor: float) -> Callable[[View], View]:
    return lambda view: replace(view, interval=min(max(view.interval * factor, INTERVALS[0]), INTERVALS[1]))


@dataclass(frozen=True, slots=True)
class Key:
    """Keys that do one thing, and what that is."""

    keys: tuple[str, ...]
    help: str
    act: Callable[[View], View]


KEYS: Final = (
    Key(("q", "Q"), "quit", lambda view: replace(view, has_ended=True)),
    Key(("h", "?"), "this help", lambda view: replace(view, shows_help=True)),
    Key(("w", "1"), "workers", _show("workers")),
    Key(("u", "2"), "queues", _show("queues")),
    Key(("j", "3"), "jobs", _show("jobs")),
    Key((TAB,), "the next of these tables", _next_table),
    Key(("s", ">", RIGHT), "sort by the next column", _sort(1)),
    Key(("<", LEFT), "sort by the column before", _sort(-1)),
    Key(("r", "R"), "reverse the order", _reverse),
    Key(
        ("/",),
        "show rows that hold some words; Enter keeps them, Esc takes them back",
        lambda view: replace(view, typed=view.wanted),
    ),
    Key((ESCAPE,), "show all rows again", lambda view: replace(view, wanted="", first=0)),
    Key((UP, "k"), "a row up", _scroll(lambda _: -1)),
    Key((DOWN,), "a row down", _scroll(lambda _: 1)),
    Key((PAGE_UP, "b"), "a page up", _scroll(lambda view: -view.page)),
    Key((PAGE_DOWN, "f"), "a page down", _scroll(lambda view: view.page)),
    Key((HOME, "g"), "the first row", _scroll(lambda view: -view.rows)),
    Key((END, "G"), "the last row", _scroll(lambda view: view.rows)),
    Key((" ",), "a fresh picture now", lambda view: replace(view, is_due=True)),
    Key(("+",), "pictures half as often", _pace(_FACTOR)),
    Key(("-",), "pictures twice as often", _pace(1 / _FACTOR)),
)


_ACTS: Final = {key: entry.act for entry in KEYS for key in entry.keys}
