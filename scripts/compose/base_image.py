"""A base image made by debootstrap, for machines that can pull none.

It gets this machine's package sources, certificates and pip settings, so that builds on it reach what this machine
reaches. It stays on this machine; nothing of it is in the repository. Standard library only.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PREFIX = "airflow-mqtt-test"

#: Settings of pip that say how the index is reached.
PIP_SETTINGS = ("index-url", "extra-index-url", "proxy", "cert", "trusted-host", "default-timeout")


class BuildError(SystemExit):
    """An image could not be made; the text has the end of the output."""


def base_image(cache: Path) -> str:
    """Make a Debian with Python as an image, unless this very one is there; return its name."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    recipe = hashlib.sha256(Path(__file__).read_bytes() + pip_conf().encode()).hexdigest()[:12]
    tag = f"{PREFIX}/base:{suite}-{recipe}"
    if subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False).returncode == 0:
        return tag
    began = time.monotonic()
    print(f"making the base image by debootstrap ({suite})", flush=True)
    if shutil.which("debootstrap") is None:
        subprocess.run(["sh", str(HERE.parent / "install-debian"), "debootstrap"], check=True)
    tree = cache / "base"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    # In memory: dpkg writes each file through to the disk otherwise, which takes minutes.
    in_memory = mount(tree)
    try:
        bootstrap(tree, suite, cache / "debootstrap.log")
        adapt(tree)
        pack(tree, tag)
    finally:
        if in_memory:
            subprocess.run(["umount", "--recursive", str(tree)], check=False)
        shutil.rmtree(tree, ignore_errors=True)
    print(f"built base in {time.monotonic() - began:.0f} s", flush=True)
    return tag


def mount(tree: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=1g,mode=755", "tmpfs", str(tree)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def bootstrap(tree: Path, suite: str, log: Path) -> None:
    command = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", suite, str(tree)]
    with log.open("wb") as output:
        done = subprocess.run([*command, *mirror()], stdout=output, stderr=output, check=False)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise BuildError(f"debootstrap failed:\n{tail}")


def mirror() -> list[str]:
    """Return where this machine gets its packages; nothing when it does not say, and debootstrap has its default."""
    lines = []
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if path.suffix in (".list", ".sources") and path.is_file():
            lines += path.read_text().splitlines()
    for line in lines:
        words = line.split()
        if words[:1] in (["URIs:"], ["deb"]):
            found = [word for word in words if word.startswith(("http://", "https://"))]
            if found:
                return found[:1]
    return []


def adapt(tree: Path) -> None:
    """Give the tree this machine's package sources, certificates and pip settings; drop what no image needs."""
    apt = Path("/etc/apt")
    (tree / "etc/apt/sources.list").unlink(missing_ok=True)
    for path in [apt / "sources.list", *apt.glob("sources.list.d/*"), *apt.glob("apt.conf.d/*")]:
        if path.is_file() and path.suffix in (".list", ".sources", "") and "docker-" not in path.name:
            place = tree / path.relative_to("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.is_file():
        shutil.copy(certificates, tree / certificates.relative_to("/"))
    (tree / "etc/pip.conf").write_text(pip_conf())
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(tree / waste, ignore_errors=True)
    (tree / "var/cache/apt/archives/partial").mkdir(parents=True)
    (tree / "var/lib/apt/lists/partial").mkdir(parents=True)


def pip_conf() -> str:
    """Return this machine's settings of pip, less those that name its own directories."""
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found: dict[str, str] = {}
    for line in shown.splitlines():
        name, _, value = line.partition("=")
        value = value.strip("'\"")
        if (key := name.rpartition(".")[2]) in PIP_SETTINGS and "file://" not in value:
            found[key] = value
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(found.items()))


def pack(tree: Path, tag: str) -> None:
    with subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE) as tar:
        command = ["docker", "import", "--change", 'CMD ["bash"]', "-", tag]
        done = subprocess.run(command, stdin=tar.stdout, capture_output=True, text=True, check=False)
    if done.returncode or tar.returncode:
        raise BuildError(f"docker import failed: {done.stderr}")
