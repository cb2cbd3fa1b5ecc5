"""What a job asks of its worker beside its queue: labels, as the worker's operator has set them. Pure.

A worker says itself which labels it has. Whoever may serve a queue is trusted with all of its jobs, whatever their
labels: those choose among the workers of a queue, and keep nobody out.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import MAX_SHORT_TEXT, JobKind, cut

#: (key, value), and those that a job asks for, in order: equal wishes are equal values.
Label = tuple[str, str]
Labels = tuple[Label, ...]

#: Labels that one job may ask for.
MAX_LABELS: Final = 16

#: What the label of a kind begins with: no text of a message or a task may hold it. And kinds that have one.
_KIND: Final = "\0kind "
_SPECIAL: Final = frozenset(JobKind) - {JobKind.AIRFLOW}


def checked(value: Any) -> Labels:
    """Return the labels in `value`. Raises `PayloadError` for what no worker can have."""
    if not isinstance(value, Mapping) or len(value) > MAX_LABELS:
        raise PayloadError(f"labels are a dictionary of {MAX_LABELS} texts at most, such as {{'camera': 'yes'}}")
    for pair in value.items():
        for text in pair:
            if not isinstance(text, str) or not 0 < len(text) <= MAX_SHORT_TEXT or not text.isprintable():
                raise PayloadError(
                    f"{str(text)[:40]!a} is no label: keys and values are texts of 1 to {MAX_SHORT_TEXT} printable"
                    " characters"
                )
    return tuple(sorted(value.items()))


def of_kinds(kinds: Iterable[str]) -> Labels:
    """Return the kinds of jobs that not every worker runs, as labels that no operator and no task can write.

    So a job of such a kind is looked at for those workers alone that run it, as one that asks for labels is.
    """
    return tuple((f"{_KIND}{kind}", "") for kind in kinds if kind in _SPECIAL)


@lru_cache(maxsize=4096)
def parse(document: str) -> Labels:
    """Return the labels in a column. One value for all jobs that ask for the same: a hundred thousand may wait.

    Raises `ValueError` when they cannot be understood.
    """
    try:
        return checked(orjson.loads(document))
    except PayloadError as error:
        raise ValueError(str(error)) from None


def render(labels: Labels) -> str:
    return orjson.dumps(dict(labels)).decode()


def fit(labels: Labels, had: Mapping[str, str]) -> bool:
    """Whether a worker that has the labels `had` has all that is asked for."""
    return all(had.get(key) == value for key, value in labels)


def shown(labels: Labels) -> str:
    """Return `labels` as a person writes them."""
    text = ", ".join(key[1:] if key.startswith(_KIND) else f"{key}={value}" for key, value in labels)
    return cut(text)
