"""`airflow-mqtt top`: put the parts together and run them."""

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TextIO

from airflow_mqtt.config.printing import plain
from airflow_mqtt.monitor.keys import View, press
from airflow_mqtt.monitor.listener import Link, Listener
from airflow_mqtt.monitor.picture import Picture
from airflow_mqtt.monitor.screen import Where, draw, once
from airflow_mqtt.monitor.settings import MonitorSettings
from airflow_mqtt.monitor.tables import TABLES
from airflow_mqtt.protocol.errors import RefusedError

#: Exit code of who was interrupted: as a shell counts SIGINT.
INTERRUPTED: Final = 130

#: Messages of one picture: more wait for the next, which then follows at once.
BATCH: Final = 5_000

#: Seconds: how long a key may be waited for before the connection is looked at, and how often it is drawn while the
#: first messages come.
_LOOK: Final = 0.2
_FIRST: Final = 3.0

#: Seconds for `--once`: to reach a broker that says no, and one that says nothing; without a retained message until all
#: are taken to have come; and in all.
_REACH: Final = 3.0
_SLOW: Final = 15.0
_QUIET: Final = 1.0
_LONGEST: Final = 60.0


class Watcher:
    """Takes what the listener has into the picture."""

    def __init__(self, listener: Listener, settings: MonitorSettings) -> None:
        self._listener = listener
        self.picture = Picture(settings.root)
        self.link = Link()
        self.retained_at = 0.0
        self.where = Where(plain(str(settings.broker_url)), settings.root)

    def look(self, count: int = BATCH) -> None:
        """Take up to `count` messages."""
        before = self.link
        self.link, messages, dropped = self._listener.take(count)
        if self.link.number > before.number:
            self.picture.connect(self.link.since)
        if not self.link.is_up and self.link.number:
            self.picture.lose(self.link.since)
        for message in messages:
            self.picture.apply(message.topic, message.payload, retained=message.retained, now=message.at)
            if message.retained:
                self.retained_at = time.monotonic()
        if dropped:
            self.picture.dropped["no room"] = max(dropped, self.picture.dropped["no room"])
        self.where = replace(self.where, trouble=_trouble(self.link, self.where.broker))

    def raise_if_denied(self) -> None:
        """One that was never let in has the wrong password: to try again does not mend that."""
        if self.link.is_denied and not self.link.number:
            raise RefusedError(f"broker {self.where.broker}: {self.link.why}; check user and password of --broker-url")


def run(values: dict[str, Any]) -> int:
    """Run with `values` (of `config.settings.resolve`); return the exit code.

    `SettingError` for what the settings together do not allow, `RefusedError` when the broker lets us not in.
    """
    settings = MonitorSettings.of(values)
    view = View(
        table=settings.view or "workers", orders=settings.orders(), wanted=settings.filter, interval=settings.interval
    )
    if not settings.once and _is_terminal(sys.stdin) and _is_terminal(sys.stdout):
        return _watch(settings, view)
    try:
        return _print(settings, view)
    except KeyboardInterrupt:
        return INTERRUPTED


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end. One that is closed is None."""
    return stream is not None and stream.isatty()


# --- once -------------------------------------------------------------------------------------------------


def _print(settings: MonitorSettings, view: View) -> int:
    with Listener(settings) as listener:
        watcher = Watcher(listener, settings)
        _gather(watcher)
    names = [settings.view] if settings.view else list(TABLES)
    try:
        for line in once(watcher.picture, watcher.where, view, names, now=time.time()):
            print(line)  # noqa: T201  what a command line says
        print(end="", flush=True)  # noqa: T201
    except BrokenPipeError:  # whoever reads has seen enough
        _give_up_output()
    except OSError as error:
        _give_up_output()
        raise RefusedError(f"what there is to be said cannot be written: {error.strerror}") from None
    return 0


def _give_up_output() -> None:
    """Else Python tries again when it ends, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _gather(watcher: Watcher) -> None:
    """Wait until what is retained has come. `RefusedError` when the broker cannot be reached."""
    began = time.monotonic()
    reached = None
    while True:
        watcher.look()
        now = time.monotonic()
        watcher.raise_if_denied()
        if watcher.link.is_up:
            reached = now if reached is None else reached
            if now - max(reached, watcher.retained_at) > _QUIET or now - began > _LONGEST:
                return
        elif now - began > (_LONGEST if reached else _REACH if watcher.link.why else _SLOW):
            raise RefusedError(f"broker {watcher.where.broker}: {watcher.link.why or 'no answer'}; check --broker-url")
        time.sleep(0.05)


# --- live -------------------------------------------------------------------------------------------------


def _watch(settings: MonitorSettings, view: View) -> int:
    from airflow_mqtt.monitor.terminal import Terminal  # noqa: PLC0415  some Pythons come without curses

    ended = _Ended()
    with Listener(settings) as listener, Terminal() as terminal:
        watcher = Watcher(listener, settings)
        began, due, drawn = time.monotonic(), 0.0, Link()
        while not (view.has_ended or ended.is_so):
            now = time.monotonic()
            if now >= due or view.is_due:
                watcher.look()
                watcher.raise_if_denied()
                pause = _LOOK if now - began < _FIRST or listener.has_more or not drawn.is_up else view.interval
                due, drawn = now + pause, watcher.link
            columns, lines = terminal.size
            picture, view = draw(
                watcher.picture, replace(view, is_due=False), watcher.where,
                columns=columns, lines=lines, now=time.time(),
            )  # fmt: skip
            terminal.paint(picture)
            view = _pressed(view, terminal, due, ended)
    return 0


def _pressed(view: View, terminal: Any, due: float, ended: "_Ended") -> View:
    """Return the view after the next key, or as it is when the next picture is due."""
    while not ended.is_so and (left := due - time.monotonic()) > 0:
        key = terminal.key(min(left, _LOOK))
        if key is not None:
            return press(view, key)
    return view


class _Ended:
    """Whether somebody wants an end by a signal: then the terminal is put right first."""

    def __init__(self) -> None:
        self.is_so = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with suppress(ValueError):
                signal.signal(number, self._end)

    def _end(self, *_: object) -> None:
        self.is_so = True


def _trouble(link: Link, broker: str) -> str:
    if link.is_up:
        return ""
    since = time.strftime("%H:%M:%S", time.localtime(link.since))
    if not link.number and not link.why:
        return f"connecting to {broker} …"
    return plain(f"no connection since {since}, trying again: {link.why}")
