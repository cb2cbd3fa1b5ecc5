"""Who may be given which jobs: the index says what a look at everybody would."""

import random

import pytest

from airflow_mqtt.bridge import groups as module
from airflow_mqtt.bridge.groups import Groups
from airflow_mqtt.database.labels import fit

LABELS = [("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")]


def some_labels(rng):
    return dict(rng.sample(LABELS, rng.randrange(4)))


@pytest.mark.parametrize("seed", range(20))
def test_the_index_says_what_a_look_at_all_workers_would(seed, monkeypatch):
    monkeypatch.setattr(module, "_IDLE", 3)
    rng, groups = random.Random(seed), Groups()
    workers, opened = {}, {}
    for _ in range(300):
        name, step = f"w{rng.randrange(6)}", rng.randrange(6)
        group = (rng.choice("pq"), tuple(sorted(some_labels(rng).items())))
        if step < 3:
            queues, had = frozenset(rng.sample("pq", rng.randrange(3))), some_labels(rng)
            workers[name] = queues, had
            groups.serve(name, queues, had)
        elif step == 3:
            workers.pop(name, None)
            groups.forget(name)
        elif step == 4 and group[1]:
            groups.open(group)
            opened[group] = True
        elif opened:
            resting = rng.choice(sorted(opened))
            opened[resting] = False
            opened.pop(groups.rest(resting), None)
        for queue in "pq":
            serving = {name for name, (queues, _) in workers.items() if queue in queues}
            assert set(groups.members((queue, ()))) == serving
        for queue, labels in opened:
            fitting = {name for name, (queues, had) in workers.items() if queue in queues and fit(labels, had)}
            assert set(groups.members((queue, labels))) == fitting
            assert {name for name in workers if (queue, labels) in groups.of(name)} == fitting
        assert sum(not waits for waits in opened.values()) <= 3


def test_a_worker_looks_at_those_groups_alone_that_ask_for_what_is_rare(monkeypatch):
    """A device may say other labels a thousand times a second, while each of ten thousand jobs waits for another one."""
    groups, asked = Groups(), []
    for number in range(1000):
        groups.serve(f"w{number}", frozenset("q"), {"arch": "arm64", "unit": str(number)})
    for number in range(2000):  # half of them ask for what nobody has
        groups.open(("q", (("arch", "arm64"), ("unit", str(number)))))
    real = Groups._fits
    monkeypatch.setattr(Groups, "_fits", lambda self, worker, group: asked.append(group) or real(self, worker, group))
    groups.serve("w7", frozenset("qr"), {"arch": "arm64", "unit": "7"})
    assert asked == [("q", (("arch", "arm64"), ("unit", "7")))]
    groups.serve("w7", frozenset("q"), {"arch": "arm64", "unit": "1500"})
    assert list(groups.of("w7")) == [("q", ()), ("q", (("arch", "arm64"), ("unit", "1500")))] and len(asked) == 2


def test_what_is_left_when_all_have_gone_is_nothing():
    groups = Groups()
    groups.serve("w", frozenset("pq"), {"a": "1"})
    groups.open(("p", (("a", "1"),)))
    assert groups.forget("w") == [("p", ()), ("q", ()), ("p", (("a", "1"),))]
    assert (groups._of, groups._members, groups._having, groups._queues, groups._labels) == ({},) * 5


def test_a_new_group_looks_at_those_alone_that_have_its_rarest_label(monkeypatch):
    groups, asked = Groups(), []
    for number in range(1000):
        groups.serve(f"w{number}", frozenset("q"), {"camera": "yes", "device": str(number)})
    real = Groups._fits
    monkeypatch.setattr(Groups, "_fits", lambda self, worker, group: asked.append(worker) or real(self, worker, group))
    assert groups.open(("q", (("camera", "yes"), ("device", "7"))))
    assert list(groups.members(("q", (("camera", "yes"), ("device", "7"))))) == asked == ["w7"]
