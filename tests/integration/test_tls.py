"""Bridge and worker over TLS, with certificates of a CA that only they are told of."""

import json
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from airflow_mqtt.database import tables
from demo import edge
from demo.processes import find_program
from schema import with_tables
from servers import mosquitto, running, wait_for


def certificates(directory: Path) -> Path:
    """Make a CA and a server certificate for 127.0.0.1 in `directory`."""
    openssl = find_program("openssl", "apt-get install openssl")
    directory.mkdir()

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=directory)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test CA")
    run("req", *key[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", "2", "-extfile", "san", "-out", "server.crt")  # fmt: skip
    (directory / "server.key").chmod(0o644)
    return directory


@pytest.fixture
def broker(tmp_path):
    pki = certificates(tmp_path / "pki")
    tls = {"cafile": pki / "ca.crt", "certfile": pki / "server.crt", "keyfile": pki / "server.key"}
    with mosquitto(tmp_path / "broker", accounts=["edge-1"], overrides={k: str(v) for k, v in tls.items()}) as broker:
        yield broker


def test_both_connect_and_check_the_broker(broker, tmp_path, sqlite_url):
    engine = with_tables(sqlite_url)
    dags = tmp_path / "dags"
    dags.mkdir()
    ca = ["--tls-ca-file", str(tmp_path / "pki" / "ca.crt")]

    def url(account: str) -> str:
        return broker.url(account).replace("mqtt://", "mqtts://")

    bridge = edge.bridge(
        tmp_path / "bridge", broker_url=url("bridge"), database_url=sqlite_url,
        execution_api_url="http://127.0.0.1:9/", options=ca,
    )  # fmt: skip
    worker = edge.worker(tmp_path / "worker", broker_url=url("edge-1"), dags_folder=dags, options=ca)
    stranger = edge.worker(tmp_path / "stranger", broker_url=url("edge-1"), dags_folder=dags)

    def state() -> str | None:
        with engine.connect() as connection:
            return connection.scalar(sa.select(tables.worker.c.state))

    with running(bridge), running(worker):
        wait_for(lambda: state() == "idle", what="an idle worker", timeout=60)
        with engine.connect() as connection:
            assert json.loads(connection.scalar(sa.select(tables.worker.c.info)))["queues"] == ["edge"]
    with running(stranger):  # it does not know the CA
        wait_for(lambda: "certificate" in stranger.tail().lower(), what="its refusal of the certificate")
        assert stranger.alive
