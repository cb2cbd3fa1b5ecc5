"""Which distributions are installed beside the worker, by the names of their metadata directories.

`importlib.metadata` would say the same, and costs 3 MB of memory for the mail parser that it reads metadata with.
"""

import re
import sys
from pathlib import Path


def installed_version(distribution: str) -> str | None:
    """Return the version of `distribution`, or None when it is not installed."""
    name = re.escape(re.sub(r"[-_.]+", "_", distribution))
    pattern = re.compile(rf"{name}-([^-]+)\.(dist|egg)-info", re.IGNORECASE)
    for folder in sys.path:
        path = Path(folder or ".")
        if not path.is_dir():
            continue
        for entry in path.glob("*-info"):
            found = pattern.fullmatch(entry.name)
            if found is not None:
                return found[1]
    return None
