"""The files of the page, and the mark of what is in them: their address has it, and so changes when they do."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

FILES: Final = Path(__file__).parent / "ui/page"


@cache
def version() -> str:
    """Return 16 hexadecimal digits that are others when any of the files is."""
    mark = hashlib.blake2b(digest_size=8)
    for file in sorted(FILES.iterdir()):
        content = file.read_bytes()
        mark.update(b"%b %d " % (file.name.encode(), len(content)) + content)
    return mark.hexdigest()
