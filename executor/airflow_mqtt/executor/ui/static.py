"""The page's own files: modules that a browser reads as they are, so that nothing is built and nobody needs Node."""

import os
from pathlib import Path
from typing import Any, Final

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

_FILES: Final = Path(__file__).parent / "page"

#: Said by us: what the machine's own table says of `.js` is not the same everywhere, and a browser refuses to run a
#: module that is called anything else.
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class PageFiles(StaticFiles):
    """Serves the page's files.

    A browser keeps them, and asks each time whether they are new: after an upgrade none is of another version than the
    rest.
    """

    def __init__(self) -> None:
        super().__init__(directory=_FILES)

    def file_response(self, full_path: Any, stat_result: os.stat_result, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, stat_result, *args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if response.status_code == 200:
            response.headers["Content-Type"] = _TYPES[Path(full_path).suffix]
        return response
