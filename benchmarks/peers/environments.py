"""A virtual environment for each system, made once."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

#: System -> what its environment has beside Airflow; none: the project's own.
PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    "local": (),
    "mqtt": (),
    "celery": ("apache-airflow-providers-celery", "celery<5.6", "redis"),
    "edge": ("apache-airflow-providers-edge3==5.1.0",),
}


def python_of(system: str) -> Path:
    """Return the interpreter of a system; its environment is made when it is not there, or is another one's."""
    packages = PACKAGES[system]
    if not packages:
        return Path(sys.executable)
    venv = ROOT / f".venv-{system}"
    constraints = ROOT / "constraints.txt"
    stamp = venv / ".stamp"
    wanted = hashlib.sha256(repr((sys.version, packages, constraints.read_text())).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {venv.name} …", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        _make(venv, [*packages, "psycopg2-binary", "asyncpg", "-c", str(constraints), f"apache-airflow=={_airflow()}"])
        stamp.write_text(wanted)
    return venv / "bin/python"


def _airflow() -> str:
    """The version that the project's environment has: all systems run on one."""
    program = "import importlib.metadata as m; print(m.version('apache-airflow-core'))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def _make(venv: Path, wanted: list[str]) -> None:
    python = str(venv / "bin/python")
    uv = shutil.which("uv")
    if uv:
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(venv))
        _run(uv, "pip", "install", "--quiet", "--python", python, *wanted)
    else:
        _run(sys.executable, "-m", "venv", str(venv))
        _run(python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *wanted)


def _run(*command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL)
