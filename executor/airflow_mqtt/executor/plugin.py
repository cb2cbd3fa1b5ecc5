"""What Airflow loads of us as a plugin (entry point `airflow.plugins`).

Every process that loads plugins imports this module, also one that runs a single task on a device: nothing is imported
here, nor done in `on_load`, that an API server alone needs. Its HTTP API and page (`ui`) are made when somebody
asks for something.
"""

import threading
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from airflow_mqtt.executor import remote_logs
from airflow_mqtt.executor.page_files import version

#: Where Airflow mounts what we serve.
PREFIX: Final = "/mqtt"


def is_configured() -> bool:
    """Whether `MqttExecutor` is among the executors here, by whatever alias and of whatever team."""
    return "airflow_mqtt.executor." in conf.get("core", "executor", fallback="")


def _address(path: str) -> str:
    """Return where a browser finds what we serve as `path`: Airflow may stand below a path of its host.

    It begins with `/`: Airflow 3.1 and 3.2 would look for anything else beside their own scripts.
    """
    base_url: str = conf.get("api", "base_url", fallback="/")
    return urlsplit(base_url).path.rstrip("/") + PREFIX + path


class _Lazy:
    """An ASGI application that is made when it is called first."""

    def __init__(self) -> None:
        self._app: Any = None
        self._lock = threading.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._lock:  # it is made in a moment, and once
            if self._app is None:
                from airflow_mqtt.executor.ui.app import make_app  # noqa: PLC0415 - see above

                self._app = make_app()
        await self._app(scope, receive, send)


class MqttPlugin(AirflowPlugin):  # type: ignore[misc]
    """Shows the logs of our tasks, and serves operators."""

    name = "mqtt"
    fastapi_apps: ClassVar[list[Any]] = [{"app": _Lazy(), "url_prefix": PREFIX, "name": "airflow-mqtt"}]
    react_apps: ClassVar[list[Any]] = [
        {
            "name": "MQTT fleet",  # `ui/page/main.js` registers itself by this name
            "destination": "nav",
            "url_route": "mqtt",  # `HOME` of `ui/page/h.js`
            "bundle_url": _address(f"/page/{version()}/main.js"),
            "icon": _address(f"/page/{version()}/icon.svg"),
            "icon_dark_mode": _address(f"/page/{version()}/icon_dark.svg"),
        }
    ]

    @classmethod
    def on_load(cls, *_args: Any, **_kwargs: Any) -> None:
        """Put our reader of logs in place."""
        if is_configured():
            remote_logs.put_in_place()
