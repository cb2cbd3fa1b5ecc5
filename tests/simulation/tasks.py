"""Coroutines without an event loop: what awaits here is resumed by the simulation."""

from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Future:
    """As much of `asyncio.Future` as the bridge awaits."""

    def __init__(self) -> None:
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._then: list[Callable[[], None]] = []

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any) -> None:
        self._result = result
        self._finish()

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self._done = True
        then, self._then = self._then, []
        for callback in then:
            callback()

    def when_done(self, callback: Callable[[], None]) -> None:
        if self._done:
            callback()
        else:
            self._then.append(callback)

    def __await__(self) -> Generator["Future", None, Any]:
        if not self._done:
            yield self
        if self._error is not None:
            raise self._error
        return self._result


Pause = Future


def run(work: Coroutine[Any, Any, Any], ended: Callable[[BaseException | None], None]) -> None:
    """Run `work` until it has ended, however often it waits; then call `ended` with its error, if it has one."""

    def step() -> None:
        try:
            waits_for = work.send(None)
        except StopIteration:
            ended(None)
        except BaseException as error:
            ended(error)
        else:
            waits_for.when_done(step)

    step()
