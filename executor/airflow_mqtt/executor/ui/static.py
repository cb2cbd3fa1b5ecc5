"""The page's own files: modules that a browser reads as they are, so that nothing is built and nobody needs Node."""

import os
from pathlib import Path
from typing import Any, Final

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from airflow_mqtt.executor.page_files import FILES, version

#: Said by us: what the machine's own table says of `.js` is not the same everywhere, and a browser refuses to run a
#: module that is called anything else.
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

#: A year, the most that is usual: what is at this address never changes.
_FOR_EVER: Final = "public, max-age=31536000, immutable"


class PageFiles(StaticFiles):
    """Serves the page's files below an address that has their `version` in it, as the plugin tells Airflow's page.

    A browser asks for each once, and never again until an upgrade changes the address: a page that is opened needs
    nothing of the network but data, and all its modules are of one version. When a network changes (another access
    point, a VPN, an address that comes or goes) a browser gives up what waits for a connection, and a page one of whose
    modules is missing is not shown at all. At an address of another version there are the same files, not to be kept: a
    tab that was opened before an upgrade knows no other.
    """

    def __init__(self) -> None:
        super().__init__(directory=FILES)

    def file_response(
        self, full_path: Any, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        is_ours = scope["path_params"]["version"] == version()
        response.headers["Cache-Control"] = _FOR_EVER if is_ours else "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if response.status_code == 200:
            response.headers["Content-Type"] = _TYPES[Path(full_path).suffix]
        return response
