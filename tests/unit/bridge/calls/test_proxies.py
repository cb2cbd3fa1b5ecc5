"""Through which proxy the Execution API is called: by the environment, as HTTP clients read it."""

import pytest

from airflow_mqtt.bridge.calls.execution_api import ExecutionApi, proxy_of

URL = "http://user:secret@api-server:8080/execution/"
VARIABLES = ("all_proxy", "http_proxy", "https_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("proxy", ["socks5h://proxy:1080", "socks5://proxy:1080", "socks4://proxy"])
async def test_a_proxy_that_is_no_http_proxy_is_said_and_left_out(monkeypatch, caplog, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    await ExecutionApi(URL).close()  # it was an ImportError
    assert "is no HTTP proxy" in caplog.text and "api-server:8080" in caplog.text
    assert "secret" not in caplog.text
    assert proxy_of(URL) is None


def test_the_environment_says_which_it_is(monkeypatch):
    assert proxy_of(URL) is None
    monkeypatch.setenv("ALL_PROXY", "http://all:3128")
    assert proxy_of(URL) == "http://all:3128"
    monkeypatch.setenv("http_proxy", "http://one:3128")
    assert proxy_of(URL) == "http://one:3128"
    monkeypatch.setenv("NO_PROXY", "api-server")
    monkeypatch.setenv("no_proxy", "api-server")
    assert proxy_of("http://api-server:8080/execution/") is None
