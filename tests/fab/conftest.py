"""An api-server whose auth manager is FAB's, with accounts of its own roles and of two that a site might make."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.site import AirflowSite

pytest.importorskip("airflow.providers.fab", reason="make test-fab makes an environment that has it")

PASSWORD = "a password of these tests"  # the same for all

#: Role -> what it may, in FAB's words: (action, resource). The others are FAB's own.
MADE = {
    "Looks": [("can_read", "Jobs"), ("can_read", "Website")],
    "Pools": [("can_edit", "Pools"), ("can_read", "Pools"), ("can_read", "Website")],
}
ROLES = ("Public", "Viewer", "User", "Op", "Admin", *MADE)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowSite]:
    directory: Path = tmp_path_factory.mktemp("site")
    made = AirflowSite(
        directory,
        database_url=f"sqlite:///{directory}/airflow.db",
        dags_folder=directory,
        environment={
            "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
        },
    )
    made.migrate()
    first = (
        "--username",
        "Admin",
        "--password",
        PASSWORD,
        "--firstname",
        "a",
        "--lastname",
        "b",
        "--email",
        "a@example.org",
    )
    made.run("users", "create", "--role", "Admin", *first)
    try:
        server = made.server("api-server")
        server.launch()
        server.await_ready()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def client(site: AirflowSite) -> Callable[[str], httpx.Client]:
    """Make a client of the account of a role; each has the name of its role."""

    @cache
    def of(role: str) -> httpx.Client:
        answer = httpx.post(f"{site.url}/auth/token", json={"username": role, "password": PASSWORD}, timeout=60)
        answer.raise_for_status()
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        return httpx.Client(base_url=site.url, headers=headers, timeout=60)

    def make(kind: str, body: dict[str, Any]) -> None:
        of("Admin").post(f"/auth/fab/v1/{kind}", json=body).raise_for_status()

    for role, rights in MADE.items():
        actions = [{"action": {"name": action}, "resource": {"name": resource}} for action, resource in rights]
        make("roles", {"name": role, "actions": actions})
    for role in ROLES:
        if role != "Admin":
            names = {"username": role, "first_name": role, "last_name": role, "email": f"{role}@example.org"}
            make("users", {**names, "password": PASSWORD, "roles": [{"name": role}]})
    return of
