"""`make fleet`: a whole site with 200 simulated and 3 real workers to look at, until Ctrl-C."""

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from demo import edge, kept
from demo.brokers import any_broker
from demo.example import Teller
from demo.processes import MissingProgramError, Server, StartError, find_program, free_port, listens
from demo.site import AirflowSite
from fleet.workers import Fleet

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "examples/fleet/dags"

#: Not below that of `make demo`, which is emptied.
DIRECTORY = ROOT / ".demo-fleet"

#: As `examples/fleet/dags` names them.
QUEUES = 4

#: Signals that end it.
ENDS = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo.fleet", description=__doc__)
    parser.add_argument("--simulated", type=int, default=200, help="workers that only speak the protocol (200)")
    parser.add_argument("--real", type=int, default=3, help="workers that run tasks (3)")
    parser.add_argument(
        "--directory", type=Path, default=DIRECTORY, help="where all of it is kept; it is emptied first"
    )
    options = parser.parse_args()
    for number in ENDS:
        signal.signal(number, _end)
    try:
        with ExitStack() as stack:
            kept.empty(options.directory, usual=DIRECTORY)
            _show(stack, options.directory, options.simulated, options.real)
    except KeyboardInterrupt:
        pass  # that is how it ends
    except (MissingProgramError, StartError, TimeoutError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def _end(_number: int, _frame: FrameType | None) -> None:
    """Stop, wherever we are; whoever is impatient does not stop the stopping."""
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)
    print("\nstopping", flush=True)
    raise KeyboardInterrupt


def _show(stack: ExitStack, directory: Path, simulated: int, real: int) -> None:
    """Start all of it, say where to look, and watch. What was started ends with `stack`, in reverse."""
    teller = Teller()
    names = [f"edge-{number}" for number in range(1, real + 1)]
    database = _postgres(stack)
    broker = any_broker(directory / "broker", names)
    site = AirflowSite(directory / "site", database_url=database, dags_folder=DAGS)
    started: list[Server] = []

    def start(server: Server) -> None:
        stack.callback(server.stop)
        server.start()
        started.append(server)

    start(broker)
    teller.say("broker", f"{broker.command[0]} on 127.0.0.1:{broker.port}")
    teller.say("airflow", "making its tables in PostgreSQL, and starting it (about half a minute) …")
    site.migrate()
    stack.callback(site.stop)
    site.start()
    metrics = f"127.0.0.1:{free_port()}"
    with edge.Watch(broker.url("monitor")) as watch:
        bridge = edge.bridge(
            directory / "bridge",
            broker_url=broker.url("bridge"),
            database_url=database,
            execution_api_url=site.execution_api_url,
            options=["--metrics-address", metrics],
        )
        start(bridge)
        watch.await_state("bridge/status", "leading", timeout=60, servers=[bridge])
        # The bridge's account may speak for any worker, so one connection does for all of the simulated ones.
        fleet = Fleet(
            broker.port, workers=simulated, slots=2, queues=QUEUES, account=("bridge", broker.passwords["bridge"])
        )
        stack.callback(fleet.close)
        fleet.connect()
        for name in names:
            options = ["--health-interval", "10"]  # who looks does not wait a minute for what is shown of it
            url = broker.url(name)
            start(edge.worker(directory / name, broker_url=url, dags_folder=DAGS, name=name, options=options))
        for name in names:
            watch.await_state(f"worker/{name}/status", "idle", "running", timeout=60, servers=started)
    teller.say("workers", f"{simulated} simulated, {real} real")
    prometheus = _prometheus(directory / "prometheus", metrics)
    if prometheus:
        start(prometheus[1])
    _explain(broker.url("monitor"), site.url, metrics, prometheus[0] if prometheus else "")
    while True:
        time.sleep(1.0)
        site.check()
        for server in started:
            if not server.alive:
                raise StartError(f"{server.name} ended with exit code {server.returncode}\n{server.tail()}")


def _explain(monitor: str, site: str, metrics: str, prometheus: str) -> None:
    print(f"\n  The page:    {site}/plugin/mqtt (no password)")
    print(f"  Its tasks:   {site}/dags/fleet_load")
    print(f"  top:         AIRFLOW_MQTT_BROKER_URL='{monitor}' {edge.program()} top")
    print(f"  Prometheus:  {prometheus or 'not installed (apt-get install prometheus)'}")
    print(f"  Its figures: http://{metrics}/metrics")
    print("  Stop it all: Ctrl-C", flush=True)


def _postgres(stack: ExitStack) -> str:
    """Return the URL of a database of a PostgreSQL as the tests start it."""
    from servers import postgres  # type: ignore[import-not-found]  # noqa: PLC0415  tests have no types

    url: str = stack.enter_context(postgres()).new_database("airflow")
    return url.replace("postgresql://", "postgresql+psycopg2://")


def _prometheus(directory: Path, metrics: str) -> tuple[str, Server] | None:
    """Return its address and the server, not started; None where it is not installed."""
    try:
        program = find_program("prometheus", "apt-get install prometheus")
    except MissingProgramError:
        return None
    directory.mkdir(parents=True)
    config = directory / "prometheus.yml"
    scrape = {"job_name": "bridge", "static_configs": [{"targets": [metrics]}]}
    rules = str(ROOT / "deploy/monitoring/airflow-mqtt.rules.yml")
    said = {"global": {"scrape_interval": "5s"}, "rule_files": [rules], "scrape_configs": [scrape]}
    config.write_text(json.dumps(said))  # JSON is YAML
    port = free_port()
    command = [
        program, f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    server = Server("prometheus", command, log=directory / "prometheus.log", ready=lambda: listens(port))
    return f"http://127.0.0.1:{port}", server


if __name__ == "__main__":
    sys.exit(main())
