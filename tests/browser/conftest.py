"""One api-server and one browser for all pages that are looked at."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import servers
from browser.chromium import Browser
from demo.client import AirflowClient
from demo.processes import MissingProgramError, find_program
from demo.site import AirflowSite

pytest.importorskip("airflow", reason="Airflow is not installed")

from integration.executor.world import World

#: Who may log in, and as what.
ROLES = {"admin": "admin", "vera": "viewer"}
PASSWORD = "a password of these tests"  # the same for all


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowSite]:
    """An api-server that knows the Dags of these tests and has people with several roles."""
    directory = tmp_path_factory.mktemp("site")
    passwords = directory / "passwords.json"
    passwords.write_text(json.dumps(dict.fromkeys(ROLES, PASSWORD)))
    made = AirflowSite(
        directory,
        database_url=f"sqlite:///{directory}/airflow.db",
        dags_folder=Path(__file__).parent / "dags",
        environment={
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in ROLES.items()),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        },
    )
    made.client = AirflowClient(made.url, password=PASSWORD)
    made.migrate()
    try:
        server = made.server("api-server")
        server.launch()
        made.run("dags", "reserialize")
        server.await_ready()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def world(site: AirflowSite, request: pytest.FixtureRequest) -> Iterator[World]:
    """The site's database, with a run of the module's Dag, and Airflow in this process bound to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site.environment.items():
            patch.setenv(name, value)
        from airflow import settings

        settings.configure_vars()
        settings.configure_orm()
        dag: str = request.module.DAG
        made = World(site.directory, dag, site.client.trigger(dag))
        made.start_run()
        yield made
        settings.dispose_orm()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    try:
        program = find_program("chromium-headless-shell", "apt-get install chromium-headless-shell")
    except MissingProgramError as error:
        servers.missing(error)
    with Browser(program, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(site: AirflowSite, chromium: Browser, log_in: Callable[[str], None]) -> Iterator[Browser]:
    """A browser in which the administrator is logged in; no page may make it complain."""
    chromium.forget()
    log_in("admin")
    yield chromium
    complaints = list(chromium.complaints)
    chromium.open("about:blank")
    assert complaints == []


@pytest.fixture
def log_in(site: AirflowSite, chromium: Browser) -> Callable[[str], None]:
    """Log somebody in, as the login page does."""

    def enter(name: str) -> None:
        answer = httpx.post(f"{site.url}/auth/token", json={"username": name, "password": PASSWORD}, timeout=60)
        answer.raise_for_status()
        chromium.call("Network.setCookie", name="_token", value=answer.json()["access_token"], url=site.url)

    return enter
