"""What code does while it is watched: what it reads, and whether a process that has run it may be forked for tasks.

Used for the parse of a Dag file. Its Dags may be kept for as long as nothing that it has read changes, and only when it
has done nothing that each task must do anew.
"""

import atexit
import builtins
import contextlib
import functools
import importlib.machinery
import importlib.util
import io
import os
import select
import selectors
import signal
import site
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

#: Of a file or a directory: times of its last changes (ns), size, inode. None: it is not there.
Stamp = tuple[int, int, int, int] | None

#: Who reads more than this costs too much to look at before each task.
MAX_FILES = 2000

#: Not files, though they look like some.
UNSTABLE = ("/proc/", "/sys/")

#: Names in the environment that say for which Dag and task a file is parsed.
PARSING_CONTEXT = ("_AIRFLOW_PARSING_CONTEXT_", "AIRFLOW_CTX_")


def stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116  called for each file before each task
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


class Watch:
    """Watches the code in its `with` block. `own` is where all that is read counts, installed packages or not.

    `why` is then what makes it unfit, or empty; `stamps` what it read, each taken before it was.
    """

    def __init__(self, own: Path) -> None:
        self._own = _folder(own)
        self._undo = contextlib.ExitStack()
        self._on = False
        self.why = ""
        self.stamps: dict[str, Stamp] = {}

    def __enter__(self) -> Self:
        self._before = _standing()
        self._descriptors = _descriptors()
        for owner, name, note in self._taps():
            self._replace(owner, name, _Tap(getattr(owner, name), note, self))
        self._replace(importlib.machinery.SourceFileLoader, "get_data", self._loader())
        for owner, name, what in _FORBIDDEN:
            self._replace(owner, name, self._forbidding(getattr(owner, name), what))
        self._undo.enter_context(_watched_environment(self))
        self._on = True
        return self

    def __exit__(self, *_: object) -> None:
        self._on = False
        self._undo.close()
        if _standing() != self._before:
            self.unfit("it replaces what a supervisor stands on, or starts a thread")
        if _descriptors() - self._descriptors:
            self.unfit("it leaves a file or a socket open")

    def unfit(self, why: str) -> None:
        self.why = self.why or why

    def read(self, path: Any) -> None:
        """Note that `path` is about to be read."""
        if not self._on or isinstance(path, int):
            return
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  links are not followed: they may change
        if name.startswith(UNSTABLE):
            self.unfit(f"it reads {name}")
        elif f"{name}/".startswith(self._own) or not name.startswith(_INSTALLED):
            self.stamps.setdefault(name, stamp(name))
            if len(self.stamps) > MAX_FILES:
                self.unfit(f"it reads more than {MAX_FILES} files")

    def _taps(self) -> Iterator[tuple[Any, str, Callable[..., None]]]:
        def opened(path: Any, mode: str = "r", *_: Any, **__: Any) -> None:
            if not set("wax+") & set(mode):
                self.read(path)

        def opened_low(path: Any, flags: int, *_: Any, **__: Any) -> None:
            if not flags & (os.O_WRONLY | os.O_RDWR):
                self.read(path)

        def listed(path: Any = ".", *_: Any, **__: Any) -> None:
            self.read("." if path is None else path)

        yield builtins, "open", opened
        yield io, "open", opened
        yield os, "open", opened_low
        yield os, "listdir", listed
        yield os, "scandir", listed

    def _loader(self) -> Any:
        get_data = importlib.machinery.SourceFileLoader.get_data

        def watched(loader: Any, path: Any) -> bytes:
            with contextlib.suppress(ValueError):  # it is the source itself
                path_of_source = importlib.util.source_from_cache(path)
                self.read(path_of_source)
                return get_data(loader, path)
            self.read(path)
            return get_data(loader, path)

        return watched

    def _forbidding(self, wrapped: Any, what: str) -> Any:
        @functools.wraps(wrapped)
        def noting(*arguments: Any, **options: Any) -> Any:
            if self._on:
                self.unfit(what)
            return wrapped(*arguments, **options)

        return noting

    def _replace(self, owner: Any, name: str, by: Any) -> None:
        before = vars(owner).get(name)
        setattr(owner, name, by)
        if before is None:  # it was inherited
            self._undo.callback(delattr, owner, name)
        else:
            self._undo.callback(setattr, owner, name, before)


class _Tap:
    """In the place of a builtin function; like one it does not become a method where a class has it."""

    def __init__(self, wrapped: Any, note: Callable[..., None], watch: Watch) -> None:
        functools.update_wrapper(self, wrapped)
        self._wrapped = wrapped
        self._note = note
        self._watch = watch

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with contextlib.suppress(TypeError, ValueError):  # wrong arguments: the function itself says so
            self._note(*arguments, **options)
        return self._wrapped(*arguments, **options)


_FORBIDDEN = (
    (atexit, "register", "it wants something done at its end"),  # which the SDK forgets in a fork
    (socket.socket, "__init__", "it opens a socket"),
    (socket, "getaddrinfo", "it asks the resolver"),
    (threading.Thread, "start", "it starts a thread"),
    (subprocess.Popen, "__init__", "it starts a process"),
    *((os, name, "it starts a process") for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system")),
)


def _folder(path: str | Path) -> str:
    return os.path.join(os.path.abspath(path), "")  # noqa: PTH100, PTH118  a text that ends with a slash


#: What is installed changes with a restart of the worker, as for all that the warm process has loaded.
_INSTALLED = tuple(
    _folder(path)
    for path in (
        *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
    )
)


@contextlib.contextmanager
def _watched_environment(watch: Watch) -> Iterator[None]:
    """Note who asks for which Dag and task a file is parsed."""
    plain = type(os.environ)

    class Watched(plain):  # type: ignore[misc, valid-type]
        def __getitem__(self, key: str) -> str:
            if isinstance(key, str) and key.startswith(PARSING_CONTEXT):
                watch.unfit("it reads the parsing context")
            return str(super().__getitem__(key))

    os.environ.__class__ = Watched
    try:
        yield
    finally:
        os.environ.__class__ = plain


def _standing() -> tuple[Any, ...]:
    """Return what supervisors rely on, and what must not be forked."""
    tasks = Path("/proc/self/task")
    return (
        len(list(tasks.iterdir())) if tasks.exists() else threading.active_count(),
        os.getcwd(),  # noqa: PTH109
        *(signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)),
        *(os.fork, os.waitpid, os.kill, os.read, os.write, time.sleep, select.select, selectors.DefaultSelector),
        *(socket.socket, socket.socketpair, threading.Thread.start, subprocess.Popen, builtins.open),
    )


def _descriptors() -> set[str]:
    found = Path("/proc/self/fd")
    return (
        {entry.name for entry in found.iterdir() if entry.exists() or entry.is_symlink()} if found.exists() else set()
    )
