"""What a person may get wrong with compose.yaml: one line says what to do, where `docker compose logs` shows it."""

import os
import secrets
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_site import ROOT, ComposeProject, docker

import servers


@pytest.fixture
def project() -> Iterator[ComposeProject]:
    made = ComposeProject(f"amqtt-bad-{secrets.token_hex(2)}", ROOT / ".cache/compose")
    try:
        yield made
    finally:
        made.remove()
        made.env_file.unlink()


def ended(project: ComposeProject, service: str) -> str:
    """Wait until the service's container has ended (it is started again and again); return its log's last line."""

    def lines() -> list[str]:
        state = project.inspect(service)["State"]
        return project.logs(service).splitlines() if state["ExitCode"] or state["Restarting"] else []

    return servers.wait_for(lines, what=f"{service} to end", timeout=60, every=0.3)[-1]


def volume(project: ComposeProject, name: str, image: str, script: str) -> None:
    """Change a volume of the project."""
    mount = ["-v", f"{project.name}_{name}:/volume", "--entrypoint", "sh", "--user", "0"]
    docker("run", "--rm", *mount, os.environ[image], "-c", script)


def test_without_env(project: ComposeProject, tmp_path: Path) -> None:
    empty = tmp_path / "env"
    empty.write_text("")
    done = project.run("up", "--detach", env_file=empty)
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if "run make env first" in line)
    assert "POSTGRES_PASSWORD" in line


def test_a_port_that_is_taken(project: ComposeProject) -> None:
    with socket.create_server(("127.0.0.1", int(project.values["MQTT_PORT"]))):
        done = project.run("up", "--detach", "broker")
    assert done.returncode != 0
    assert f"127.0.0.1:{project.values['MQTT_PORT']}" in done.stderr
    assert "address already in use" in done.stderr


def test_make_env_takes_another_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 1883))
            taken.listen()
        except OSError:
            pass  # somebody else has it: just as well
        path = tmp_path / "env"
        command = ["python3", str(ROOT / "scripts/compose/make_env.py"), str(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "port 1883 is taken" in said
    assert path.stat().st_mode & 0o777 == 0o600
    first = path.read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "left as it is" in again
    assert path.read_text() == first


def test_a_database_volume_of_another_version(project: ComposeProject) -> None:
    volume(project, "database", "POSTGRES_IMAGE", "echo 9 > /volume/PG_VERSION; chmod 755 /volume")
    project("up", "--detach", "database")
    line = ended(project, "database")
    assert "the volume was made by PostgreSQL 9" in line
    assert "set POSTGRES_IMAGE=postgres:9" in line


def await_database(project: ComposeProject) -> None:
    wait = {"what": "the database to be healthy", "timeout": 90, "every": 0.5}
    servers.wait_for(lambda: project.health("database") == "healthy", **wait)


def test_a_database_volume_with_another_password(project: ComposeProject) -> None:
    project("up", "--detach", "database")
    await_database(project)
    project.environment["POSTGRES_PASSWORD"] = "another"
    # As with the whole site: the database's container is made anew, with the old volume.
    project("up", "--detach", "database")
    said = "database: the volume was made with another .env: put that .env back"
    servers.wait_for(lambda: said in project.logs("database"), what="the reason in the log", every=0.3)
    assert project.logs("database").count("database: ") == 1
    assert project.health("database") != "healthy"
    done = project.run("run", "--rm", "--no-deps", "set-up")
    assert done.returncode != 0
    assert "its volume was made with another .env" in done.stderr + done.stdout


def test_tables_of_a_newer_version(project: ComposeProject) -> None:
    project("up", "--detach", "database")
    await_database(project)
    project("run", "--rm", "--no-deps", "set-up")
    for table in ("alembic_version_mqtt", "alembic_version"):
        newer = f"update {table} set version_num = 'ffffffffffff'"
        project.execute("database", "psql", "-U", "airflow", "-d", "airflow", "-qc", newer)
        project("up", "--detach", "--no-deps", "set-up")
        line = ended(project, "set-up")
        assert "are those of a newer Airflow or airflow-mqtt: use the newer images again" in line, table


def test_a_journal_of_another_version(project: ComposeProject) -> None:
    make = (
        "import os, sqlite3; os.makedirs('/volume/state'); d = sqlite3.connect('/volume/state/journal.sqlite');"
        " d.execute('CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID');"
        " d.execute('INSERT INTO meta VALUES (?, ?)', ('schema', '99')); d.commit()"
    )
    volume(project, "edge-1", "WORKER_IMAGE", f"python3 -c {shlex.quote(make)} && chown -R 10001:10001 /volume")
    project("up", "--detach", "--no-deps", "edge-1")
    line = ended(project, "edge-1")
    assert "the journal in the state directory is of another version (schema 99" in line
    assert "install the version that wrote it" in line


def test_a_broker_store_of_a_newer_version(project: ComposeProject) -> None:
    header = r"printf '\000\265\000mosquitto db\000\000\000\000\000\000\000\011' > /volume/mosquitto.db; chown -R 1883:1883 /volume"
    volume(project, "broker", "MOSQUITTO_IMAGE", header)
    project("up", "--detach", "broker")
    line = ended(project, "broker")
    assert "has format 9, this Mosquitto reads up to 6" in line
    assert "remove /var/lib/mosquitto/mosquitto.db" in line


@pytest.mark.parametrize(
    ("drop", "says"),
    [("acl_file", "add the line 'acl_file /etc/mosquitto/acl'"), ("allow_anonymous", "say 'allow_anonymous false'")],
)
def test_a_broker_without_our_rules(project: ComposeProject, drop: str, says: str) -> None:
    config = ROOT / f".cache/compose/{project.name}.conf"
    text = (ROOT / "mosquitto/mosquitto.conf").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(drop)]
    config.write_text("\n".join([*lines, *(["allow_anonymous true"] if drop == "allow_anonymous" else [])]))
    config.chmod(0o644)
    command = ["run", "--rm", "--env", "MQTT_ACCOUNTS=bridge:x", "-v", f"{config}:/etc/mosquitto/mosquitto.conf:ro"]
    done = subprocess.run(
        ["docker", *command, os.environ["BROKER_IMAGE"]], capture_output=True, text=True, timeout=60, check=False
    )
    config.unlink()
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_a_broker_without_accounts() -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", os.environ["BROKER_IMAGE"]], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "run 'make env'" in done.stderr
