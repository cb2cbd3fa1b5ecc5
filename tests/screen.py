"""As much of a terminal as curses uses of a VT100: what a person would see of the bytes that a program sends."""

import re
import unicodedata

#: One control sequence (ECMA-48), an escape of one or two characters, a control character, or text.
_TOKEN = re.compile(
    r"\x1b\[(?P<given>[0-9;?]*)(?P<act>[@-~])|\x1b(?P<escape>[()#].|[^\[])|(?P<control>[\x00-\x1f])|(?P<text>[^\x00-\x1f]+)"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;?]*|[()#])?\Z")


class Screen:
    """`feed` it what arrives; `lines` is what is seen."""

    def __init__(self, lines: int, columns: int) -> None:
        self._rest = ""
        self._saved = (0, 0)
        self.resize(lines, columns)

    def resize(self, lines: int, columns: int) -> None:
        self._size = (lines, columns)
        self._cells = [[" "] * columns for _ in range(lines)]
        self._line = self._column = 0
        self._region = (0, lines - 1)

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._cells]

    def feed(self, text: str) -> None:
        text = self._rest + text
        unfinished = _UNFINISHED.search(text)
        self._rest = unfinished[0] if unfinished else ""
        for token in _TOKEN.finditer(text[: len(text) - len(self._rest)]):
            match token.lastgroup:
                case "act":
                    numbers = [int(number or 0) for number in token["given"].strip("?").split(";")]
                    self._act(token["act"], numbers)
                case "escape":
                    self._escape(token["escape"])
                case "control":
                    self._control(token["control"])
                case _:
                    self._write(token["text"])

    def _write(self, text: str) -> None:
        for one in text:
            wide = 2 if unicodedata.east_asian_width(one) in "WF" else 1
            if self._column + wide > self._size[1]:
                self._column = 0
                self._feed_line()
            self._cells[self._line][self._column : self._column + wide] = [one, *[""] * (wide - 1)]
            self._column += wide

    def _control(self, one: str) -> None:
        match one:
            case "\r":
                self._column = 0
            case "\n":
                self._feed_line()
            case "\b":
                self._column = max(0, min(self._column, self._size[1] - 1) - 1)
            case "\t":
                self._column = min(self._size[1] - 1, (self._column // 8 + 1) * 8)

    def _feed_line(self) -> None:
        if self._line == self._region[1]:
            self._scroll(self._region[0], self._region[1])
        else:
            self._line = min(self._line + 1, self._size[0] - 1)

    def _scroll(self, gone: int, fresh: int) -> None:
        """Take the line `gone` out, and put an empty one in at `fresh`."""
        del self._cells[gone]
        self._cells.insert(fresh, [" "] * self._size[1])

    def _escape(self, escape: str) -> None:
        match escape:
            case "7":
                self._saved = (self._line, self._column)
            case "8":
                self._line, self._column = self._saved
            case "D":
                self._feed_line()
            case "M" if self._line == self._region[0]:
                self._scroll(self._region[1], self._region[0])
            case "M":
                self._line -= 1

    def _act(self, act: str, numbers: list[int]) -> None:
        lines, columns = self._size
        first = max(1, numbers[0])
        match act:
            case "H":
                self._line = min(first, lines) - 1
                self._column = min(max(1, numbers[1] if len(numbers) > 1 else 1), columns) - 1
            case "A":
                self._line = max(0, self._line - first)
            case "B":
                self._line = min(lines - 1, self._line + first)
            case "C":
                self._column = min(columns - 1, self._column + first)
            case "D":
                self._column = max(0, min(self._column, columns - 1) - first)
            case "K":
                start, end = {0: (self._column, columns), 1: (0, self._column + 1)}.get(numbers[0], (0, columns))
                self._cells[self._line][start:end] = [" "] * (end - start)
            case "J":
                if numbers[0] == 0:
                    self._act("K", [0])
                cleared = {0: range(self._line + 1, lines), 1: range(self._line)}.get(numbers[0], range(lines))
                for line in cleared:
                    self._cells[line] = [" "] * columns
            case "r":
                self._region = (first - 1, (numbers[1] if len(numbers) > 1 else lines) - 1)
                self._line = self._column = 0
