"""The fleet's page in Airflow's UI: a real api-server, broker, bridge and workers, looked at and acted on in a browser.

`AIRFLOW_MQTT_PICTURES=docs/images pytest tests/browser/test_fleet_page.py` keeps the pictures that the documentation
shows.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

import servers
from browser.chromium import PATIENCE, Browser
from demo import edge
from demo.site import AirflowSite

pytest.importorskip("airflow", reason="Airflow is not installed")

from sqlalchemy import delete, insert, select, update

from airflow_mqtt.config.version import VERSION
from airflow_mqtt.database import tables
from integration.executor.world import World
from leftovers import end_runners

pytestmark = pytest.mark.timeout(900)

DAG = "runs_long"
FLEET = "/plugin/mqtt"
WORKERS = ("edge-1", "edge-2")

#: What a device would have run, if it could.
MARKUP = '<img src=x onerror="window.harm=1"><b>bold\x1b[31m'

#: A table's rows, as their texts.
ROWS = "[...document.querySelectorAll('.mqtt-table tbody tr')].map((row) => row.innerText.replaceAll(/\\s+/g, ' '))"


class Fleet(NamedTuple):
    """What the page shows, and how else it can be seen."""

    site: AirflowSite
    world: World
    watch: edge.Watch

    def url(self, page: str) -> str:
        return f"{self.site.url}{FLEET}/{page}"

    def await_status(self, worker: str, **wanted: Any) -> None:
        """Wait until a device says so of itself."""
        topic = f"airflow/v1/worker/{worker}/status"

        def said() -> bool:
            status = self.watch.last.get(topic, {})
            return all(status.get(key, False) == value for key, value in wanted.items())

        servers.wait_for(said, what=f"{wanted} in {topic}", timeout=PATIENCE)


@pytest.fixture(scope="module")
def fleet(site: AirflowSite, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("fleet")
    with ExitStack() as stack:
        broker = stack.enter_context(servers.mosquitto(directory / "broker", accounts=WORKERS))
        watch = stack.enter_context(edge.Watch(broker.url("monitor")))
        bridge = edge.bridge(
            directory / "bridge",
            broker_url=broker.url("bridge"),
            database_url=site.database_url,
            execution_api_url=site.execution_api_url,
        )
        devices = [
            edge.worker(directory / name, broker_url=broker.url(name), dags_folder=site.dags_folder, name=name, queues=queues)
            for name, queues in zip(WORKERS, ("edge", "spare"), strict=True)
        ]  # fmt: skip
        stack.callback(end_runners, directory)
        for server in (bridge, *devices):
            stack.enter_context(servers.running(server))
        for name, server in zip(WORKERS, devices, strict=True):
            watch.await_state(f"worker/{name}/status", "idle", servers=[server, bridge], timeout=90)
        yield Fleet(site, world, watch)


@pytest.fixture(scope="module")
def long_job(fleet: Fleet) -> Any:
    """A job that runs on edge-1 until somebody ends it."""
    _, job = fleet.world.queue(fleet.world.executor(), fleet.world.queued_task_of_the_run("measure"))
    return job


@pytest.fixture(scope="module")
def odd_worker(fleet: Fleet) -> str:
    """One whose every word is markup, as a bridge without our checks would have written it."""
    add_worker(
        fleet.world, MARKUP, info={"version": MARKUP, "queues": [MARKUP], "labels": {"site": MARKUP}},
        status={"state": "offline", "reason": MARKUP}, desired={"comment": MARKUP + "x" * 900},
    )  # fmt: skip
    return MARKUP


def add_worker(
    world: World,
    name: str,
    *,
    state: str = "offline",
    seen: float = 90_000,
    team_name: str = "",
    **documents: dict[str, Any],
) -> None:
    """Add a row as the bridge writes it, of a device that is not there; it was seen `seen` seconds ago."""
    info = {"version": "0.2.0", "queues": ["edge"], "kinds": ["airflow"], "slots": 4, **documents.pop("info", {})}
    row = {
        "team_name": team_name,
        "name": name,
        "state": state,
        "seen_at": time.time() - seen,
        "info": json.dumps(info),
    }
    with world.session() as session:
        written = {key: json.dumps(document) for key, document in documents.items()}
        session.execute(insert(tables.worker).values(**row, **written))


def tick(browser: Browser, name: str) -> None:
    browser.click(f"input[aria-label={json.dumps(f'Select {name}')}]")


# --- what is shown ----------------------------------------------------------------------------------------------


def test_workers_are_shown_filtered_and_sorted(fleet: Fleet, browser: Browser) -> None:
    browser.open(fleet.url("workers"))
    browser.await_text("edge-1", "edge-2", "0 / 2", "idle")
    browser.fill("input[name=name]", "ge-2")
    browser.await_true(f"({ROWS}).length === 1 && ({ROWS})[0].includes('edge-2')")
    assert "name=ge-2" in browser.run("location.search")
    browser.fill("input[name=name]", "")
    browser.fill("input[name=queue]", "edge")
    browser.await_true(f"({ROWS}).length === 1 && ({ROWS})[0].includes('edge-1')")
    browser.open(fleet.url("workers?name=edge-*"))
    browser.await_true(f"({ROWS}).length === 2 && ({ROWS})[0].includes('edge-1')")
    browser.click("button.mqtt-sort", "Name ↑")
    browser.await_true(f"({ROWS}).length === 2 && ({ROWS})[0].includes('edge-2')")
    browser.open(fleet.url("workers?state=offline&name=edge-*"))
    browser.await_text("No worker is like that.")


def test_pages_are_the_servers(fleet: Fleet, browser: Browser) -> None:
    for number in range(60):
        add_worker(fleet.world, f"sim-{number:03}")
    browser.open(fleet.url("workers?name=sim-*&size=25"))
    browser.await_text("1 to 25 of 60 workers")
    assert len(browser.run(ROWS)) == 25
    browser.click("button[aria-label='Last page']")
    browser.await_text("51 to 60 of 60 workers", "sim-059")
    assert len(browser.run(ROWS)) == 10


def test_what_a_device_says_is_text(fleet: Fleet, odd_worker: str, browser: Browser) -> None:
    browser.open(fleet.url("workers?state=offline&name=b%3Ebold"))
    browser.await_text("<b>bold␛[31m", "site=<img src=x")
    browser.click("td .mqtt-link")
    browser.await_text("Health", "It has not said.")
    assert browser.run("document.querySelectorAll('.mqtt-page img, .mqtt-page b').length") == 0
    assert browser.run("window.harm") is None
    cells = "[...document.querySelectorAll('.mqtt-table td')].filter((cell) => !cell.closest('aside'))"
    assert browser.run(f"Math.max(...{cells}.map((cell) => cell.offsetWidth))") < 500


def test_a_worker_that_is_gone_is_said(fleet: Fleet, browser: Browser) -> None:
    browser.open(fleet.url("workers?open=edge-99"))
    browser.await_text("There is no worker edge-99")
    browser.complaints.clear()  # the browser itself notes the 404


def test_what_cannot_be_seen_is_shown(fleet: Fleet, browser: Browser) -> None:
    browser.open(fleet.url("workers"))
    browser.await_text("edge-1")
    (main,) = browser.run(
        "performance.getEntriesByType('resource').map((each) => each.name).filter((each) => each.endsWith('/main.js'))"
    )
    ours = f"import({json.dumps(main.replace('main.js', 'format.js'))})"
    odd = {"a\u200bb": "a\ufffdb", "a\u061c\u202eb": "a\ufffd\ufffdb", "a\nb\x7f": "a\u240ab\u2421", "é日本": "é日本"}
    assert browser.run(f"{ours}.then(({{shown}}) => {json.dumps(list(odd))}.map(shown))") == list(odd.values())
    # A line that is JSON and no entry of a log is a line, too.
    lines = ["42", "null", '["a"]', '{"a": 1}', '{"event": "hot", "level": "warning"}', '{"event": 1, "level": 2}']
    shown = [*lines[:4], "WARNING  hot", lines[5]]
    assert browser.run(f"{ours}.then(({{readable}}) => readable({json.dumps(chr(10).join(lines))}))") == "\n".join(
        shown
    )


def test_an_address_that_is_none_of_ours_shows_the_first_page(fleet: Fleet, browser: Browser) -> None:
    browser.open(fleet.url("toString"))
    browser.await_text("edge-1")


def test_queues_and_bridge(fleet: Fleet, long_job: Any, browser: Browser) -> None:
    world = fleet.world
    _, job = world.queue(world.executor(), world.queued_task_of_the_run("wait_for_nobody"))
    browser.open(fleet.url("queues"))
    browser.await_text("nowhere", "no worker serves queue 'nowhere'")
    assert any(row.startswith("edge 0") for row in browser.run(ROWS))
    browser.open(fleet.url(f"jobs?open={job.id}"))
    browser.await_text("Waits because", "no worker serves queue 'nowhere'")
    browser.open(fleet.url("bridge"))
    browser.await_text("Leads", "Epoch", "No bridge stands by.")


def test_what_has_not_come_yet_is_not_said_to_be_nothing(fleet: Fleet, browser: Browser) -> None:
    slow = "const ask = window.fetch; window.fetch = (to, ...r) => /acts|workers/.test(to) ? new Promise(() => {}) : ask(to, ...r);"
    added = browser.call("Page.addScriptToEvaluateOnNewDocument", source=slow)["identifier"]
    try:
        for page, there in (("bridge", "Epoch"), ("workers", "Last seen")):
            browser.open(fleet.url(page))
            browser.await_text(there, "…")
            seen = browser.run("document.querySelector('.mqtt-page').innerText")
            assert not any(wrong in seen for wrong in ("Nobody", "0 acts", "0 workers", "No worker")), seen
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added)


def test_it_is_dark_when_airflow_is(fleet: Fleet, browser: Browser) -> None:
    def colours() -> list[str]:
        seen = "getComputedStyle(document.querySelector('.mqtt-page .mqtt-table th'))"
        return [browser.run(f"{seen}.{name}") for name in ("color", "backgroundColor")]

    browser.open(fleet.url("workers"))
    browser.await_text("edge-1")
    shown = {}
    for theme in ("light", "dark"):
        browser.run(f"localStorage.setItem('theme', '{theme}')")
        browser.open(fleet.url("workers"))
        browser.await_true(f"document.documentElement.classList.contains('{theme}') && ({ROWS}).length > 1")
        shown[theme] = colours()
    browser.run("localStorage.setItem('theme', 'light')")
    assert all(light != dark for light, dark in zip(shown["light"], shown["dark"], strict=True))


# --- what is done -----------------------------------------------------------------------------------------------


def test_maintenance_needs_a_comment_and_is_seen_on_the_device(fleet: Fleet, browser: Browser) -> None:
    comment = "<b>disk</b> swap"
    browser.open(fleet.url("workers?name=edge-*"))
    tick(browser, "edge-2")
    browser.click("button", "Maintenance…")
    browser.await_text("Maintenance: 1 worker")
    assert browser.run("document.querySelector('dialog button[type=submit]').disabled")
    browser.fill("dialog textarea", comment)
    browser.click("dialog button", "Maintenance")
    browser.await_text("maintenance mode", comment)
    fleet.await_status("edge-2", maintenance=True)
    assert browser.run("document.querySelector('.mqtt-page b')") is None

    browser.click("td .mqtt-link", "edge-2")
    browser.await_text("request-maintenance", "api:admin")
    browser.click("aside button", "Exit maintenance…")
    browser.click("dialog button", "Exit maintenance")
    fleet.await_status("edge-2", maintenance=False)
    browser.await_true(f"({ROWS}).some((row) => row.includes('edge-2') && row.includes('idle'))")


def test_the_keyboard_is_taken_along(fleet: Fleet, browser: Browser) -> None:
    """Into what opens and back to where one was; what is asked is named, and its danger too."""
    browser.open(fleet.url("workers?name=edge-2"))
    browser.await_text("edge-2")
    browser.run("document.querySelector('td .mqtt-link').focus()")
    browser.click("td .mqtt-link", "edge-2")
    browser.await_true("document.activeElement?.matches('aside.mqtt-drawer')")
    browser.await_true("document.querySelector('aside .mqtt-danger')")
    browser.run("document.querySelector('aside .mqtt-danger').focus()")
    browser.click("aside .mqtt-danger", "Shut down…")
    browser.await_true("document.querySelector('dialog').contains(document.activeElement)")
    texts = "['labelledby', 'describedby'].map((name) => document.getElementById(one.getAttribute(`aria-${name}`)).innerText)"
    said = browser.run(f"(() => {{ const one = document.querySelector('dialog'); return [one.role, ...{texts}]; }})()")
    assert said[:2] == ["alertdialog", "Shut down: 1 worker"]
    assert said[2].startswith("Jobs are ended in order")
    browser.click("dialog button", "Go back")
    browser.await_true("document.activeElement?.matches('aside .mqtt-danger')")
    browser.click("aside .mqtt-close")
    browser.await_true("document.activeElement?.matches('td .mqtt-link')")


def test_what_is_ticked_stays_so_on_another_page_of_the_list(fleet: Fleet, browser: Browser) -> None:
    browser.open(fleet.url("workers?name=edge-*"))
    tick(browser, "edge-2")
    browser.await_text("1 worker selected")
    browser.fill("select[aria-label='Rows on a page']", "25")
    browser.await_true("location.search.includes('size=25')")
    browser.fill("input[name=name]", "edge-1")
    browser.await_true(f"({ROWS}).length === 1 && ({ROWS})[0].includes('edge-1')")
    assert "1 worker selected" in browser.text()


def test_what_is_ticked_is_of_one_team(fleet: Fleet, browser: Browser) -> None:
    """An act on it would be one on another worker, of the same name."""
    add_worker(fleet.world, "edge-2", team_name="north")
    try:
        browser.open(fleet.url("workers?name=edge-2"))
        tick(browser, "edge-2")
        browser.await_text("1 worker selected")
        browser.fill(".mqtt-head select", "north")
        browser.await_true(f"({ROWS}).length === 1 && ({ROWS})[0].includes('offline')")
        assert "selected" not in browser.text()
    finally:
        with fleet.world.session() as session:
            session.execute(delete(tables.worker).where(tables.worker.c.team_name == "north"))


def test_many_are_acted_on_at_once(fleet: Fleet, browser: Browser) -> None:
    browser.open(fleet.url("workers?name=edge-*"))
    browser.await_text("edge-1", "edge-2")
    browser.click("input[aria-label='Select all of this page']")
    browser.click("button", "Slots…")
    browser.await_text("Slots: 2 workers")
    browser.fill("dialog input", "3")
    browser.click("dialog button", "Slots")
    for name in WORKERS:
        fleet.await_status(name, slots=3)
    browser.await_true(f"({ROWS}).filter((row) => row.includes(' / 3')).length === 2")


def test_the_second_operator_sees_what_the_first_did(fleet: Fleet, browser: Browser) -> None:
    browser.open(fleet.url("workers?name=edge-2"))
    tick(browser, "edge-2")
    browser.click("button", "Comment…")
    browser.await_text("Comment: 1 worker")
    client = fleet.site.client
    headers = {"Authorization": f"Bearer {client._token}"}
    body = {"names": ["edge-2"], "comment": "mine"}
    httpx.post(f"{fleet.site.url}/mqtt/api/v1/workers/set-comment", json=body, headers=headers).raise_for_status()
    browser.fill("dialog textarea", "yours")
    browser.click("dialog button", "Comment")
    browser.await_text("somebody else has changed what is wished of worker edge-2 meanwhile")
    browser.click("dialog button", "Go back")
    browser.await_true(f"({ROWS}).length === 1 && ({ROWS})[0].includes('mine')")
    browser.complaints.clear()  # the browser itself notes the 409


def test_a_job_is_cancelled_once_its_device_has_confirmed(fleet: Fleet, long_job: Any, browser: Browser) -> None:
    browser.open(fleet.url(f"jobs?dag_id={DAG}&state=running"))
    browser.await_text("measure", "edge-1", "running")
    browser.click("td button", "Open")
    browser.await_text("the pump runs <b>hot</b>")  # its log, while it runs
    links = browser.run("[...document.querySelectorAll('.mqtt-table td a')].map((link) => link.getAttribute('href'))")
    task = f"/dags/{DAG}/runs/{httpx.QueryParams({'r': fleet.world.run_id})}".replace("r=", "") + "/tasks/measure"
    assert task in links
    browser.click("aside .mqtt-close")
    tick(browser, long_job.id)
    browser.click("button", "Cancel…")
    browser.fill("dialog input", "<i>too hot</i>")
    browser.click("dialog button", "Cancel")
    browser.await_text("worker edge-1 has confirmed")
    assert fleet.world.job(long_job.id).state == "cancelled"
    assert "confirm" in fleet.world.events(long_job.id)
    browser.open(fleet.url(f"jobs?open={long_job.id}"))
    browser.await_text("<i>too hot</i>", "confirm", "cancelled", "api:admin")
    browser.open(fleet.url("bridge"))
    browser.await_text("cancel", long_job.id)


def test_who_may_only_look_is_offered_no_act_and_refused_one(
    fleet: Fleet, browser: Browser, log_in: Callable[[str], None]
) -> None:
    log_in("vera")
    browser.open(fleet.url("workers"))
    browser.await_text("edge-1")
    assert browser.run("document.querySelectorAll('.mqtt-table input[type=checkbox]').length") == 0
    browser.click("td .mqtt-link", "edge-1")
    browser.await_text("Health")
    assert "Shut down" not in browser.text()
    refused = browser.run("""fetch("/mqtt/api/v1/workers/shutdown", {method: "POST", credentials: "same-origin",
        headers: {"Content-Type": "application/json"}, body: JSON.stringify({names: ["edge-1"]})})
        .then(async (answer) => [answer.status, (await answer.json()).detail])""")
    assert refused[0] == 403
    assert "You may not act" in refused[1]
    assert fleet.watch.state("worker/edge-1/status") in {"idle", "running"}


# --- what it costs ----------------------------------------------------------------------------------------------


def test_it_asks_for_what_is_new_while_it_is_seen_and_for_nothing_when_it_is_not(
    fleet: Fleet, browser: Browser
) -> None:
    quick = "const wait = window.setTimeout; window.setTimeout = (f, ms, ...r) => wait(f, ms === 5000 ? 50 : ms, ...r);"
    added = browser.call("Page.addScriptToEvaluateOnNewDocument", source=quick)["identifier"]

    def asked() -> list[int]:
        browser.run("1")  # reads what the browser has noted
        return [status for status, url in browser.answers if "/api/v1/workers" in url]

    try:
        browser.open(fleet.url("workers?name=sim-*"))
        browser.await_value(lambda: len(asked()) > 5, what="six looks")
        assert asked()[0] == 200
        assert 304 in asked()
        hide = "Object.defineProperty(document, 'visibilityState', {value: '%s', configurable: true});"
        look = "document.dispatchEvent(new Event('visibilitychange'))"
        browser.run(hide % "hidden" + look)
        pause = "new Promise((done) => setTimeout(done, 500))"
        browser.run(pause)  # what is on its way arrives
        before = len(asked())
        browser.run(pause)
        assert len(asked()) == before
        browser.run(hide % "visible" + look)
        browser.await_value(lambda: len(asked()) > before, what="another look")
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added)


def test_its_files_are_asked_for_once(fleet: Fleet, browser: Browser) -> None:
    """A page that is opened again needs nothing of the network but data.

    Chromium gives up what waits for a connection when an interface of its machine comes or goes, as those of containers
    do (`net::ERR_NETWORK_CHANGED`), and a module that is missing is "Failed to fetch dynamically imported module".
    """
    browser.open(fleet.url("workers"))
    browser.await_text("edge-1")
    browser.open(fleet.url("queues"))
    browser.await_text("Why jobs wait")
    # What came out of the browser's cache has no size here; a 304 has that of its head.
    sizes = browser.run("""Object.fromEntries(performance.getEntriesByType("resource")
        .filter((each) => each.name.includes("/mqtt/page/")).map((each) => [each.name, each.transferSize]))""")
    assert {name.rpartition("/")[2] for name in sizes} >= {"main.js", "parts.js", "page.css"}
    assert not any(sizes.values()), sizes


# --- pictures ---------------------------------------------------------------------------------------------------


def _look_lived_in(world: World, like: Any) -> None:
    """Add devices that show what a page can show, what people did, and jobs, each `like` one that was there."""
    ends = [("water", "queued", ""), ("measure", "running", ""), ("drain", "running", ""), ("read", "succeeded", ""), ("calibrate", "succeeded", ""),
            ("flush", "failed", "the runner was killed (9)"), ("report", "lost", "worker mill-north was silent for 3600 s"),
            ("read", "succeeded", "")]  # fmt: skip
    acts = [("set-slots", "pump-house-2", "4"), ("request-maintenance", "rooftop-7", "its fan is replaced"),
            ("add-queues", "pump-house-1", "pumps"), ("cancel", like.id, "operator: wrong firmware")]  # fmt: skip
    with world.session() as session:
        session.execute(delete(tables.worker).where(tables.worker.c.name.not_in(WORKERS)))
        session.execute(delete(tables.act))
        for number, (act, subject, detail) in enumerate(acts):
            session.execute(
                insert(tables.act).values(
                    team_name="", at=time.time() - 900 + 200 * number, by="api:admin", act=act, subject=subject, detail=detail,
                    outcome="wished",
                )
            )  # fmt: skip
        row = dict(session.execute(select(tables.job).where(tables.job.c.id == like.id)).one()._mapping)
        for number, (task, state, reason) in enumerate(ends):
            at = time.time() - 400 * (number + 1)
            its = {
                "id": str(uuid.uuid4()), "subject": str(uuid.uuid4()), "dag_id": "pumps", "task_id": task, "state": state,
                "reason": reason, "worker": "mill-north" if state == "lost" else "pump-house-1", "queued_at": at,
                "dispatched_at": at, "accepted_at": at, "started_at": at + 2,
                "finished_at": None if state == "running" else at + 90, "news": False,
                "report_pending": False, "queue": "pumps", "cancel_reason": None,
            }  # fmt: skip
            if state == "queued":
                its |= dict.fromkeys(("worker", "dispatched_at", "accepted_at", "started_at", "finished_at"))
                its["queue"] = "greenhouse"
            session.execute(insert(tables.job).values(**row | its))
    states = {
        "pump-house-1": "running",
        "pump-house-2": "idle",
        "rooftop-7": "maintenance mode",
        "mill-north": "offline",
    }
    for number, (name, state) in enumerate(states.items()):
        health = {
            "cpu": 12.5 + 20 * number, "load": 0.4, "memory_used": 3e8 + 1e8 * number, "memory_total": 1e9,
            "disk_free": 9e9 - 2e9 * number, "disk_total": 32e9, "temperature": 48.0 + 7 * number, "uptime": 864_000,
        }  # fmt: skip
        maintained = state == "maintenance mode"
        add_worker(
            world, name, state=state, seen=7200 if state == "offline" else 4 * number,
            info={"version": VERSION, "queues": ["edge", "pumps"], "labels": {"site": f"plant-{number % 2 + 1}", "arch": "arm64"}},
            status={"state": state, "slots": 4, "health": health},
            desired={"maintenance": maintained, "comment": "its fan is replaced" if maintained else ""},
        )  # fmt: skip
    with world.session() as session:
        session.execute(update(tables.worker).where(tables.worker.c.journal == "").values(journal="seen"))


def test_pictures(fleet: Fleet, long_job: Any, browser: Browser, tmp_path: Path) -> None:
    """Each page can be drawn, without a complaint. (The last of all: what is there is there by then.)"""
    kept = Path(os.environ.get("AIRFLOW_MQTT_PICTURES") or tmp_path)
    kept.mkdir(parents=True, exist_ok=True)
    _look_lived_in(fleet.world, long_job)
    pages = {
        "workers-dark": ("workers?sort=seen_at&desc=1", "pump-house-1"),
        "workers": ("workers?sort=seen_at&desc=1", "pump-house-1"),
        "jobs": ("jobs", "the runner was killed"),
        "queues": ("queues", "no worker serves queue 'greenhouse'"),
        "bridge": ("bridge", "its fan is replaced"),
    }
    browser.open(fleet.url("workers"))
    browser.await_text("edge-1")
    for name, (address, text) in pages.items():
        theme = "dark" if name.endswith("-dark") else "light"
        browser.run(f"localStorage.setItem('theme', '{theme}')")
        browser.open(fleet.url(address))
        browser.await_text(text)
        browser.await_true(f"document.documentElement.classList.contains('{theme}')")
        browser.picture(kept / f"fleet-{name}.png", width=1640, height=620)
        assert (kept / f"fleet-{name}.png").stat().st_size > 10_000
