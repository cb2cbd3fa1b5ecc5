"""What is measured: one row of the table each."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scenario:
    """`jobs` are measured; `waiting` others, of the same queue, wait before them, `history` have ended yesterday.

    `half_of` names the row at half of whose rate the jobs come. `held` jobs are running when the leader is killed, if
    this is a takeover. `idle` and `limit` are in seconds: for how long the fleet only heartbeats, and after how long
    the row is given up.
    """

    name: str
    title: str
    workers: int
    jobs: int
    slots: int = 8
    queues: int = 1
    idle: float = 0.0
    sqlite: bool = False
    history: int = 0
    waiting: int = 0
    held: int = 0
    half_of: str = ""
    limit: float = 900.0  # seconds for each part of it: this is to hold on a slow machine, too


ROWS: Final = (
    Scenario("20", "20 workers", 20, 5000, idle=30),
    Scenario("half", "20 workers, at half of that rate", 20, 3000, half_of="20"),
    Scenario("2000", "2,000 workers", 2000, 5000, idle=30),
    Scenario("10000", "10,000 workers", 10_000, 5000, slots=2, idle=60),
    Scenario("history", "20 workers, 1,000,000 jobs ended before", 20, 5000, history=1_000_000),
    Scenario("queued", "20 workers, 100,000 more jobs queued", 20, 5000, waiting=100_000),
    Scenario("takeover", "takeover with 10,000 workers and 10,000 live jobs", 10_000, 100, slots=2, held=10_000),
    Scenario("sqlite", "20 workers, SQLite", 20, 3000, idle=10, sqlite=True),
)

#: A slice that takes half a minute and proves nothing but that it runs.
QUICK: Final = (
    Scenario("20", "20 workers", 20, 200, idle=2, limit=60),
    Scenario("takeover", "takeover with 50 workers and 50 live jobs", 50, 20, slots=2, held=50, limit=60),
    Scenario("sqlite", "20 workers, SQLite", 20, 100, sqlite=True, limit=60),
)
