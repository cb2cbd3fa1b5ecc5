"""A headless Chromium that is driven over its DevTools protocol, through a pair of pipes: no port, no other library."""

import base64
import contextlib
import itertools
import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

#: How long a page may take to show what is waited for, on a machine that does much else.
PATIENCE = 180.0


class PageError(Exception):
    """A script of a test failed in the page, or what it waited for did not come."""


class Browser:
    """A browser with a profile of its own below `directory`, and one page."""

    def __init__(self, program: str, directory: Path, *, size: tuple[int, int] = (1500, 900)) -> None:
        to_read, their_output = os.pipe()
        their_input, to_write = os.pipe()
        command = [
            program, "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={directory}",
            f"--window-size={size[0]},{size[1]}", "--hide-scrollbars", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        # Chromium reads requests from descriptor 3 and writes to 4.
        moved = f'exec "$@" 3<&{their_input} 4>&{their_output}'
        self.process = subprocess.Popen(
            ["bash", "-c", moved, "chromium", *command],
            pass_fds=(their_input, their_output),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_input)
        os.close(their_output)
        self._reader, self._writer = os.fdopen(to_read, "rb"), os.fdopen(to_write, "wb", buffering=0)
        self._ids = itertools.count(1)
        self._rest = b""
        self._session: str | None = None
        self.forget()
        found = self.call("Target.getTargets")["targetInfos"]
        target = next(info["targetId"] for info in found if info["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Inspector", "Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def forget(self) -> None:
        """Begin anew to note what happens."""
        #: What the page's scripts had to complain of, and what was answered to their requests: (status, address).
        self.complaints: list[str] = []
        self.answers: list[tuple[int, str]] = []
        #: What the network did not bring, and why.
        self.failures: list[str] = []
        self._addresses: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.close()

    # --- the protocol

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a method of the DevTools protocol."""
        number = next(self._ids)
        request: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            request["sessionId"] = self._session
        self._writer.write(json.dumps(request).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == number:
                if "error" in message:
                    raise PageError(f"{method}: {message['error']}")
                return message["result"]
            self._hear(message)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            readable, _, _ = select.select([self._reader], [], [], PATIENCE)
            more = os.read(self._reader.fileno(), 1 << 16) if readable else b""
            if not readable:
                raise PageError(f"the browser has said nothing for {PATIENCE} s")
            if not more:
                raise PageError("the browser has ended")
            self._rest += more
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)

    def _hear(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        match message.get("method"):
            case "Inspector.targetCrashed":
                raise PageError("the page has crashed")
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"])[:2000])
            case "Runtime.consoleAPICalled" if said["type"] == "error":
                self.complaints.append(
                    " ".join(str(each.get("value", each.get("description"))) for each in said["args"])
                )
            case "Network.loadingFailed" if not said.get("canceled"):
                self.failures.append(f"{self._addresses.get(said['requestId'])}: {said['errorText']}")
            case "Network.requestWillBeSent":
                self._addresses[said["requestId"]] = said["request"]["url"]
            case "Network.responseReceived":
                self.answers.append((said["response"]["status"], said["response"]["url"]))

    # --- what a person does

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        if "exceptionDetails" in done:
            raise PageError(f"{script}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def text(self) -> str:
        """Return what is there to be read."""
        return self.run("document.body ? document.body.innerText : ''") or ""

    def await_true(self, script: str, *, what: str = "") -> None:
        """Wait until an expression is true in the page. One that cannot be had is not: a new page is empty at first."""

        def look() -> bool:
            try:
                return bool(self.run(f"Boolean({script})"))
            except PageError:
                if self.process.poll() is not None:
                    raise
                return False

        self.await_value(look, what=what or script)

    def await_value(self, look: Callable[[], Any], *, what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := look()):
            if time.monotonic() > deadline:
                raise PageError(
                    f"never seen: {what}\n{self.complaints}\n{self.failures}\n--- the page says\n{self.text()}"
                )
            time.sleep(0.05)
        return found

    def await_text(self, *texts: str) -> str:
        """Wait until the page says all of it, and return what it says."""
        self.await_value(lambda: all(each in self.text() for each in texts), what=" and ".join(texts))
        return self.text()

    def click(self, selector: str, text: str = "") -> None:
        """Click the first element of `selector` that can be clicked and says exactly `text`, once it is there."""
        script = f"""(() => {{
            const all = [...document.querySelectorAll({json.dumps(selector)})];
            const one = all.find((each) => !each.disabled && each.offsetParent !== null
                && ({json.dumps(text)} === "" || each.textContent.trim() === {json.dumps(text)}));
            if (one) one.click();
            return Boolean(one);
        }})()"""
        self.await_true(script, what=f"{selector} {text!r} to click")

    def fill(self, selector: str, text: str) -> None:
        """Write into a field, as typing does: React hears of it."""
        script = f"""(() => {{
            const one = document.querySelector({json.dumps(selector)});
            if (!one) return false;
            const kind = {{TEXTAREA: HTMLTextAreaElement, SELECT: HTMLSelectElement}}[one.tagName] ?? HTMLInputElement;
            Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(one, {json.dumps(text)});
            one.dispatchEvent(new Event(one.tagName === "SELECT" ? "change" : "input", {{bubbles: true}}));
            return true;
        }})()"""
        self.await_true(script, what=f"{selector} to fill")

    def picture(self, path: Path, *, width: int, height: int) -> None:
        """Keep what is seen in a window of this size, as a PNG."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        try:
            path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        finally:
            self.call("Emulation.clearDeviceMetricsOverride")
