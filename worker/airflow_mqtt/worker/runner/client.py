"""The client of the Execution API with which a supervisor calls: made before the fork, once for all supervisors.

What a first call makes and looks up (the tables of abstract classes, compiled patterns, this device's name) is made
before the fork too, by calls to nobody: else each supervisor did that, on pages that it shared until then.
"""

import contextlib
import functools
import os
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx
from airflow.sdk.api import client as sdk
from airflow.sdk.execution_time import task_runner

from airflow_mqtt.worker.runner.transport import BASE_URL


class _Place(httpx.BaseTransport):
    """Where the transport of this process goes."""

    taken: httpx.BaseTransport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self.taken.handle_request(request)


class _Nobody(httpx.BaseTransport):
    """Wants nothing."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return httpx.Response(409, json={"detail": {"reason": "rehearsal"}}, request=request)


class _NoCookies(httpx.Cookies):
    """A worker sends none, so no answer is searched for them."""

    def extract_cookies(self, response: httpx.Response) -> None:
        pass


_place = _Place()


@functools.cache
def _client() -> sdk.Client:
    made = sdk.Client(base_url=BASE_URL, token="", transport=_place)
    made._cookies = _NoCookies()  # noqa: SLF001  the public way copies it into one that searches
    return made


def make_client(transport: httpx.BaseTransport) -> Any:
    """Return the client of this process, made already; its calls go over `transport` from now on."""
    _place.taken = transport
    return _client()


def prepare_client() -> None:
    """Make the client, and call nobody with it. The device's name is looked up here, and not by each task."""
    sdk.get_hostname = task_runner.get_hostname = functools.cache(sdk.get_hostname)
    call_nobody()


def call_nobody() -> None:
    """Ask nobody for the start of a task, with the client of this process. What is wrong, the first task says."""
    with contextlib.suppress(Exception):
        make_client(_Nobody()).task_instances.start(uuid.UUID(int=0), os.getpid(), datetime.now(UTC))
