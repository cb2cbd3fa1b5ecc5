"""`python -m peers [--systems local celery edge mqtt] [--quick]`: executors side by side.

Prints the table. Without --quick it also keeps what was measured, system by system, in
docs/explanation/performance-peers.json, and makes from that the plot beside it and the table of performance.md. Only
figures of one run are to be compared: a run of some systems drops the others.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

from peers.environments import PACKAGES, ROOT, python_of

sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]

from page import fill, machine, write_json  # noqa: E402
from peers.link import Link, link  # noqa: E402
from peers.report import Result, own, plot, table  # noqa: E402
from peers.systems import SYSTEMS  # noqa: E402

_PAGE: Final = ROOT / "docs/explanation/performance.md"
_KEPT: Final = ROOT / "docs/explanation/performance-peers.json"
_PLOT: Final = ROOT / "docs/explanation/performance-peers.svg"

#: What --quick asks of each system: to see that it runs.
_QUICK: Final = ("--tasks", "8", "--singles", "2", "--idle", "5")


def main() -> int:
    signal.signal(signal.SIGTERM, _end)
    arguments = _arguments()
    results = [_measure(name, arguments) for name in arguments.systems]
    print("\n" + "\n".join([table(results), *filter(None, map(own, results))]))
    if arguments.json:
        write_json(arguments.json, [result.to_json() for result in results])
    if not arguments.quick:
        _keep(results)
    return 1 if any(result.error for result in results) else 0


def _end(*_: object) -> NoReturn:
    sys.exit("stopped")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="all of them (default)")
    parser.add_argument("--quick", action="store_true", help="few tasks, to see that it runs; nothing is kept")
    parser.add_argument("--json", type=Path, help="write what was measured to this file too")
    parser.add_argument("--keep", type=Path, help="keep databases' logs, sites and workers' files below this directory")
    return parser.parse_args()


def _measure(name: str, arguments: argparse.Namespace) -> Result:
    title = SYSTEMS[name].title
    python = python_of(name)
    print(f"{title} …", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="airflow-mqtt-peers-", ignore_cleanup_errors=True) as temporary,
        link() as cable,
        _postgres(cable) as database,
    ):
        directory = (arguments.keep or Path(temporary)) / name
        command = [
            str(python), "-m", "peers.measure", "--system", name, "--directory", str(directory),
            "--database-url", database.new_database(), *_of(cable), *(_QUICK if arguments.quick else ()),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return Result(name, title, error=f"exit code {done.returncode}; what it said is above")
    print("   " + done.stdout.splitlines()[-1], flush=True)
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def _of(cable: Link) -> list[str]:
    """Return the flags of `peers.measure` that say where a cable ends."""
    given = ["--host", cable.host]
    return [*given, "--device", cable.device, "--prefix", *cable.prefix] if cable.device else given


def _postgres(cable: Link) -> Any:
    """PostgreSQL as the tests start it, here with all of its durability."""
    from servers import postgres  # type: ignore[import-not-found]  # noqa: PLC0415  tests have no types

    return postgres(bind=cable.host, durable=True)


def _keep(results: list[Result]) -> None:
    write_json(_KEPT, [result.to_json() for result in results])
    _PLOT.write_text(plot(results))
    said = f"Measured with `make bench` on {machine()}, {results[0].at[:10]}.\n"
    blocks = [table(results), f"![The same as bars]({_PLOT.name})\n", *filter(None, map(own, results)), said]
    _PAGE.write_text(fill(_PAGE.read_text(), "peers", "\n".join(blocks)))


if __name__ == "__main__":
    sys.exit(main())
