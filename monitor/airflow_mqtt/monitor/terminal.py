"""curses: lines onto the screen, keys from the keyboard, and the terminal as it was when we leave."""

import contextlib
import curses
import locale
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from airflow_mqtt.monitor import keys, tables
from airflow_mqtt.monitor.screen import Line
from airflow_mqtt.protocol.errors import SettingError

_NAMES: Final = {
    curses.KEY_UP: keys.UP,
    curses.KEY_DOWN: keys.DOWN,
    curses.KEY_LEFT: keys.LEFT,
    curses.KEY_RIGHT: keys.RIGHT,
    curses.KEY_PPAGE: keys.PAGE_UP,
    curses.KEY_NPAGE: keys.PAGE_DOWN,
    curses.KEY_HOME: keys.HOME,
    curses.KEY_END: keys.END,
    curses.KEY_ENTER: keys.ENTER,
    curses.KEY_BACKSPACE: keys.BACKSPACE,
    curses.KEY_RESIZE: keys.RESIZE,
}
_CHARACTERS: Final = {
    "\n": keys.ENTER,
    "\r": keys.ENTER,
    "\t": keys.TAB,
    "\x1b": keys.ESCAPE,
    "\x7f": keys.BACKSPACE,
    "\b": keys.BACKSPACE,
}

#: Milliseconds in which the rest of a key's escape sequence must come: longer, and Esc seems to hang.
_ESCAPE_DELAY: Final = 50

_COLOURS: Final = {
    tables.GOOD: curses.COLOR_GREEN,
    tables.WARN: curses.COLOR_YELLOW,
    tables.BAD: curses.COLOR_RED,
}


class Terminal:
    """The terminal, taken over for as long as the `with` lasts. `SettingError` where it cannot be."""

    def __enter__(self) -> Self:
        locale.setlocale(locale.LC_ALL, "")
        self._encoding = locale.getencoding()
        try:
            curses.setupterm(os.environ.get("TERM", "dumb"), sys.stdout.fileno())
            self._window = curses.initscr()
        except curses.error as error:
            raise SettingError(f"this terminal cannot be drawn on ({error}): set TERM, or give --once") from None
        try:
            self._set_up()
        except BaseException:
            curses.endwin()
            raise
        return self

    def _set_up(self) -> None:
        curses.noecho()
        curses.cbreak()
        curses.set_escdelay(_ESCAPE_DELAY)
        self._window.keypad(True)
        self._attributes = {tables.TITLE: curses.A_BOLD, tables.HEAD: curses.A_REVERSE, tables.DIM: curses.A_DIM}
        with contextlib.suppress(curses.error):  # a terminal without such
            curses.curs_set(0)
        with contextlib.suppress(curses.error):
            curses.start_color()
            curses.use_default_colors()
            for number, (style, colour) in enumerate(_COLOURS.items(), start=1):
                curses.init_pair(number, colour, -1)
                self._attributes[style] = curses.color_pair(number)

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._window.keypad(False)
        curses.nocbreak()
        curses.echo()
        curses.endwin()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        lines, columns = self._window.getmaxyx()
        return columns, lines

    def paint(self, lines: Sequence[Line]) -> None:
        """Draw `lines`; curses sends what has changed."""
        self._window.erase()
        for number, line in enumerate(lines):
            # It cannot put the cursor behind the last cell of all, nor onto a line that a resize has just taken.
            with contextlib.suppress(curses.error):
                self._window.move(number, 0)
                for text, style in line:
                    known = text.encode(self._encoding, "replace").decode(self._encoding)
                    self._window.addstr(known, self._attributes.get(style, curses.A_NORMAL))
        self._window.refresh()

    def key(self, wait: float) -> str | None:
        """Return the next key, as `keys.press` takes it, or None when none comes within `wait` seconds."""
        self._window.timeout(max(0, int(wait * 1000)))
        try:
            key = self._window.get_wch()
        except curses.error:  # none came, or a signal
            return None
        if isinstance(key, int):
            if key == curses.KEY_RESIZE:
                curses.update_lines_cols()
            return _NAMES.get(key, "")
        return _CHARACTERS.get(key, key)
