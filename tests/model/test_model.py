"""A small instance is searched to its end, and each deliberate defect is caught. `python -m model` searches more."""

import pytest

from model.defects import COVERED, DEFECTS, Defect, hunt
from model.instances import ONE_WORKER, TWO_WORKERS
from model.search import search
from model.state import Instance


@pytest.mark.parametrize(
    "instance",
    [ONE_WORKER, TWO_WORKERS, Instance("two calm jobs", jobs=2, workers=2, attempts=2, disturbances=0)],
    ids=lambda instance: instance.name,
)
def test_every_promise_holds(instance):
    found = search(instance)
    assert found.violation is None, str(found.violation)
    assert found.states > 100


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defect_is_caught(defect: Defect):
    found = hunt(defect)
    assert found.violation is not None
    print(found.violation)


@pytest.mark.parametrize("defect", COVERED, ids=lambda defect: defect.name)
def test_mechanism_is_covered_by_another(defect: Defect):
    """When this fails, a mechanism has become the only one of its kind: move it to `DEFECTS`."""
    found = hunt(defect)
    assert found.violation is None, str(found.violation)
