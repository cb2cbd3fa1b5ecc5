"""A slice of `make simulate` and `make simulate-mutants`, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def simulation(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulation", *arguments]
    environment = os.environ | environment
    return subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=590)


def test_no_promise_is_violated():
    result = simulation("--seeds", "600")
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "600 schedules" in result.stdout


def test_one_seed_is_one_run():
    sys.path.insert(0, str(TESTS / "simulation"))
    try:
        from scenario import run

        first, second = run(7), run(7)
    finally:
        sys.path.remove(str(TESTS / "simulation"))
    assert (first.trace, first.faults, first.states) == (second.trace, second.faults, second.states)
    assert first.trace != run(8).trace


def test_one_seed_is_one_run_in_every_process():
    """Python gives texts another hash in each: nothing may depend on the order of a set."""
    tables = [simulation("--seeds", "60", PYTHONHASHSEED=seed).stdout.split(" in ", 1)[1] for seed in "01"]
    first, second = (table.split("\n", 1)[1] for table in tables)  # after the time that it took
    assert first == second


@pytest.mark.timeout(600)  # the rarest shows in one schedule of a thousand
def test_every_defect_is_caught():
    result = simulation("--mutants")
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "NOT CAUGHT" not in result.stdout
