"""Who forks a task: the warm process, or the nursery of its Dag file. And what makes a file unfit for one."""

import builtins
import io
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_mqtt.worker.frames import Unpacker, pack
from airflow_mqtt.worker.processes import ProcessId
from airflow_mqtt.worker.runner import forker, nursery
from airflow_mqtt.worker.runner import host as warm
from airflow_mqtt.worker.runner.forker import Forker
from airflow_mqtt.worker.runner.host import Host
from airflow_mqtt.worker.runner.nursery import MOST, Nursery, key_of, surplus
from airflow_mqtt.worker.runner.watch import Watch, stamp
from servers import wait_for
from worker_bench import workload


def _order(job: str, path: str = "a.py", **more: Any) -> dict[str, Any]:
    return {"op": "start", "job": job, "attempt": 1, "workload": workload("quick") | {"dag_rel_path": path} | more}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ("bench", "a.py")),
        ({"type": "ExecuteCallback"}, None),
        ({"bundle_info": {"name": "bench", "version": "1"}}, None),
        ({"bundle_info": None}, ("None", "a.py")),
        ({"dag_rel_path": "a.zip"}, None),
        ({"dag_rel_path": None}, None),
    ],
)
def test_whose_tasks_may_take_a_parsed_file(more: dict[str, Any], expected: object) -> None:
    assert key_of(_order("a", **more)) == expected


def _nurseries(count: int, size: int, **more: Any) -> list[Nursery]:
    process = ProcessId(2, 0, "")
    return [
        Nursery(("b", str(number)), process, None, since=0.0, used_at=float(number), warm=True, size=size, **more)
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "size", "gone"),
    [(MOST, 1, []), (MOST + 2, 1, ["0", "1"]), (3, 50, ["0"]), (3, 200, ["0", "1"]), (1, 200, []), (0, 0, [])],
)
def test_the_least_used_go_first_and_never_the_last(count: int, size: int, gone: list[str]) -> None:
    assert [one.key[1] for one in surplus(_nurseries(count, size), 100)] == gone


def test_what_a_retired_one_takes_counts() -> None:
    retired = _nurseries(1, 90, retired=True)
    assert [one.key[1] for one in surplus(retired + _nurseries(2, 10), 100)] == ["0"]


# --- the warm process -------------------------------------------------------------------------------------


class Worker:
    """The worker's end of a host that runs in this process; it is asked from a thread."""

    def __init__(self) -> None:
        self.channel, self.theirs = socket.socketpair()
        self.channel.settimeout(60)
        self._unpacker = Unpacker()

    def run(self, *orders: dict[str, Any]) -> set[str]:
        """Have these jobs run; return those that have ended."""
        self.channel.sendall(b"".join(pack(order) for order in orders))
        ended: set[str] = set()
        while len(ended) < len(orders):
            ended |= {frame["job"] for frame in self._unpacker.feed(self.channel.recv(65536))}
        return ended


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(Forker, "_supervise", lambda *_: os._exit(0))
    monkeypatch.setattr(Forker, "_rehearse", lambda *_: None)
    made = Worker()
    yield made
    made.channel.close()
    made.theirs.close()


def _serve(host: Host, worker: Worker, play: Any) -> None:
    def playing() -> None:
        try:
            play()
        finally:
            worker.channel.shutdown(socket.SHUT_RDWR)

    played = threading.Thread(target=playing)
    played.start()
    host.run()
    played.join()


def _tend(channel: socket.socket, state_dir: Path, _key: object, _most: int) -> None:
    channel.sendall(pack({"op": "parsed", "why": "", "stamps": {}, "bytes": 100}))
    Forker(channel, state_dir).run()
    os._exit(0)


def test_memory_is_bounded_over_all_files(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "tend", _tend)
    host = Host(worker.theirs, tmp_path, 250)
    held: list[set[str]] = []

    def play() -> None:
        for number, path in enumerate(("a.py", "b.py", "a.py", "c.py")):
            assert worker.run(_order(str(number), path)) == {str(number)}
            held.append({key[1] for key in host._nurseries})
        wait_for(lambda: not host._retired_ones, what="the end of the one that went")

    _serve(host, worker, play)
    assert held == [{"a.py"}, {"a.py", "b.py"}, {"a.py", "b.py"}, {"a.py", "c.py"}]


def test_a_parse_that_does_not_end_holds_nobody_up_for_ever(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warm, "tend", lambda *_: time.sleep(600))
    monkeypatch.setattr(nursery, "LONGEST_PARSE", 0.1)
    host = Host(worker.theirs, tmp_path, 250)
    _serve(host, worker, lambda: worker.run(_order("a"), _order("b")) | worker.run(_order("c")))
    assert capsys.readouterr().err == "tasks of a.py parse it themselves: its parse does not end\n"
    assert not host._nurseries


def test_the_next_supervisor_is_forked_ahead(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def supervise(_: Forker, order: dict[str, Any], _ahead: object = None) -> None:
        (tmp_path / order["job"]).write_text(str(os.getpid()))
        os._exit(0)

    monkeypatch.setattr(Forker, "_supervise", supervise)
    monkeypatch.setattr(forker, "SPARE_AFTER", 0.0)
    served = Forker(worker.theirs, tmp_path)

    def spare() -> int:
        wait_for(lambda: served._spare is not None, what="the spare")
        return served._spare[0]

    def play() -> None:
        worker.run(_order("a"))
        ahead = spare()
        worker.run(_order("b"), _order("c"))
        assert (tmp_path / "b").read_text() == str(ahead) != (tmp_path / "c").read_text()
        os.kill(spare(), signal.SIGKILL)
        assert worker.run(_order("d")) == {"d"}
        left.append(spare())

    left: list[int] = []
    _serve(served, worker, play)
    os.waitpid(left[0], 0)  # it ends with its parent


def test_nobody_is_forked_ahead_where_no_order_has_come(worker: Worker, tmp_path: Path) -> None:
    host = Host(worker.theirs, tmp_path, 250)
    assert host._timeout() is None


def test_parsed_files_are_not_kept_for_ever(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "tend", _tend)
    monkeypatch.setattr(nursery, "LONGEST_LIFE", 0.1)
    host = Host(worker.theirs, tmp_path, 250)

    def play() -> None:
        worker.run(_order("a"))
        wait_for(lambda: not host._nurseries, what="the end of its life")

    _serve(host, worker, play)


# --- watching ---------------------------------------------------------------------------------------------


def test_what_is_read_is_noted_with_what_it_was_then(tmp_path: Path) -> None:
    for name in ("read", "listed", "low"):
        (tmp_path / name).write_text("before") if name != "listed" else (tmp_path / name).mkdir()
    before = {str(tmp_path / name): stamp(str(tmp_path / name)) for name in ("read", "listed", "low", "missing")}
    with Watch(tmp_path) as watch:
        (tmp_path / "read").read_text()
        (tmp_path / "read").write_text("after")
        list((tmp_path / "listed").iterdir())
        os.close(os.open(tmp_path / "low", os.O_RDONLY))
        with pytest.raises(FileNotFoundError):
            (tmp_path / "missing").open()
        with pytest.raises(TypeError):
            open()  # noqa: SIM115
        with (tmp_path / "written").open("a") as file:
            file.write("not read")
    assert watch.why == ""
    assert watch.stamps == before
    (tmp_path / "missing").touch()
    assert not nursery.unchanged({name: found for name, found in before.items() if name.endswith("missing")})


def test_what_is_installed_does_not_count_but_in_the_bundle(tmp_path: Path) -> None:
    for own, count in ((tmp_path, 0), (Path(pytest.__file__).parent, 1)):
        with Watch(own) as watch:
            Path(pytest.__file__).read_text()
        assert len(watch.stamps) == count


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (lambda: socket.getaddrinfo("127.0.0.1", 1), "resolver"),
        (lambda: os.environ.get("_AIRFLOW_PARSING_CONTEXT_DAG_ID"), "parsing context"),
        (lambda: Path("/proc/uptime").read_text(), "/proc/uptime"),
        (lambda: subprocess.run(["true"]), "process"),
        (lambda: socket.socket().close(), "socket"),
    ],
)
def test_what_each_task_must_do_for_itself(tmp_path: Path, does: Any, why: str) -> None:
    with Watch(tmp_path) as watch:
        does()
    assert why in watch.why


def test_nothing_is_left_of_a_watch(tmp_path: Path) -> None:
    watched = [builtins.open, io.open, os.open, os.listdir, os.scandir, os.fork, type(os.environ), selectors.select]
    with Watch(tmp_path):
        kept = os.listdir
    assert watched == [
        builtins.open, io.open, os.open, os.listdir, os.scandir, os.fork, type(os.environ), selectors.select
    ]  # fmt: skip
    assert kept(tmp_path) == []  # whoever has imported it meanwhile goes on with it
    assert "get_data" not in vars(__import__("importlib.machinery").machinery.SourceFileLoader)
