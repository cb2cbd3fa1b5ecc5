"""Make the virtual environment .venv with everything that demo, checks and tests need. Standard library only.

Does nothing when it is already made for this Python, this `pyproject.toml` (what it says about dependencies and
packaging) and these constraints. Uses uv where it is there, else venv and pip. `setup.py 3.1.8` makes .venv-3.1.8
instead, with that Airflow and constraints-3.1.8.txt; `setup.py fab` makes .venv-fab, with constraints-fab.txt and what
is `BESIDE` it.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUFFIX = f"-{sys.argv[1]}" if len(sys.argv) > 1 else ""
VENV = ROOT / f".venv{SUFFIX}"
STAMP = VENV / ".stamp"
LOCK = ROOT / ".cache/setup.lock"
#: What an environment has that the others have not.
BESIDE = {"-fab": ["apache-airflow-providers-fab"]}
CONSTRAINTS = ROOT / f"constraints{SUFFIX}.txt"


def main() -> int:
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = fingerprint()
        if STAMP.exists() and STAMP.read_text() == wanted:
            return 0
        print(f"setup: making {VENV.name}", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        try:
            make()
        except subprocess.CalledProcessError as error:
            print(f"setup: {' '.join(map(str, error.cmd[:4]))} … failed", file=sys.stderr)
            return 1
        STAMP.write_text(wanted)
    return 0


def fingerprint() -> str:
    """Return what changes when the environment has to be made anew."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parts = [project["build-system"], project["project"], project["dependency-groups"], project["tool"]["hatch"]]
    text = json.dumps([sys.version, str(ROOT), parts, CONSTRAINTS.read_text()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def development_requirements() -> list[str]:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return list(groups["dev"])


def make() -> None:
    wanted = ["-c", str(CONSTRAINTS), "-e", f"{ROOT}[airflow]", *development_requirements(), *BESIDE.get(SUFFIX, [])]
    if shutil.which("uv"):
        run("uv", "venv", "--quiet", "--python", sys.executable, str(VENV))
        # Compiled, as pip does it: else each process that imports Airflow may have to compile it again.
        python = str(VENV / "bin/python")
        run("uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *wanted)
        return
    make_without_uv()
    pip = [str(VENV / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "install", *wanted)


def make_without_uv() -> None:
    """Run `python3 -m venv`; Debian keeps what it needs in a package of its own."""
    if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True, check=False).returncode:
        run(str(ROOT / "scripts/install-debian"), "python3-venv")
    run(sys.executable, "-m", "venv", str(VENV))


def run(*command: str) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    environment.pop("VIRTUAL_ENV", None)
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
