"""A slice of `make faults` for pytest: fewer jobs, the same promises."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults import faults, rig, table


@pytest.fixture(scope="module")
def database() -> Iterator[rig.Database]:
    with rig.database() as server:
        yield server


@pytest.mark.parametrize("name", faults.SLICE)
def test_nothing_is_lost_and_nothing_runs_twice(name: str, database: rig.Database, tmp_path: Path) -> None:
    row = table.run(faults.FAULTS[name], database, tmp_path, seed=7, jobs=40, times=2)
    assert row.kept and not row.unfinished, row.details()
