"""`make demo`: start a site and an edge worker, run the example Dag, say what happened, stop everything."""

import argparse
import importlib.metadata
import sys
from pathlib import Path

from demo import edge, example, kept
from demo.brokers import Broker, any_broker
from demo.processes import MissingProgramError, Server, StartError
from demo.site import EXAMPLE_DAGS, AirflowSite

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / ".demo"


class Demo:
    """The parts of one demo below `directory`, started in order and stopped in reverse."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.teller = example.Teller()
        self.broker: Broker = any_broker(directory / "broker", [example.WORKER])
        self.site = AirflowSite(directory / "site", database_url=f"sqlite:///{directory}/site/airflow.db")
        self.bridge = edge.bridge(
            directory / "bridge",
            broker_url=self.broker.url("bridge"),
            database_url=self.site.database_url,
            execution_api_url=self.site.execution_api_url,
        )
        self.worker = edge.worker(
            directory / "worker",
            broker_url=self.broker.url(example.WORKER),
            dags_folder=EXAMPLE_DAGS,
            name=example.WORKER,
        )

    @property
    def servers(self) -> list[Server]:
        """In the order in which they are to be stopped."""
        return [self.worker, self.bridge, *self.site.servers.values(), self.broker]

    def check(self) -> None:
        for server in self.servers:
            if server.process is not None and not server.alive:
                raise StartError(f"{server.name} ended with exit code {server.returncode}\n{server.tail()}")

    # --- the steps

    def start(self) -> None:
        say = self.teller.say
        self.broker.start()
        say("broker", f"{self.broker.command[0]} on 127.0.0.1:{self.broker.port}")
        version = importlib.metadata.version("apache-airflow")
        say("airflow", f"making the tables of Airflow {version} in SQLite (about 15 s) …")
        self.site.migrate()
        say("airflow", "starting api-server, scheduler, dag-processor and triggerer (about 15 s) …")
        self.site.start()
        say("airflow", f"the API answers on {self.site.url}")
        with edge.Watch(self.broker.url("monitor")) as watch:
            self.bridge.start()
            watch.await_state("bridge/status", "leading", servers=[self.bridge])
            say("bridge", "leads")
            self.worker.start()
            state = watch.await_state(f"worker/{example.WORKER}/status", "idle", servers=[self.worker])
            say("worker", f"{example.WORKER} is {state}, serves the queue {edge.QUEUE!r} with 2 slots")

    def run(self) -> bool:
        return example.run(self.site.client, self.teller, self.check)

    def explain(self, *, keep: bool) -> None:
        url = self.broker.url("monitor").removeprefix("mqtt://")
        account, _, place = url.rpartition("@")
        user, _, password = account.partition(":")
        host, _, port = place.partition(":")
        logs = self.directory.relative_to(ROOT) if self.directory.is_relative_to(ROOT) else self.directory
        watch = f"mosquitto_sub -h {host} -p {port} -u {user} -P '{password}' -v -t 'airflow/v1/+/+/status'"
        print(f"\n  Logs of each part: {logs}/site/*.log, bridge/*.log, worker/*.log, broker/*.log")
        if keep:
            print(f"  Airflow's UI:      {self.site.url} (no password)")
            print(f"  The fleet's page:  {self.site.url}/plugin/mqtt")
            print(f"  Status topics:     {watch}")
            print("                     (mosquitto_sub is in the package mosquitto-clients)")
            print("  Stop it all:       make demo-stop")
        else:
            print("  To look at Airflow's UI and at the status topics: make demo KEEP=1 leaves all of it running")

    def stop(self) -> None:
        self.worker.stop()
        self.bridge.stop()
        self.site.stop()
        self.broker.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave all of it running")
    parser.add_argument("--stop", action="store_true", help="stop what --keep left running")
    parser.add_argument(
        "--directory", type=Path, default=DIRECTORY, help="where all of it is kept; it is emptied first"
    )
    options = parser.parse_args()
    if options.stop:
        print("stopped: " + (", ".join(kept.stop(options.directory)) or "nothing was running"))
        return 0
    if kept.still_running(options.directory):
        print("A demo is still running. Stop it first: make demo-stop", file=sys.stderr)
        return 1
    try:
        kept.empty(options.directory, usual=DIRECTORY)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return show(options.directory, keep=options.keep)


def show(directory: Path, *, keep: bool) -> int:
    try:
        demo = Demo(directory)
    except MissingProgramError as error:
        print(error, file=sys.stderr)
        return 1
    going = False
    try:
        print("airflow-mqtt demo: Airflow, a broker, a bridge, and one worker that knows only the broker\n", flush=True)
        demo.start()
        good = demo.run()
        demo.explain(keep=keep)
        going = keep
        if keep:
            kept.remember(directory, demo.servers)
    except (StartError, TimeoutError) as error:
        print(f"\n{error}", file=sys.stderr)
        good = False
    except KeyboardInterrupt:
        print("\ninterrupted, stopping", file=sys.stderr)
        good = False
    finally:
        if not going:
            demo.stop()
    demo.teller.end(good=good)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
