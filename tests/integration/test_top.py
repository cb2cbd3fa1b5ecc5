"""`airflow-mqtt top` on a terminal of its own, against a real Mosquitto with its rules and statuses as peers say them."""

import codecs
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import servers
from airflow_mqtt.protocol.messages import BridgeStatus, JobStatus, QueueStatus, WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind, Topics
from demo.edge import program
from demo.site import clean_environment
from mqtt_peer import Peer
from screen import Screen
from servers import wait_for

TOPICS = Topics()


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[servers.Mosquitto]:
    with servers.mosquitto(tmp_path_factory.mktemp("broker"), accounts=["edge-1"]) as server:
        yield server


@pytest.fixture(scope="module")
def fleet(broker) -> Iterator[Peer]:
    """What a bridge and its workers have said."""
    with Peer(broker.url("bridge")) as peer:
        say(peer, TOPICS.bridge_status, BridgeStatus(state="leading", instance="site-1", epoch=3, ts=time.time()))
        for number in range(1, 31):
            tell_worker(peer, f"edge-{number}")
        figures = QueueStatus(queued=4, running=1, oldest_age=9, workers_online=30, free_slots=59, ts=time.time())
        say(peer, TOPICS.queue_status("edge"), figures)
        yield peer


def say(peer: Peer, topic: str, message, *, retain: bool = True) -> None:
    peer.publish(topic, message.encode(), retain=retain)


def tell_worker(peer: Peer, name: str, **values) -> None:
    given = {
        "state": "idle",
        "connection": 1,
        "instance": "i",
        "ts": time.time(),
        "slots": 2,
        "free": 2,
        "running": 0,
        "interval": 3600.0,
    }
    say(peer, TOPICS.worker(name, TopicKind.STATUS), WorkerStatus(**{**given, **values}))


def command(url: str, *options: str) -> list[str]:
    return [program(), "top", "--broker-url", url, *options]


def environment(**more: str) -> dict[str, str]:
    # Where these are set, a terminal is as large as they say.
    kept = {name: value for name, value in clean_environment().items() if name not in ("LINES", "COLUMNS")}
    return {**kept, "TERM": "vt100", "LC_ALL": "C.UTF-8", **more}


def once(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(url, *options), capture_output=True, text=True, timeout=90, check=False, env=environment()
    )


class Window:
    """A terminal with the program in it: `screen` is what a person sees, `raw` all that was sent."""

    def __init__(self, arguments: list[str], **more: str) -> None:
        self.master, self._slave = pty.openpty()
        self.raw = b""
        self._screen = Screen(30, 180)
        self._size(30, 180)
        self._before = termios.tcgetattr(self._slave)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.process = subprocess.Popen(
            arguments,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment(**more),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while not self._closed.is_set():
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if ready:
                data = os.read(self.master, 65536)
                with self._lock:
                    self.raw += data
                    self._screen.feed(decoder.decode(data))

    @property
    def lines(self) -> list[str]:
        with self._lock:
            return self._screen.lines

    def _size(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, lines: int, columns: int) -> None:
        """As a terminal's window does: the program is told by a signal."""
        with self._lock:
            self._screen.resize(lines, columns)
            self._size(lines, columns)
        self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def shows(self, *words: str) -> None:
        def all_there() -> bool:
            text = "\n".join(self.lines)
            return all(word in text for word in words)

        try:
            wait_for(all_there, what=f"{words} on the screen", timeout=60)
        except TimeoutError as error:
            shown = "\n".join(self.lines)
            raise AssertionError(f"{error}; it shows\n{shown}") from None

    def ends(self) -> int:
        return self.process.wait(60)

    def is_as_before(self) -> bool:
        """Whether the terminal echoes and takes lines as it did: all but the output's state, which is the driver's."""
        return termios.tcgetattr(self._slave)[3] == self._before[3]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        self._closed.set()
        self._reader.join(60)
        os.close(self._slave)
        os.close(self.master)


@contextmanager
def window(url: str, *options: str, **more: str) -> Iterator[Window]:
    made = Window(command(url, *options), **more)
    try:
        yield made
    finally:
        made.close()


def test_a_person_looks_around_and_leaves_the_terminal_as_it_was(broker, fleet):
    with window(broker.url("monitor"), "--interval", "0.5") as top:
        top.shows("site-1 leads, epoch 3", "30 total, 30 idle", "edge-1 ", "1 with workers, 4 wait")
        tell_worker(fleet, "edge-7", state="running", running=1, free=1)
        top.shows("29 idle")
        top.press("u")
        top.shows("QUEUE", "WAITv")
        top.press("j")
        top.shows("TASK", "known are 0 of 1")
        job = JobStatus(state="running", attempt=1, worker="edge-7", queue="edge", dag_id="d", task_id="read", ts=1.0)
        say(fleet, TOPICS.job_status("j1"), job, retain=False)
        top.shows("d.read")
        top.press("w")
        top.shows("WORKER", "STATE^")
        top.press("/edge-7\r")
        top.shows("1 hold 'edge-7'")
        top.press("\x1b")
        top.shows("edge-12")
        top.press("f")
        top.shows("workers 7-30 of 30")
        top.press("\x1bOA")  # up
        top.shows("workers 6-29 of 30")
        top.press("G")
        top.shows("workers 7-30 of 30")
        top.press("?")
        top.shows("a page down", "any key goes back")
        top.press("x")
        top.shows("site-1")
        top.resize(12, 60)
        top.shows("workers 7-12 of 30")
        assert len(top.lines[-1].split()) > 1, "down to the last line"
        top.press("q")
        assert top.ends() == 0
        assert top.is_as_before()


def test_a_terminal_of_today_has_more_keys_and_shows_the_screen_of_before_again(broker, fleet):
    with window(broker.url("monitor"), TERM="xterm-256color") as top:
        wait_for(lambda: b"site-1" in top.raw, what="a first picture", timeout=60)
        top.press("\x1b[6~")  # page down
        wait_for(lambda: b"7-30" in top.raw, what="another page", timeout=60)
        top.press("q")
        assert top.ends() == 0
        wait_for(lambda: b"\x1b[?1049l" in top.raw, what="the end of the other screen", timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(broker, fleet, number):
    with window(broker.url("monitor")) as top:
        top.shows("30 total")
        top.process.send_signal(number)
        assert top.ends() == 0
        assert top.is_as_before()
        assert b"Traceback" not in top.raw


@pytest.mark.parametrize(("lines", "columns"), [(1, 1), (2, 7), (5, 20)])
def test_a_terminal_that_is_too_small_is_no_trouble(broker, fleet, lines, columns):
    with window(broker.url("monitor"), "--interval", "0.5") as top:
        top.shows("30 total")
        top.resize(lines, columns)
        for key in ("u", "j", "?", "w", "w", "/", "x", "\x1b", "G"):
            top.press(key)
        top.resize(30, 180)
        top.shows("30 total", "of 30")
        top.resize(lines, columns)
        top.press("q")
        assert top.ends() == 0
        assert b"Traceback" not in top.raw


def test_keys_that_mean_nothing_change_nothing(broker, fleet):
    with window(broker.url("monitor"), "--interval", "0.5") as top:
        top.shows("30 total")
        top.press("\x00\x01zZ\N{SNOWMAN}\x1b[99~\x1bOZ\x1b[<0;1;1M~%5")
        top.press("u")
        top.shows("QUEUE", "WAITv")
        top.press("q")
        assert top.ends() == 0
        assert b"Traceback" not in top.raw


def test_where_nobody_can_press_a_key_it_prints_once(broker, fleet):
    """It would ask for keys as fast as it can, and no key would end it."""
    shell = " ".join(command(broker.url("monitor"), "</dev/null"))
    made = Window(["bash", "-c", shell])
    try:
        assert made.ends() == 0
        made.shows("edge-30")
    finally:
        made.close()


@pytest.mark.parametrize("end", [">/dev/full", ">&-"])
def test_what_cannot_be_written_is_no_traceback(broker, fleet, end):
    shell = " ".join(command(broker.url("monitor"), end))
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, timeout=90, env=environment(), check=False
    )
    said = done.stderr.splitlines()
    if end == ">/dev/full":
        assert (done.returncode, len(said)) == (1, 1), said
        assert "cannot be written: No space left on device" in said[0]
    else:
        assert (done.returncode, said) == (0, [])


def test_whoever_waits_for_it_to_print_may_interrupt_it():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # As from a terminal: what a shell starts in the background, as these tests may be, ignores SIGINT.
        arguments = ["env", "--default-signal=INT", *command(f"mqtt://127.0.0.1:{silent.getsockname()[1]}")]
        waiting = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        connection, _ = silent.accept()
        with connection:
            waiting.send_signal(signal.SIGINT)
            printed, said = waiting.communicate(timeout=60)
    assert (waiting.returncode, printed, said) == (130, b"", b"")


def test_a_broker_that_is_not_there_is_waited_for_in_a_terminal():
    with window(f"mqtt://127.0.0.1:{servers.free_port()}", "--interval", "0.5") as top:
        top.shows("no connection since", "refused")
        top.press("q")
        assert top.ends() == 0
        assert top.is_as_before()


def test_what_a_device_says_does_not_reach_the_terminal_as_it_is(broker, fleet):
    tell_worker(fleet, "edge-30", state="offline", reason="\x1b]0;o\x07\x1b[31m東京")
    try:
        with window(broker.url("monitor")) as top:
            top.shows("\\x1b]0;o\\x07\\x1b[31m東京")
            assert b"\x1b]0;o" not in top.raw
            top.press("q")
            assert top.ends() == 0
        printed = once(broker.url("monitor"), "--view", "workers")
        assert "\\x1b]0;o\\x07\\x1b[31m東京" in printed.stdout
    finally:
        tell_worker(fleet, "edge-30")


def test_a_terminal_without_unicode_gets_what_it_can_show(broker, fleet):
    with window(broker.url("monitor"), LC_ALL="POSIX", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0") as top:
        top.shows("30 total")
        top.press("q")
        assert top.ends() == 0


def test_it_connects_again_and_says_so(tmp_path):
    with servers.mosquitto(tmp_path / "broker") as broker, Peer(broker.url("bridge")) as peer:
        tell_worker(peer, "edge-1")
        with window(broker.url("monitor"), "--interval", "0.5") as top:
            top.shows("1 total, 1 idle")
            broker.stop()
            top.shows("no connection since", "trying again")
            broker.start()
            top.press(" ")
            top.shows("workers 1-1 of 1")
            top.press("q")
            assert top.ends() == 0


def test_without_a_terminal_it_prints_once(broker, fleet):
    printed = once(broker.url("monitor"))
    assert (printed.returncode, printed.stderr) == (0, "")
    lines = printed.stdout.splitlines()
    assert "30 total" in lines[2]
    assert sum(line.startswith("edge-") for line in lines) == 30
    assert any(line.startswith("edge ") for line in lines)
    assert "\x1b" not in printed.stdout
    one = once(broker.url("monitor"), "--once", "--view", "workers", "--filter", "edge-2", "--sort=-worker")
    assert [line.split()[0] for line in one.stdout.splitlines() if line.startswith("edge-")] == [
        "edge-29", "edge-28", "edge-27", "edge-26", "edge-25", "edge-24", "edge-23", "edge-22", "edge-21", "edge-20", "edge-2",
    ]  # fmt: skip


def test_a_reader_that_has_seen_enough_is_no_error(broker, fleet):
    shell = " ".join([*command(broker.url("monitor")), "| head -1; echo ${PIPESTATUS[0]}"])
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, timeout=90, env=environment(), check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] == "0"


@pytest.mark.parametrize("on_a_terminal", [True, False])
def test_a_wrong_password_is_one_line(broker, on_a_terminal):
    url = f"mqtt://monitor:wrong@127.0.0.1:{broker.port}"
    if on_a_terminal:
        with window(url) as top:
            assert top.ends() == 1
            assert top.is_as_before()
            top.shows("lets monitor not in", "check user and password of --broker-url")
            assert b"Traceback" not in top.raw
            return
    done = once(url)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "check user and password of --broker-url" in done.stderr
    assert "wrong" not in done.stderr


def test_nobody_there_is_one_line():
    done = once(f"mqtt://127.0.0.1:{servers.free_port()}")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "refused" in done.stderr


def test_an_account_that_may_not_look_is_told(broker, fleet):
    done = once(broker.url("edge-1"), "--root", "elsewhere")
    assert done.returncode == 0
    assert "nothing has come on elsewhere/v1/+/+/status" in done.stdout


def test_a_terminal_that_cannot_be_drawn_on_is_one_line(broker):
    with window(broker.url("monitor"), TERM="no-such-terminal") as top:
        assert top.ends() == 2
        top.shows("set TERM, or give --once")


def test_ten_thousand_workers_arrive_and_keys_are_answered(tmp_path):
    """What is retained of a large fleet comes at once; the picture takes it in pieces."""
    with servers.mosquitto(tmp_path / "broker") as broker, Peer(broker.url("bridge")) as peer:
        for number in range(10_000):
            status = WorkerStatus(
                state="idle", connection=1, instance="i", ts=time.time(), slots=1, free=1, running=0, interval=600.0
            )
            last = peer.client.publish(TOPICS.worker(f"w{number}", TopicKind.STATUS), status.encode(), 1, True)
        wait_for(last.is_published, what="10,000 statuses at the broker", timeout=120)
        with window(broker.url("monitor")) as top:
            top.shows("10000 total, 10000 idle")
            top.press("G")
            top.shows("of 10000")
            top.press("q")
            assert top.ends() == 0
