"""Breadth-first search of all reachable states, and of what can still be reached when nothing more goes wrong.

Safety is checked at each step. That nothing is forgotten is checked like this: from every reachable state, all that
is under way is lost and no disturbance comes any more; by the protocol's own means alone (publishing again,
asking again) a state must be in reach in which every job has ended, Airflow has heard of it, and no worker holds
anything.
"""

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from model import bridge, worker
from model.edit import QUEUED, SUCCEEDED, TERMINAL, tidied, undisturbed
from model.state import Instance, Rules, State

Step = tuple[str, State]


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise, with the shortest way to it."""

    promise: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        steps = [f"  {number:2}. {step}" for number, step in enumerate(self.trace, 1)]
        return "\n".join([f"{self.promise}, after {len(self.trace)} steps:", *steps])


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found. `quiet` counts the states that led to an end when nothing more went wrong; `seconds` of processor time are for both."""

    states: int
    steps: int
    depth: int
    quiet: int
    seconds: float
    violation: Violation | None


def successors(state: State, rules: Rules, instance: Instance) -> Iterator[Step]:
    """Yield all that can happen. While jobs or workers are alike, only the first of them does anything."""
    if any(row.pending for row in state.rows):
        yield from bridge.tell(state)
        return
    jobs = range(1 if _jobs_alike(state) else len(state.rows))
    workers = range(1 if _workers_alike(state) else len(state.workers))
    for label, after in bridge.steps(state, rules, instance, jobs, workers):
        yield label, tidied(after, rules)
    for label, after in worker.steps(state, rules, instance, workers):
        yield label, tidied(after, rules)


def _jobs_alike(state: State) -> bool:
    first = state.rows[0]
    return (
        first.state == QUEUED
        and first.attempt == 1
        and all(row == first for row in state.rows)
        and not any(message[0] == "run" for message in state.net)
    )


def _workers_alike(state: State) -> bool:
    first = state.workers[0]
    return (
        not state.net
        and state.sleeper is None
        and all(row.worker is None and row.ran_on is None for row in state.rows)
        and all(other == first for other in state.workers)
    )


def broken(before: State, after: State) -> str:
    """Return which promise the step from `before` to `after` breaks, or nothing."""
    if after.broken:
        return after.broken
    if before.rows is after.rows:
        return ""
    for job, (old, new) in enumerate(zip(before.rows, after.rows, strict=True)):
        if old.state in TERMINAL and (new.state, new.attempt) != (old.state, old.attempt):
            return f"job {job} was {old.state} and is {new.state}"
        if new.state == SUCCEEDED and not (new.ended and new.ran_on == (new.worker, new.attempt)):
            return f"job {job} succeeded, and its user code has not ended on its worker"
    return ""


def finished(state: State) -> bool:
    """Whether nothing is left to do."""
    return all(row.state in TERMINAL and row.told == 1 for row in state.rows) and all(
        not worker.outbox and not any(worker.holds) for worker in state.workers
    )


class Graph:
    """States by number, in the order in which they were found."""

    def __init__(self) -> None:
        self.number: dict[State, int] = {}
        self.states: list[State] = []
        self.parent: list[int] = []
        self.depth: list[int] = []

    def add(self, state: State, parent: int) -> bool:
        if state in self.number:
            return False
        self.number[state] = len(self.states)
        self.states.append(state)
        self.parent.append(parent)
        self.depth.append(0 if parent < 0 else self.depth[parent] + 1)
        return True

    def path(self, number: int) -> list[State]:
        found = []
        while number >= 0:
            found.append(self.states[number])
            number = self.parent[number]
        return found[::-1]


def search(
    instance: Instance, rules: Rules = Rules(), *, progress: bool = True, say: Callable[[str], None] | None = None
) -> Result:
    """Search `instance` under `rules`, to the end or to the first broken promise."""
    gc.disable()  # states have no cycles, and looking for some in millions of tuples takes half of the time
    try:
        return _search(instance, rules, progress, say)
    finally:
        gc.enable()


def _search(instance: Instance, rules: Rules, progress: bool, say: Callable[[str], None] | None) -> Result:
    began = time.process_time()
    graph = Graph()
    graph.add(instance.initial(), -1)
    steps, violation, at = 0, None, 0
    while at < len(graph.states) and violation is None:
        state = graph.states[at]
        for label, after in successors(state, rules, instance):
            steps += 1
            if promise := broken(state, after):
                violation = Violation(promise, (*_labels(graph.path(at), rules, instance), label))
                break
            graph.add(after, at)
        at += 1
        if say is not None and at % 100_000 == 0:
            say(f"{instance.name}: {at} states done, {len(graph.states)} found, {time.process_time() - began:.0f} s")
    quiet = 0
    if violation is None and progress:
        quiet, violation = _stuck(graph, rules, instance)
    seconds = time.process_time() - began
    return Result(len(graph.states), steps, graph.depth[-1], quiet, seconds, violation)


def _stuck(graph: Graph, rules: Rules, instance: Instance) -> tuple[int, Violation | None]:
    """Look for the first state from which the end is out of reach once nothing more goes wrong."""
    saved: set[State] = set()
    for number, state in enumerate(graph.states):
        if not _reaches_end(undisturbed(state), saved, rules, instance):
            path = _labels(graph.path(number), rules, instance)
            unfinished = "all that is under way is lost, nothing more goes wrong, and no end is in reach"
            return len(saved), Violation("something is forgotten", (*path, unfinished))
    return len(saved), None


def _reaches_end(first: State, saved: set[State], rules: Rules, instance: Instance) -> bool:
    """Go on from `first`, in any order, until an end or a state in `saved`; what led there is saved too."""
    if first in saved:
        return True
    if finished(first):
        saved.add(first)
        return True
    seen = {first}
    path = [(first, successors(first, rules, instance))]
    while path:
        step = next(path[-1][1], None)
        if step is None:
            path.pop()
            continue
        after = step[1]
        if after in saved or finished(after):
            saved.update(state for state, _ in path)
            saved.add(after)
            return True
        if after not in seen:
            seen.add(after)
            path.append((after, successors(after, rules, instance)))
    return False


def _labels(path: list[State], rules: Rules, instance: Instance) -> list[str]:
    """Return what happened from state to state, found out again: a label for each state would fill the memory."""
    return [
        next(label for label, after in successors(before, rules, instance) if after == wanted)
        for before, wanted in itertools.pairwise(path)
    ]
