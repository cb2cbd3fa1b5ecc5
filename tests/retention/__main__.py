"""`python -m retention [--days N] [--jobs N] [--keep DAYS]`: what the tables take, day by day, on both databases."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import servers
from retention.months import DAY, START, Size, site


def main() -> int:
    parser = argparse.ArgumentParser(prog="retention", description=__doc__)
    parser.add_argument("--days", type=int, default=30, help="days that pass (30)")
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs a day (10000)")
    parser.add_argument("--keep", type=int, default=7, help="retention in days (7)")
    parser.add_argument("--only", choices=["sqlite", "postgresql"], help="one database only")
    arguments = parser.parse_args()
    flat = True
    if arguments.only != "postgresql":
        with tempfile.TemporaryDirectory(prefix="airflow-mqtt-retention-") as folder:
            flat &= run("SQLite", f"sqlite:///{folder}/airflow.db", arguments)
    if arguments.only != "sqlite":
        with servers.postgres() as server:
            flat &= run("PostgreSQL", server.new_database(), arguments)
    return 0 if flat else 1


def run(title: str, url: str, arguments: argparse.Namespace) -> bool:
    """Live through the days and print a line for each. Returns whether the sizes stayed flat."""
    print(f"\n{title}: {arguments.jobs} jobs a day, kept for {arguments.keep} days")
    print(
        "| day | jobs | events | log chunks | tables MB | indexes MB | on disk MB | deleting s | batches | vacuumed |"
    )
    print(
        "|----:|-----:|-------:|-----------:|----------:|-----------:|-----------:|-----------:|--------:|---------:|"
    )
    sizes: list[Size] = []
    with site(url, retention=arguments.keep * DAY) as tables:
        for day in range(arguments.days):
            tables.work(day, arguments.jobs)
            began = time.monotonic()
            batches = tables.forget(START + (day + 1) * DAY)
            taken = time.monotonic() - began
            vacuumed = tables.vacuum()
            sizes.append(tables.size())
            print(line(day + 1, sizes[-1], taken, batches, vacuumed), flush=True)
    return judge(sizes, arguments.keep)


def line(day: int, size: Size, taken: float, batches: int, vacuumed: int) -> str:
    megabytes = [f"{value / 1e6:.1f}" for value in (size.table_bytes, size.index_bytes, size.held)]
    cells = [day, *size.rows.values(), *megabytes, f"{taken:.1f}", batches, vacuumed]
    return "| " + " | ".join(map(str, cells)) + " |"


def judge(sizes: list[Size], keep: int) -> bool:
    """Compare the last day with the second one on which as much went as came."""
    if len(sizes) < keep + 3:
        return True
    first, last = sizes[keep + 1], sizes[-1]
    growth = {
        "tables": last.table_bytes / first.table_bytes,
        "indexes": last.index_bytes / first.index_bytes,
        "disk": last.held / first.held,
    }
    print(f"from day {keep + 2} to day {len(sizes)}: " + ", ".join(f"{name} x {by:.2f}" for name, by in growth.items()))
    return first.rows == last.rows and max(growth.values()) < 1.25


if __name__ == "__main__":
    sys.exit(main())
