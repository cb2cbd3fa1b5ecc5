"""Write the parts of the documentation that are made from the code: `python docs/generate.py [--check]`.

A page holds such a part between two comments, `<!-- generated: NAME -->` and `<!-- end of NAME -->`; the rest of
it is written by hand. `--check` writes nothing and exits 1 when a page is stale (a unit test does the same).
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from airflow_mqtt.config.settings import Setting
from airflow_mqtt.protocol import execution_api, jobs, kinds, messages, workers
from airflow_mqtt.protocol.execution_api import Does, Route, Whose
from airflow_mqtt.protocol.topics import RETAINED, TopicKind, Topics

DOCS = Path(__file__).parent

BLOCK = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end of (?P=name) -->)", re.DOTALL)


def job_diagram() -> str:
    return f"```mermaid\n{jobs.diagram()}```\n"


def job_table() -> str:
    rows = [
        f"| {state} | " + " | ".join(jobs.TABLE.get((state, event), "") for event in jobs.JobEvent) + " |"
        for state in jobs.JobState
        if state not in jobs.TERMINAL
    ]
    head = "| state \\ event | " + " | ".join(jobs.JobEvent) + " |"
    return "\n".join([head, "|---" * (len(jobs.JobEvent) + 1) + "|", *rows]) + "\n"


def command_settings(module: str) -> Callable[[], str]:
    """Return a block that lists `SETTINGS` of `module`."""
    return lambda: "\n".join(map(_setting, importlib.import_module(module).SETTINGS))


def monitor_keys() -> str:
    """Return the keys of `airflow-mqtt top`."""
    keys = importlib.import_module("airflow_mqtt.monitor.keys").KEYS
    names = [", ".join("space" if name == " " else f"`{name}`" for name in key.keys) for key in keys]
    rows = [f"| {name} | {key.help} |" for name, key in zip(names, keys, strict=True)]
    return "\n".join(["| key | does |", "|---|---|", *rows]) + "\n"


def status_topics() -> str:
    """Return each status topic with an example as the code sends it, and its fields as `protocol.md` explains them."""
    return "\n".join(_status_topic(*topic) for topic in _status_examples())


def _status_examples() -> list[tuple[str, str, messages.Message]]:
    """Return topic, when it is published, and an example."""
    topics, at = Topics(), 1767261720.5
    worker = messages.WorkerStatus(
        state="running", connection=41, instance="8c1f5d0e", ts=at, slots=2, free=1, running=1
    )
    queue = messages.QueueStatus(
        queued=3, running=1, oldest_age=12.4, workers_online=0, free_slots=0, ts=at,
        note="jobs wait: nothing is heard of the workers of queue 'edge'",
    )  # fmt: skip
    job = messages.JobStatus(
        state="running", attempt=1, worker="edge-1", queue="edge", dag_id="edge_site", task_id="read_sensors",
        run_id="manual__2026-01-01T10:01:58+00:00", try_number=1, ts=at,
    )  # fmt: skip
    bridge = messages.BridgeStatus(state="leading", instance="site-host-2211", epoch=7, ts=at, version="0.1.0")
    return [
        (
            topics.worker("edge-1", TopicKind.STATUS),
            "At each change (of what runs: five seconds later) and each `interval`. Its will says `offline`.",
            worker,
        ),
        (topics.queue_status("edge"), "Each `status_interval` of the bridge, if it is another.", queue),
        (topics.job_status("0199a7c2-5b1e-7d11-9c7e-2f6f3c1d9a10"), "At each transition of the job.", job),
        (topics.bridge_status, "When a bridge begins to lead, or to connect. Its will says `offline`.", bridge),
    ]


def _status_topic(topic: str, when: str, example: messages.Message) -> str:
    kind, name = Topics().parse(topic).kind, type(example).__name__
    levels = topic.replace("edge-1", "{worker}").replace("/edge/", "/{queue}/").split("/")
    shown = "/".join("{job}" if len(level) == 36 else level for level in levels)
    facts = [f"QoS {0 if kind is TopicKind.JOB_STATUS else 1}", "retained" if kind in RETAINED else "not retained"]
    plain = example.encode().decode()
    lines = [f"## `{shown}`", "", f"A [`{name}`](protocol.md#{name.lower()}): {', '.join(facts)}. {when}", ""]
    lines += ["```", f"{topic} {plain}", "```", "", _fields_in_protocol(name)]
    return "\n".join(lines)


def _fields_in_protocol(name: str) -> str:
    section = (DOCS / "reference/protocol.md").read_text().partition(f"\n### `{name}`\n")[2].partition("\n##")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return "\n".join(rows).replace("](#", "](protocol.md#") + "\n"


def _setting(setting: Setting) -> str:
    facts = [
        f"flag `{setting.flag}`",
        f"variable `{setting.env}`",
        f"key `{setting.name}` in the file",
    ]
    lines = [f"### `{setting.name}`", "", _sentence(setting.help), "", f"- Given as: {', '.join(facts)}."]
    lines.append(f"- Allowed: {setting.allowed}.")
    if setting.required:
        lines.append("- Required.")
    elif setting.default:
        lines.append(f"- Default: `{setting.default}`.")
    if setting.secret:
        lines.append("- Secret: never shown in a log or an error.")
    return "\n".join([*lines, ""])


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", ")")) else f"{text}."


def airflow_options() -> str:
    """Return the options of `airflow.cfg [mqtt]`, as the provider declares them to Airflow."""
    provider = importlib.import_module("airflow_mqtt.executor.provider")
    options: dict[str, dict[str, Any]] = provider.get_provider_info()["config"]["mqtt"]["options"]
    bridge = {setting.name for setting in importlib.import_module("airflow_mqtt.config.bridge").SETTINGS}
    shared = [f"`{name}`" for name in options if name in bridge]
    own = [_option(name, option) for name, option in options.items() if name not in bridge]
    return "\n".join([*own, f"Read by the bridge where it finds the file: {', '.join(shared)}.", ""])


def _option(name: str, option: dict[str, Any]) -> str:
    lines = [f"### `[mqtt] {name}`", "", _sentence(option["description"]), ""]
    lines.append(f"- Type: {option['type']}; variable `AIRFLOW__MQTT__{name.upper()}`.")
    if option.get("default") not in (None, ""):
        lines.append(f"- Default: `{option['default']}`.")
    if option.get("example"):
        lines.append(f"- Example: `{option['example']}`.")
    if option.get("sensitive"):
        lines.append("- Secret: Airflow masks it, and also reads it from `_CMD` and `_SECRET` variants.")
    return "\n".join([*lines, ""])


def airflow_kinds() -> str:
    """Return the kinds of work that Airflow gives to executors."""
    rows = [
        f"| `{kind.workload}` | {kind.since} | {kind.name} | `{kind.gate}` | {_code(kind.flag)} | `{kind.runs_on}` |"
        for kind in kinds.KINDS
    ]
    head = "| workload | since | is | starts by | flag of the executor | a worker must offer |"
    return "\n".join([head, "|---" * 6 + "|", *rows]) + "\n"


def airflow_routes() -> str:
    """Return the table of routes."""
    head = "| methods | path | since | may name | a site grants | is | without a link |"
    return "\n".join([head, "|---" * 7 + "|", *map(_route, execution_api.ROUTES)]) + "\n"


def _route(route: Route) -> str:
    whose = "" if route.whose is Whose.ANYBODYS else route.whose
    does = ", ".join(filter(None, ["the start gate" if route.does is Does.START else route.does, "ours" * route.ours]))
    link = "answered" if route.does is Does.LIVE else "stored" if route.stored else "waits"
    cells = " ".join(route.methods), f"`{route.path}`", route.since, whose, route.needs, does, link
    return f"| {' | '.join(cells)} |"


def metrics() -> str:
    """Return the table of the bridge's metrics."""
    rows = importlib.import_module("airflow_mqtt.bridge.upkeep.metrics").METRICS
    head = "| metric | type | labels beside `team_name` | while it stands by | is |"
    return "\n".join([head, "|---" * 5 + "|", *map(_metric, rows)]) + "\n"


def _metric(row: Any) -> str:
    labels = ", ".join(f"`{label}`" for label in row.labels)
    cells = f"`{row.full_name}`", row.kind, labels, "" if row.of_leader else "there", row.help
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


BLOCKS: dict[str, Callable[[], str]] = {
    "job-diagram": job_diagram,
    "job-table": job_table,
    "worker-table": workers.table,
    "worker-settings": command_settings("airflow_mqtt.worker.settings"),
    "status-topics": status_topics,
    "monitor-settings": command_settings("airflow_mqtt.monitor.settings"),
    "monitor-keys": monitor_keys,
    "bridge-settings": command_settings("airflow_mqtt.config.bridge"),
    "airflow-options": airflow_options,
    "airflow-kinds": airflow_kinds,
    "airflow-routes": airflow_routes,
    "metrics": metrics,
}


def render(page: str) -> str:
    """Return `page` with each generated block made anew."""

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}\n{BLOCKS[found['name']]()}\n{found[3]}"

    return BLOCK.sub(fill, page)


def pages() -> Iterable[Path]:
    return sorted(DOCS.rglob("*.md"))


def stale() -> dict[Path, str]:
    """Return what each stale page should hold."""
    fresh = {page: render(page.read_text()) for page in pages()}
    return {page: text for page, text in fresh.items() if text != page.read_text()}


def main(arguments: list[str]) -> int:
    changes = stale()
    for page, text in changes.items():
        if "--check" in arguments:
            print(f"{page.relative_to(DOCS.parent)} is stale: run python docs/generate.py")
        else:
            page.write_text(text)
            print(f"wrote {page.relative_to(DOCS.parent)}")
    return 1 if changes and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
