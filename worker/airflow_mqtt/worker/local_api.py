"""The local socket at which runners make their calls, and people on the device ask something of the worker."""

import contextlib
import itertools
import logging
import selectors
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Method
from airflow_mqtt.protocol.topics import JOB_ID
from airflow_mqtt.worker.core.calls import LocalCall, detail_body
from airflow_mqtt.worker.core.commands import Act, Command
from airflow_mqtt.worker.core.effects import Answer
from airflow_mqtt.worker.frames import UNREAD, Unpacker, pack
from airflow_mqtt.worker.unix_sockets import listen

log = logging.getLogger(__name__)

#: Leaves room for the counter of `Call.wire_id`.
MAX_CALL_ID = 48

#: Connections of one attempt, and those on which nobody has shown a key yet. A runner makes one, and calls on it at
#: once; anybody on the device can make more, until no descriptor is left.
MAX_OF_AN_ATTEMPT = 8
MAX_UNKNOWN = 64

#: Different words about what came that are said; anybody on the device can make us say them.
MAX_SAID = 16


@dataclass(slots=True)
class _Connection:
    channel: socket.socket
    unpacker: Unpacker
    outgoing: bytearray = field(default_factory=bytearray)
    of: tuple[str, int] | None = None  # the attempt whose key came
    began: int = 0  # when the frame began that is unfinished here: a number that grows; 0 when there is none


class LocalApi:
    """A listener and its connections, registered with the selector of the worker's loop.

    Any process of the worker's user may connect, and ask what a person may: it could as well signal the worker. A call
    in the name of a job needs a key; `admits` says whether one is that of a runner of an attempt.
    `max_bytes` bounds a frame, all unfinished ones together, and what one connection does not read.
    """

    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        *,
        admits: Callable[[str, int, str], bool],
        max_bytes: int,
    ) -> None:
        self._admits = admits
        self._max_bytes = max_bytes
        self._beginnings = itertools.count(1)
        self._said: set[str] = set()
        self._selector = selector
        self._listener = listen(path)
        self._connections: dict[int, _Connection] = {}
        self._last_token = 0
        self.hung_up: list[int] = []
        selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._calls: list[LocalCall] = []
        self._commands: list[Command] = []

    def take(self) -> tuple[list[LocalCall], list[int]]:
        """Return the calls that came, and the tokens of connections that closed."""
        calls, self._calls = self._calls, []
        closed, self.hung_up = self.hung_up, []
        return calls, closed

    def take_commands(self) -> list[Command]:
        """Return what people on the device have asked."""
        commands, self._commands = self._commands, []
        return commands

    def _accept(self, _mask: int) -> None:
        try:
            channel, _ = self._listener.accept()
        except OSError:
            return
        channel.setblocking(False)
        self._close_oldest(None, MAX_UNKNOWN - 1)
        self._last_token += 1
        token = self._last_token
        self._connections[token] = _Connection(channel, Unpacker(self._max_bytes))
        self._selector.register(channel, selectors.EVENT_READ, lambda mask: self._ready(token, mask))

    def _close_oldest(self, of: tuple[str, int] | None, most: int) -> None:
        """Close what is more than `most` connections of an attempt, or of nobody; a runner whose it was comes again."""
        found = [token for token, connection in self._connections.items() if connection.of == of]
        for token in found[:-most]:
            self._close(token)

    def _ready(self, token: int, mask: int) -> None:
        connection = self._connections.get(token)
        if connection is None:
            return  # closed since the selector saw it
        try:
            if mask & selectors.EVENT_READ:
                self._calls += self._read(token, connection)
            if mask & selectors.EVENT_WRITE:
                self._write(token, connection)
        except (OSError, PayloadError) as error:
            if isinstance(error, PayloadError):
                self._refuse(connection, str(error))
            self._close(token)

    def _refuse(self, connection: _Connection, why: str) -> None:
        """Answer what cannot be read: whoever asks again what is refused would do so for ever."""
        if len(self._said) < MAX_SAID and why not in self._said:
            self._said.add(why)
            log.warning("closing a connection of the local socket: %s", why)
        answer = {"id": UNREAD, "status": 400, "headers": {"content-type": "application/json"}}
        with contextlib.suppress(OSError):
            connection.channel.send(pack(answer | {"body": detail_body("malformed", why)}))

    def _read(self, token: int, connection: _Connection) -> Iterator[LocalCall]:
        try:
            data = connection.channel.recv(262144)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError
        for frame in connection.unpacker.feed(data):
            connection.began = 0
            if "command" in frame:
                self._commands.append(parse_command(token, frame))
                continue
            yield self._admitted(parse_call(token, frame), connection, frame.get("key", ""))
        self._bound(connection)

    def _admitted(self, call: LocalCall, connection: _Connection, key: Any) -> LocalCall:
        if not self._admits(call.job, call.attempt, str(key)):
            raise PayloadError("a call in a job's name without that job's key")
        if connection.of != (call.job, call.attempt):
            connection.of = (call.job, call.attempt)
            self._close_oldest(connection.of, MAX_OF_AN_ATTEMPT)
        return call

    def _bound(self, read: _Connection) -> None:
        """Close those whose frames have been unfinished for longest while there is too much of it in all.

        A runner's frame is finished within milliseconds, so it is not the oldest.
        """
        if not read.unpacker.waiting:
            read.began = 0
            return
        read.began = read.began or next(self._beginnings)
        unfinished = {token: item for token, item in self._connections.items() if item.unpacker.waiting}
        for token in sorted(unfinished, key=lambda token: unfinished[token].began):
            if sum(item.unpacker.waiting for item in unfinished.values()) <= self._max_bytes:
                return
            self._refuse(unfinished.pop(token), "unfinished frames hold too much memory")
            self._close(token)

    def answer(self, effect: Answer) -> None:
        """Send an answer; if its connection is gone, the runner asks again."""
        connection = self._connections.get(effect.token)
        if connection is None:
            return
        frame = {"id": effect.id, "status": effect.status, "headers": dict(effect.headers), "body": effect.body}
        connection.outgoing += pack(frame)
        try:
            self._write(effect.token, connection)
        except OSError:
            self._close(effect.token)
            return
        if len(connection.outgoing) > self._max_bytes:
            self._close(effect.token)  # it asks and does not read

    def _write(self, token: int, connection: _Connection) -> None:
        try:
            sent = connection.channel.send(connection.outgoing)
        except BlockingIOError:
            sent = 0
        del connection.outgoing[:sent]
        interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outgoing else 0)
        self._selector.modify(connection.channel, interest, lambda mask: self._ready(token, mask))

    def _close(self, token: int) -> None:
        connection = self._connections.pop(token, None)
        if connection is not None:
            self._selector.unregister(connection.channel)
            connection.channel.close()
            self.hung_up.append(token)

    def close(self) -> None:
        for token in list(self._connections):
            self._close(token)
        self._selector.unregister(self._listener)
        self._listener.close()


def parse_call(token: int, frame: dict[str, Any]) -> LocalCall:
    """Return the call in `frame`; `PayloadError` when a field does not fit."""
    text = {name: frame.get(name) for name in ("id", "job", "method", "path", "query", "body")}
    headers = frame.get("headers") or {}
    attempt = frame.get("attempt")
    fits = (
        all(isinstance(text[name], str) for name in ("id", "job", "method", "path"))
        and isinstance(text["query"] or "", str)
        and isinstance(text["body"] or "", str)
        and isinstance(headers, dict)
        and all(isinstance(item, str) for item in headers.values())
        and isinstance(attempt, int)
        and JOB_ID.fullmatch(str(text["id"])) is not None
        and len(str(text["id"])) <= MAX_CALL_ID
        and text["method"] in frozenset(Method)
    )
    if not fits:
        raise PayloadError("a call on the local socket does not have the fields it must have")
    return LocalCall(
        token=token,
        id=str(text["id"]),
        job=str(text["job"]),
        attempt=int(attempt or 0),
        method=str(text["method"]),
        path=str(text["path"]).lstrip("/"),
        query=text["query"] or "",
        headers=headers,
        body=text["body"],
    )


def parse_command(token: int, frame: dict[str, Any]) -> Command:
    """Return the command in `frame`; `PayloadError` when a field does not fit."""
    given = [frame["command"], frame.get("id"), frame.get("comment", "")]
    act, name, comment = texts = [str(item) for item in given]
    if texts != given or act not in frozenset(Act) or JOB_ID.fullmatch(name) is None:
        raise PayloadError("a command on the local socket is none that this version knows")
    return Command(token, name, Act(act), comment)
