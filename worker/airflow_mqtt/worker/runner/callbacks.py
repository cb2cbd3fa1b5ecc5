"""Which callables a callback may name: Airflow's SDK imports and calls whatever its path says.

A callback's path and arguments are in the order, so whoever may write orders could name `subprocess.run`. What is meant
to be called is code of the Dag bundle or of the device's plugins folder, or a notifier of an installed package.
"""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from airflow.sdk._shared.module_loading import UNUSUAL_MODULE_PREFIX, import_string
from airflow.sdk.bases.notifier import BaseNotifier


def refusal(path: str, folders: Iterable[Any]) -> str:
    """Return why the callable at `path` is not run, or nothing. `folders` hold what may be."""
    module, _, _ = path.rpartition(".")
    if module.startswith(UNUSUAL_MODULE_PREFIX) and "." not in module:
        return ""  # the Dag's own file, which the order names within its bundle
    if _is_inside(_file_of(module), folders) or _is_notifier(path):
        return ""
    return (
        f"{path} is not run on this device: it is neither of the Dag bundle or the plugins folder, nor a notifier"
        " (airflow.sdk.bases.notifier.BaseNotifier)"
    )


def _file_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.has_location:  # built in, or without a file
        return None
    return Path(spec.origin).resolve()


def _is_inside(file: Path | None, folders: Iterable[Any]) -> bool:
    return file is not None and any(file.is_relative_to(Path(folder).resolve()) for folder in folders if folder)


def _is_notifier(path: str) -> bool:
    try:
        found = import_string(path)
    except Exception:
        return False
    return isinstance(found, type) and issubclass(found, BaseNotifier)
