"""The page that lists what Airflow has, against the Airflow that is installed: a new release's news is a red test."""

import inspect
import re
from pathlib import Path
from typing import get_args

import pytest

from airflow_mqtt.executor import MqttExecutor
from airflow_mqtt.protocol import execution_api, kinds

pytestmark = pytest.mark.parametrize("world", ["sqlite"], indirect=True, scope="session")

PAGE = (Path(__file__).parents[3] / "docs/reference/airflow-support.md").read_text()

HINT = "docs/reference/airflow-support.md and the installed Airflow disagree: list it there, with where ours is"


def installed() -> tuple[int, ...]:
    from airflow import __version__

    return tuple(map(int, __version__.split(".")[:2]))


def there(since: str, until: str = "") -> bool:
    """Whether the installed Airflow should have what is listed from `since` to `until`."""
    first, last = (tuple(map(int, text.split("."))) if text else None for text in (since, until))
    return first <= installed() and (last is None or installed() <= last)


def rows(section: str) -> list[list[str]]:
    """Return the cells of all tables of a section, but for their heads."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip().strip("`") for cell in line] for line in lines]
    return [line for line in cells if any(re.fullmatch(r"\d\.\d+", cell) for cell in line)]


def test_kinds_of_work():
    from airflow.executors import workloads

    union = get_args(workloads.All)[0]
    has = {cls.__name__ for cls in get_args(union) or (union,)}
    listed = {name for name, since, *_ in rows("Kinds of work") if there(since)}
    assert has == listed, HINT
    assert {kind.workload for kind in kinds.KINDS if there(kind.since)} <= has


def test_attributes_of_executors():
    from airflow.executors.base_executor import BaseExecutor

    has = {name for name in dir(BaseExecutor) if re.match(r"supports_|supported_|pre_assigns_", name)}
    listed = {name: ours for name, since, until, ours in rows("Attributes of executors") if there(since, until)}
    assert has == listed.keys(), HINT
    for name, ours in listed.items():
        assert bool(inspect.getattr_static(MqttExecutor, name)) == ours.startswith("yes"), name


def routes_of_the_app() -> set[tuple[str, str]]:
    """Return (method, path) of all routes, also of those that only older versions of the API have."""
    from airflow.api_fastapi.execution_api.routes import execution_api_router
    from fastapi.routing import APIRoute

    routes = [route for route in execution_api_router.routes if isinstance(route, APIRoute)]
    return {(method, route.path.removeprefix("/")) for route in routes for method in route.methods}


def test_routes():
    has = {(method, re.sub(r"\{\w+", "{", path)) for method, path in routes_of_the_app()}
    listed = {
        (method, re.sub(r"\{\w+", "{", path))
        for methods, path, since, *_ in rows("Routes")
        for method in methods.split()
        if there(since) and not path.startswith("airflow-mqtt/")
    }
    assert has == listed, HINT


def test_each_name_of_a_route_is_airflows_own():
    """What a path names is said in its terms, so that a row can be held against the API by reading."""
    has = {path for _, path in routes_of_the_app()}
    ours = {route.path for route in execution_api.ROUTES if there(route.since) and not route.ours}
    assert ours <= has
