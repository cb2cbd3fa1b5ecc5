"""The health of the device: what is read where, what goes over the link, and the site's own function."""

import math
import selectors
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from airflow_mqtt.protocol import messages
from airflow_mqtt.protocol.messages import FIGURES, MAX_EXTRA, MAX_EXTRA_SIZE, MAX_EXTRA_TEXT, WorkerStatus
from airflow_mqtt.worker.health import PERIOD, Health, Readings
from airflow_mqtt.worker.health_function import HealthFunction, taken
from airflow_mqtt.worker.settings import FUNCTION

#: What `health` of a status may cost at most, without the site's own, and with it.
MOST_BYTES = 330
MOST_EXTRA_BYTES = 1100

PI = {
    "proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1\n",
    "proc/loadavg": "0.351 0.22 0.10 1/200 999\n",
    "proc/meminfo": "MemTotal:        3906000 kB\nMemFree: 1 kB\nMemAvailable:    2906000 kB\nHugePages_Total: 0\n",
    "proc/uptime": "86400.55 300000.00\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/class/thermal/thermal_zone1/temp": "52345\n",
    "sys/class/thermal/thermal_zone2/temp": "-274000\n",  # nothing is connected there
    "sys/class/power_supply/BAT0/capacity": "81\n",
    "sys/class/power_supply/BAT1/capacity": "19\n",
    "sys/class/power_supply/AC/online": "1\n",
}


def lay(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "journal.sqlite"
    path.parent.mkdir()
    path.write_bytes(bytes(4096))
    path.with_name("journal.sqlite-wal").write_bytes(bytes(1000))
    return path


def test_a_board_tells_all_of_it(tmp_path: Path, journal: Path) -> None:
    lay(tmp_path, PI)
    readings = Readings(journal, tmp_path)
    lay(tmp_path, {"proc/stat": "cpu  150 0 125 920 100 5 0 0 0 0\n"})
    found = readings.read()
    disk = {name: found.pop(name) for name in ("disk_free", "disk_total")}
    assert 0 <= disk["disk_free"] <= disk["disk_total"]
    assert found == {
        "cpu": 26.7, "load": 0.35, "memory_used": 1_024_000_000, "memory_total": 4_000_000_000, "temperature": 52.3,
        "battery": 19, "uptime": 86400, "journal": 5096,
    }  # fmt: skip


def test_what_the_platform_does_not_tell_is_left_out(tmp_path: Path, journal: Path) -> None:
    lay(
        tmp_path,
        {"proc/meminfo": "MemTotal: 1 kB\n", "proc/uptime": "", "proc/loadavg": "much\n", "proc/stat": "cpu\n"},
    )
    assert set(Readings(journal, tmp_path).read()) == {"disk_free", "disk_total", "journal"}


def test_this_machine_tells_what_has_a_form(journal: Path) -> None:
    found = Readings(journal).read()
    assert {"load", "memory_used", "uptime"} <= set(found) <= set(FIGURES)
    assert messages.fitting(found) == found


def test_it_looks_when_it_is_time(tmp_path: Path, journal: Path) -> None:
    health = Health(Readings(journal, tmp_path), lambda: (3, 4), None, 60.0, judged=True)
    assert health.look(100.0) is not None
    assert (health.look(100.0 + PERIOD - 1), health.deadline()) == (None, 100.0 + PERIOD)
    figures = health.look(100.0 + PERIOD)
    assert (figures["link_in"], figures["link_out"]) == (3, 4)


def test_a_device_is_not_woken_for_figures_that_nobody_waits_for(tmp_path: Path, journal: Path) -> None:
    health = Health(Readings(journal, tmp_path), lambda: None, None, 60.0)
    assert health.deadline() == math.inf
    assert health.look(100.0) is not None
    assert health.deadline() == math.inf
    assert (health.look(100.0 + PERIOD - 1), health.look(100.0 + PERIOD) is None) == (None, False)


# --- what goes over the link ------------------------------------------------------------------------------


def _told(device) -> list[dict]:
    return [status.health for status in device.statuses()]


def test_health_goes_with_a_heartbeat_now_and_then(device_of) -> None:
    device = device_of(health_interval=60.0)
    device.core.figures({"cpu": 1.0}, device.now)
    device.connect()
    device.core.figures({"cpu": 2.0}, device.now)
    device.run("a")  # which is a status of its own
    device.wait(200)
    told = _told(device)
    assert told[0] == {"cpu": 1.0}
    assert [health for health in told[1:] if health] == [{"cpu": 2.0}] * 3
    assert len(told) > 6


def test_each_connection_begins_with_it(device_of) -> None:
    device = device_of(health_interval=600.0)
    device.core.figures({"cpu": 1.0}, device.now)
    device.connect().disconnect()
    device.connect()
    assert _told(device) == [{"cpu": 1.0}] * 2


def test_none_goes_where_none_is_wished(device_of) -> None:
    device = device_of(health_interval=0.0)
    device.core.figures({"cpu": 1.0}, device.now)
    device.connect().wait(200)
    assert not any(_told(device))


def test_what_has_no_form_does_not_make_a_status_that_is_refused(device_of) -> None:
    device = device_of(health_interval=60.0)
    device.core.figures({"cpu": 101.0, "temperature": float("nan"), "load": 0.5, "extra": {"x": [1]}}, device.now)
    device.connect()
    assert _told(device) == [{"load": 0.5}]


def _cost(health: dict) -> int:
    status = WorkerStatus(state="idle", connection=1, instance="i", ts=1.0, slots=1, free=1, running=0, health=health)
    return len(status.encode()) - len(WorkerStatus(**{**vars(status), "health": {}}).encode())


def test_its_cost_is_bounded() -> None:
    most = {name: bounds.greatest for name, bounds in FIGURES.items()}
    assert _cost(most) <= MOST_BYTES
    values, left_out = taken({f"{number:032}": "\N{DEGREE SIGN}" * 99 for number in range(99)})
    assert left_out
    assert _cost({"extra": values}) <= MOST_EXTRA_BYTES
    values, _ = taken({f"name-{number}": -(10**15) + 0.125 for number in range(99)})
    assert _cost({"extra": values}) <= MOST_EXTRA_BYTES


# --- the site's own ---------------------------------------------------------------------------------------


def test_what_is_taken_of_the_sites_own_values() -> None:
    values, left_out = taken({
        "signal": -71, "volts": 4.98765, "door": "open" * 99, "on": True, "none": None, "list": [], "huge": 10**16,
        "n" * 99: 1, "nul": "a\0b", "lone": "\ud800",
    })  # fmt: skip
    assert values == {
        "signal": -71, "volts": 4.988, "door": ("open" * 99)[:MAX_EXTRA_TEXT], "on": 1, "n" * 32: 1,
        "nul": "a\N{REPLACEMENT CHARACTER}b", "lone": "?",
    }  # fmt: skip
    assert "list" in left_out
    assert "huge" in left_out
    assert messages.fitting({"extra": values}) == {"extra": values}


@pytest.mark.parametrize(
    "many", [{f"a{number}": 1 for number in range(99)}, {f"{number:030}": "x" * 60 for number in range(12)}]
)
def test_more_than_the_bounds_is_left_out(many: dict) -> None:
    values, left_out = taken(many)
    assert 0 < len(values) <= MAX_EXTRA
    assert messages.extra_size(values) <= MAX_EXTRA_SIZE
    assert "more than" in left_out


MODULE = """
import os, sys, time
from datetime import datetime
calls = 0
def read():
    global calls
    calls += 1
    print("noise")
    return {"calls": calls, "pid": os.getpid(), "at": datetime(2026, 1, 1), "when": None, "what": object(),
            "secret": os.environ.get("AIRFLOW_MQTT_BROKER_URL", "none"), "nan": float("nan")}
def fails():
    raise ValueError("no\\nsensor")
def hangs():
    time.sleep(600)
def leaves():
    os._exit(3)
def lists():
    return [1]
def floods():
    return {str(number) * 1000: "y" * 10_000 for number in range(1000)}
"""


class Asked:
    """A function of a module in `directory`, asked without a pause."""

    def __init__(self, directory: Path, name: str, timeout: float = 60.0) -> None:
        (directory / "site_health.py").write_text(MODULE)
        self.selector = selectors.DefaultSelector()
        self.function = HealthFunction(name, sys.executable, 0.0, self.selector, timeout=timeout)

    def until(self, done) -> None:
        end = time.monotonic() + 60
        while not done():
            assert time.monotonic() < end
            self.function.tick(time.monotonic())
            for key, mask in self.selector.select(0.05):
                key.data(mask)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_MQTT_BROKER_URL", "mqtt://u:p@h")
    made = []

    def make(name: str, **more: float) -> Asked:
        made.append(Asked(tmp_path, name, **more))
        return made[-1]

    yield make
    for one in made:
        one.function.close()
        one.selector.close()


def test_a_function_is_asked_in_a_process_that_is_kept(asked, caplog: pytest.LogCaptureFixture) -> None:
    site = asked("site_health:read")
    site.until(lambda: site.function.values.get("calls", 0) >= 3)
    values = dict(site.function.values)
    assert set(values) == {"calls", "pid", "at", "secret"}
    assert values["at"] == "2026-01-01T00:00:00"
    assert values["secret"] == "none"
    assert "site_health" not in sys.modules
    assert caplog.text.count("what is left out: what is no number") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("site_health:fails", "failed: ValueError: no\nsensor"),
        ("site_health:lists", "failed: TypeError: it returns list, not a dict"),
        ("site_health:missing", "failed: AttributeError"),
        ("no_such_module:read", "failed: ModuleNotFoundError: No module named 'no_such_module'"),
        ("site_health:leaves", "has ended its process"),
    ],
)
def test_one_that_fails_is_said_once_and_asked_again(asked, caplog, name: str, said: str) -> None:
    site = asked(name)
    ends = 0
    finish = site.function._answered, site.function._failed

    def count(do):
        def counted(what) -> None:
            nonlocal ends
            ends += 1
            do(what)

        return counted

    site.function._answered, site.function._failed = map(count, finish)
    site.until(lambda: ends >= 3)
    assert site.function.values == {}
    assert caplog.text.count(said) == 1


def test_one_that_does_not_answer_is_ended(asked, caplog: pytest.LogCaptureFixture) -> None:
    site = asked("site_health:hangs", timeout=0.5)
    site.until(lambda: "has not answered within 0.5 s" in caplog.text)
    (process,) = site.function._ended
    site.until(lambda: process.poll() is not None)


def test_what_floods_is_cut(asked) -> None:
    site = asked("site_health:floods")
    site.until(lambda: site.function.values)
    assert messages.fitting({"extra": site.function.values})


def test_one_without_an_interpreter_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with selectors.DefaultSelector() as selector:
        function = HealthFunction("m:f", str(tmp_path / "python"), 1.0, selector)
        function.tick(1.0)
        function.tick(5.0)
    assert caplog.text.count("cannot be asked") == 1


@pytest.mark.parametrize("name", ["m", "m:", ":f", "m f:x", "m:f()", "m-a:f"])
def test_what_is_no_function_is_no_setting(name: str) -> None:
    assert FUNCTION.fullmatch(name) is None
    assert FUNCTION.fullmatch("a.b_c:D.e")


# --- at the bridge ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "health",
    [
        {"cpu": 100.1}, {"cpu": -1}, {"cpu": True}, {"cpu": "9"}, {"memory_used": 1.5}, {"disk_free": -1},
        {"temperature": 10**9}, {"uptime": None}, {"extra": []}, {"extra": {"a": [1]}}, {"extra": {"a": 10**16}},
        {"extra": {"a": "x" * 65}}, {"extra": {"x" * 33: 1}}, {"extra": {str(number): 1 for number in range(17)}},
        {"extra": {f"{number:032}": "x" * 64 for number in range(6)}}, {"new": {}}, {"new": "x" * 65},
        {f"new{number}": 1 for number in range(33)}, [], "well",
    ],
)  # fmt: skip
def test_what_no_device_says_is_refused(health) -> None:
    from airflow_mqtt.protocol.errors import PayloadError

    said = {"state": "idle", "connection": 1, "instance": "i", "ts": 1.0, "slots": 1, "free": 1, "running": 0}
    with pytest.raises(PayloadError, match="health"):
        WorkerStatus.decode(orjson.dumps(said | {"health": health}))


def test_a_figure_of_a_newer_device_is_taken() -> None:
    said = {"state": "idle", "connection": 1, "instance": "i", "ts": 1.0, "slots": 1, "free": 1, "running": 0}
    health = {"cpu": 0, "fans": 2, "mood": "fine", "extra": {"<b>": "\x1b[31m"}}
    assert WorkerStatus.decode(orjson.dumps(said | {"health": health})).health == health
