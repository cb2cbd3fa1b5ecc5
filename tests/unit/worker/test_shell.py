"""The parts of the shell that need no server: journal, files, processes, local socket, transport."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.worker import processes
from airflow_mqtt.worker.core.effects import (
    Answer,
    DropCall,
    DropEvents,
    DropJob,
    SaveCall,
    SaveEvent,
    SaveJob,
    SaveMeta,
)
from airflow_mqtt.worker.core.jobs import Result
from airflow_mqtt.worker.frames import Unpacker, pack
from airflow_mqtt.worker.job_files import JobFiles, directories
from airflow_mqtt.worker.journal import Journal
from airflow_mqtt.worker.keys import Keys
from airflow_mqtt.worker.local_api import MAX_OF_AN_ATTEMPT, MAX_UNKNOWN, LocalApi
from airflow_mqtt.worker.runners import task_environment
from airflow_mqtt.worker.unix_sockets import connect, listen
from demo.processes import wait_for


def test_a_journal_gives_back_what_was_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        name = journal.load().meta["journal"]
        journal.write([SaveMeta("connection", "3"), SaveJob("a", {"x": 1}), SaveJob("b", {}), SaveEvent(1, b"one")])
        journal.write([SaveEvent(2, b"two"), SaveCall("c2", "a", 2, {"n": 2}), SaveCall("c1", "a", 1, {"n": 1})])
        journal.write([DropJob("b"), DropEvents(1)])
    with Journal(tmp_path / "j") as journal:
        held = journal.load()
        assert held.meta["journal"] == name
        assert (held.meta["connection"], held.meta["acked"]) == ("3", "1")
        assert (held.jobs, held.events) == ([{"x": 1}], {2: b"two"})
        assert held.calls == [("a", {"n": 1}), ("a", {"n": 2})]
        journal.write([DropCall("c1")])
        assert len(journal.load().calls) == 1


def test_a_write_is_all_or_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        with pytest.raises(TypeError):
            journal.write([SaveEvent(1, b"one"), SaveJob("a", {"x": object()})])
        assert journal.load().events == {}
        journal.write([SaveEvent(1, b"one")])
        assert journal.load().events == {1: b"one"}


def test_job_files(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, "with-dash", 3)
    files.append_log(b"one\n")
    files.append_log(b"two\n")
    assert (files.log_size(), files.read_log(4, 100), files.read_log(99, 1)) == (8, b"two\n", b"")
    assert files.read_result() is None
    files.write_result({"returned": True, "exit_code": 0, "reason": ""})
    assert files.read_result() == Result(returned=True, exit_code=0)
    (files.directory / "result.json").write_bytes(b"{")
    assert files.read_result() is None
    assert directories(tmp_path) == [files]
    files.remove()
    assert directories(tmp_path) == []


def test_a_process_is_known_by_more_than_its_id() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    known = processes.identify(child.pid)
    assert processes.alive(known)
    assert not processes.alive(processes.ProcessId(known.pid, known.ticks + 1, known.boot))
    assert not processes.alive(processes.ProcessId(known.pid, known.ticks, "another boot"))
    os.kill(child.pid, 9)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.alive(known)  # it is a zombie
    child.wait()
    child.stdin.close()


def test_the_name_of_a_process_may_end_within_a_character() -> None:
    """Linux keeps 15 bytes of it, whatever they are; every process of the device is looked at."""
    rename = "open('/proc/self/comm', 'wb').write(b'fourteen bytes\\xc3'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"\n"
        assert (processes.PROC / str(child.pid) / "comm").read_bytes() == b"fourteen bytes\xc3\n"
        assert processes.alive(processes.identify(child.pid))
        child.kill()


FAMILY = """
import os, subprocess, sys, time
def start(**more):
    return subprocess.Popen(["sleep", "60"], **more).pid
group = os.fork()
if group == 0:
    os.setpgid(0, 0)
    time.sleep(60)
session = start(start_new_session=True, env={})
orphan = subprocess.run(
    ["sh", "-c", "setsid sleep 60 >/dev/null 2>&1 & echo $!"], env={sys.argv[1]: sys.argv[2]}, capture_output=True
).stdout
print(group, session, int(orphan), flush=True)
time.sleep(60)
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, list[processes.ProcessId]]]:
    """A supervisor, and below it a process group, a session without an environment, and an orphan with the mark."""
    command = [sys.executable, "-c", FAMILY, processes.MARK, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as leader:
        members = [processes.identify(int(pid)) for pid in leader.stdout.readline().split()]
        wait_for(lambda: _parent(members[2].pid) != leader.pid, what="the orphan to be one")
        yield leader, members
        for process in (leader.pid, *(member.pid for member in members)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_an_attempt_is_killed_with_its_groups_sessions_and_orphans(family, tmp_path: Path) -> None:
    leader, members = family
    processes.kill_attempt(str(tmp_path), processes.identify(leader.pid))
    assert leader.wait(60) == -9
    assert [processes.alive(member) for member in members] == [False] * 3


def test_a_supervisor_can_be_spared(family, tmp_path: Path) -> None:
    leader, members = family
    processes.kill_attempt(str(tmp_path), processes.identify(leader.pid), spare_leader=True)
    assert leader.poll() is None
    assert [processes.alive(member) for member in members] == [False] * 3


def test_an_attempt_is_killed_after_its_supervisor_died(family, tmp_path: Path) -> None:
    leader, members = family
    known = processes.identify(leader.pid)
    leader.kill()
    leader.wait()
    processes.kill_attempt(str(tmp_path), known)
    group, session, orphan = (processes.alive(member) for member in members)
    assert not group
    assert not orphan
    assert session  # without mark or parent: `adopt_orphans` and the task's own process are what finds such a one


def test_what_is_not_of_the_attempt_lives(family, tmp_path: Path) -> None:
    leader, members = family
    known = processes.identify(leader.pid)
    processes.kill_attempt("another", processes.ProcessId(known.pid, known.ticks + 1, known.boot))
    processes.kill_attempt("another", processes.ProcessId(known.pid, known.ticks, "another boot"))
    processes.kill_attempt("another", None)
    assert leader.poll() is None
    assert all(processes.alive(member) for member in members)


CHILDLESS = """
import os, subprocess, time
from airflow_mqtt.worker import processes
print(processes.adopt_orphans(), processes.has_living_child(), flush=True)
command = ["sh", "-c", "setsid sleep 60 >/dev/null 2>&1 & read line"]
child = subprocess.Popen(command, stdin=subprocess.PIPE, env={})
state = processes._stat
def state_after_its_end(pid):
    if pid == child.pid:
        child.stdin.close()
        while state(pid)["state"] != "Z":
            time.sleep(0.001)
    return state(pid)
processes._stat = state_after_its_end
print(processes.has_living_child(), flush=True)
processes._stat = state
child.wait()
print(processes.has_living_child(), flush=True)
processes.kill_attempt("mark", processes.identify(os.getpid()), spare_leader=True)
print(processes.has_living_child(), flush=True)
"""


def test_who_adopts_orphans_knows_by_its_children_whether_anything_lives() -> None:
    """What has begun a session, lost its parent and has no mark in its environment is still a child, then.

    Also when its parent ends between our looks at the list of children and at that parent.
    """
    done = subprocess.run([sys.executable, "-c", CHILDLESS], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False", "True", "True", "False"]


def test_where_the_kernel_tells_of_no_children_there_may_be_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert processes.has_living_child()


def test_tasks_get_no_password() -> None:
    ours = {"AIRFLOW_MQTT_BROKER_URL": "mqtt://u:p@h", "AIRFLOW_HOME": "/a", processes.MARK: "outer", "PATH": "/bin"}
    assert task_environment(ours) == {"AIRFLOW_HOME": "/a", "PATH": "/bin"}


def test_sockets_at_paths_longer_than_an_address(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with listen(folder / "s") as listener, connect(folder / "s"):
        assert listener.accept()
    assert (folder / "s").stat().st_mode & 0o777 == 0o600


def test_frames_survive_any_cut() -> None:
    data = pack({"a": 1}) + pack({"b": "x" * 1000})
    unpacker = Unpacker()
    found = [frame for byte in data for frame in unpacker.feed(bytes([byte]))]
    assert found == [{"a": 1}, {"b": "x" * 1000}]


def test_a_frame_over_the_limit_is_not_collected() -> None:
    with pytest.raises(PayloadError, match="over the limit of 100"):
        list(Unpacker(100).feed((101).to_bytes(4, "big")))


#: What the local socket takes in these tests.
MAX_BYTES = 100_000


class Server:
    """A local socket served by a thread, as the worker's loop would."""

    def __init__(self, path: Path, answer) -> None:
        self.selector = selectors.DefaultSelector()
        self.keys = Keys(path.parent)
        self.api = LocalApi(path, self.selector, admits=self.keys.fit, max_bytes=MAX_BYTES)
        self.answer = answer
        self.calls = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while not self.stop.is_set():
            for key, mask in self.selector.select(0.02):
                key.data(mask)
            for call in self.api.take()[0]:
                self.calls.append(call)
                status = self.answer(call)
                if status is not None:
                    self.api.answer(
                        Answer(call.token, call.id, status, '{"x":1}', {"content-type": "application/json"})
                    )
        self.api.close()

    def close(self) -> None:
        self.stop.set()
        self.thread.join()


@pytest.fixture
def transport(tmp_path: Path):
    pytest.importorskip("httpx")
    from airflow_mqtt.worker.runner.transport import WorkerTransport

    return WorkerTransport(tmp_path, "job", 2)


@pytest.fixture
def client(transport):
    import httpx

    from airflow_mqtt.worker.runner.transport import BASE_URL

    return httpx.Client(base_url=BASE_URL, transport=transport, timeout=0.1)


def test_a_call_goes_through_as_it_is(tmp_path: Path, client) -> None:
    server = Server(tmp_path / "worker.sock", lambda _call: 201)
    try:
        answer = client.post("xcoms/d/r/t/a%2Fb", params={"map_index": 1}, content='"\u00e4"')
        assert (answer.status_code, answer.json()) == (201, {"x": 1})
        call = server.calls[0]
        assert (call.job, call.attempt, call.method) == ("job", 2, "POST")
        assert (call.path, call.query, call.body) == ("xcoms/d/r/t/a%2Fb", "map_index=1", '"\u00e4"')
    finally:
        server.close()


def test_a_call_that_is_far_too_large_is_refused_before_it_is_sent(tmp_path: Path, transport) -> None:
    import httpx

    from airflow_mqtt.worker.runner.transport import BASE_URL, WorkerTransport

    small = WorkerTransport(tmp_path, "job", 2, 1000)
    with httpx.Client(base_url=BASE_URL, transport=small) as client:
        answer = client.post("xcoms/d/r/t/x", content="x" * 1000)  # nobody listens
    assert answer.status_code == 413
    assert "max_message_bytes" in answer.text


def test_a_call_waits_for_a_worker_that_comes_back_and_keeps_its_id(tmp_path: Path, client, transport) -> None:
    first = Server(tmp_path / "worker.sock", lambda _call: None)
    servers = [first]

    def restart(_pause: float) -> None:
        if len(servers) == 1:
            servers.append(Server(tmp_path / "worker.sock", lambda _call: 200))

    def close_when_asked() -> None:
        wait_for(lambda: first.calls, what="the call")
        first.close()

    transport._sleep = restart
    threading.Thread(target=close_when_asked).start()
    try:
        assert client.get("variables/x").status_code == 200
        assert first.calls[0].id == servers[1].calls[0].id
    finally:
        servers[-1].close()


def test_a_heartbeat_never_waits_long(tmp_path: Path, client, monkeypatch) -> None:
    from airflow_mqtt.worker.runner import transport

    monkeypatch.setattr(transport, "HEARTBEAT_WAIT", 0.2)
    assert client.put("task-instances/x/heartbeat", content="{}").status_code == 204
    server = Server(tmp_path / "worker.sock", lambda _call: None)
    try:
        assert client.put("task-instances/x/heartbeat", content="{}").status_code == 204
        server.answer = lambda _call: 410
        monkeypatch.setattr(transport, "HEARTBEAT_WAIT", 30)
        assert client.put("task-instances/x/heartbeat", content="{}").status_code == 410
    finally:
        server.close()


def test_garbage_on_the_socket_closes_that_connection_only(tmp_path: Path, client) -> None:
    server = Server(tmp_path / "worker.sock", lambda _call: 200)
    try:
        with connect(tmp_path / "worker.sock") as channel:
            channel.sendall(pack({"id": 1}))
            assert _answers(channel) == [400]
        assert client.get("variables/x").status_code == 200
    finally:
        server.close()


def _answers(channel) -> list[int]:
    """Return the statuses that come until the other side closes."""
    unpacker, found = Unpacker(), []
    channel.settimeout(60)
    while data := channel.recv(4096):
        found += [answer["status"] for answer in unpacker.feed(data)]
    return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "worker.sock", lambda _call: 200)
    yield server
    server.close()


def _transport(path: Path, job: str, key: str):
    from airflow_mqtt.worker.runner.transport import WorkerTransport

    return WorkerTransport(path, job, 2, key=key)


def _client(path: Path, job: str, key: str):
    import httpx

    from airflow_mqtt.worker.runner.transport import BASE_URL

    return httpx.Client(base_url=BASE_URL, transport=_transport(path, job, key))


def test_nobody_speaks_in_the_name_of_another_job(tmp_path: Path, served: Server) -> None:
    """All tasks run as one user, and may connect."""
    pytest.importorskip("httpx")
    keys = {}
    for job in ("job", "other"):
        JobFiles(tmp_path, job, 2).directory.mkdir(parents=True)
        keys[job] = served.keys.give(job, 2)
    assert _client(tmp_path, "job", keys["job"]).get("variables/x").status_code == 200
    for wrong in (keys["other"], "", "x"):
        assert _client(tmp_path, "job", wrong).get("variables/x").status_code == 400
    assert [call.job for call in served.calls] == ["job"]
    assert keys["job"] not in "".join(path.read_text() for path in tmp_path.glob("jobs/*/*"))


def test_a_key_is_known_after_a_restart_and_beside_that_of_another_launch(tmp_path: Path) -> None:
    JobFiles(tmp_path, "job", 2).directory.mkdir(parents=True)
    keys = Keys(tmp_path)
    given = [keys.give("job", 2)]
    keys = Keys(tmp_path)
    given.append(keys.give("job", 2))
    (JobFiles(tmp_path, "job", 2).directory / "keys").write_text("what another task would have there")
    assert [keys.fit("job", 2, key) for key in (*given, "")] == [True, True, False]
    assert Keys(tmp_path).fit("before the update", 1, "")
    keys.forget("job", 2)


def test_unfinished_frames_have_little_room(tmp_path: Path, served: Server) -> None:
    """The oldest are closed: not those of runners, which are finished at once."""
    half = (MAX_BYTES - 10).to_bytes(4, "big") + b"x" * (MAX_BYTES // 4)
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(connect(tmp_path / "worker.sock")) for _ in range(12)]
        for channel in channels:
            with contextlib.suppress(OSError):
                channel.sendall(half)
        assert _answers(channels[0]) == [400]
        wait_for(
            lambda: sum(c.unpacker.waiting for c in list(served.api._connections.values())) <= MAX_BYTES, what="room"
        )
        with _client(tmp_path, "job", "") as client:
            assert client.post("xcoms/d/r/t/x", content="x" * (MAX_BYTES // 2)).status_code == 200


def test_connections_are_bounded_and_the_oldest_go(tmp_path: Path, served: Server) -> None:
    """Any process of the user may connect; with all descriptors taken, no runner could."""
    pytest.importorskip("httpx")
    with contextlib.ExitStack() as stack:
        with _client(tmp_path, "job", "") as runner:
            assert runner.get("variables/x").status_code == 200
            silent = [stack.enter_context(connect(tmp_path / "worker.sock")) for _ in range(3 * MAX_UNKNOWN)]
            assert _answers(silent[0]) == []
            assert len(served.api._connections) <= MAX_UNKNOWN + 1
            assert runner.get("variables/x").status_code == 200
        many = [stack.enter_context(_client(tmp_path, "job", "")) for _ in range(2 * MAX_OF_AN_ATTEMPT)]
        assert [client.get("variables/x").status_code for client in many] == [200] * len(many)
        assert sum(item.of == ("job", 2) for item in list(served.api._connections.values())) == MAX_OF_AN_ATTEMPT
        assert many[0].get("variables/x").status_code == 200  # it comes again


def test_a_frame_that_is_too_large_is_answered_and_not_kept(tmp_path: Path, served: Server) -> None:
    """Else its sender, which may have had a higher limit, would send it for ever."""
    pytest.importorskip("httpx")
    answer = _client(tmp_path, "job", "").post("xcoms/d/r/t/x", content="x" * (MAX_BYTES + 1))
    assert answer.status_code == 400
    assert "over the limit" in answer.text


def test_one_who_asks_and_does_not_read_is_closed(tmp_path: Path, served: Server) -> None:
    frame = {"id": "a", "job": "job", "attempt": 2, "method": "GET", "path": "x" * 1000}
    with connect(tmp_path / "worker.sock") as channel:
        channel.settimeout(60)
        with pytest.raises(OSError):
            for _ in range(200_000):
                channel.sendall(pack(frame))
