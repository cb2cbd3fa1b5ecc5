"""The documentation says what the code does: generated parts are fresh, the protocol's page is complete, links lead somewhere."""

import importlib.util
import json
import re
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path

import pytest

from airflow_mqtt.protocol import messages
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import Message, checks, orders, reports
from airflow_mqtt.protocol.messages.health import is_health
from airflow_mqtt.protocol.topics import TopicKind, Topics
from airflow_mqtt.protocol.workers import WorkerState

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PROTOCOL = (DOCS / "reference/protocol.md").read_text()
CLASSES = sorted(Message.__subclasses__(), key=lambda cls: cls.__name__)
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])

WORDS = {
    checks.text: "text",
    checks.body: "body",
    checks.path: "path",
    checks.count: "count",
    checks.position: "position",
    checks.ordinal: "ordinal",
    checks.int32: "int32",
    checks.size: "size",
    checks.slots: "slots",
    checks.held_count: "held count",
    checks.http_status: "status",
    checks.time: "time",
    checks.interval: "interval",
    checks.flag: "boolean",
    checks.json_object: "object",
    checks.texts: "texts",
    checks.text_map: "text map",
    orders._log_marks: "marks",
    is_health: "health",
    reports._held_list: "held list",
    checks.objects: "objects",
    checks.job_id: "id",
    checks.worker_name: "id",
}


def _generator():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_are_fresh():
    stale = [str(page.relative_to(ROOT)) for page in _generator().stale()]
    assert not stale, "run python docs/generate.py"


def test_every_block_is_used_and_every_marker_has_an_end():
    pages = [page.read_text() for page in DOCS.rglob("*.md")]
    used = [name for page in pages for name in re.findall(r"<!-- generated: ([a-z-]+) -->", page)]
    ended = [name for page in pages for name in re.findall(r"<!-- end of ([a-z-]+) -->", page)]
    assert sorted(used) == sorted(ended) == sorted(_generator().BLOCKS)


def _type_word(check) -> str:
    if check in WORDS:
        return WORDS[check]
    return f"{_type_word(check.inside)} or null" if isinstance(check, messages.Maybe) else "choice"


@pytest.mark.parametrize("check", [check for check in WORDS if isinstance(check, messages.Whole | messages.Real)])
def test_the_bounds_of_each_number_are_said(check):
    (row,) = re.findall(rf"^\| {WORDS[check]} \| (.*) \|$", PROTOCOL, re.MULTILINE)
    least, greatest = row.split(" from ")[1].split(" to ")
    assert (_number(least), _number(greatest.split(". ")[0].split(", ")[0])) == (check.least, check.greatest)


def _number(text: str) -> int:
    base, _, rest = text.replace(",", "").partition("^")
    power, _, less = rest.partition(" - ")
    return (abs(int(base)) ** int(power or 1) - int(less or 0)) * (-1 if base.startswith("-") else 1)


def _section(cls: type[Message]) -> str:
    found = re.search(rf"^### `{cls.__name__}`\n(.*?)(?=^##|\Z)", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference/protocol.md has no section on {cls.__name__}"
    return found[1]


def _default(spec) -> str:
    if spec.default is not MISSING:
        return f"`{json.dumps(spec.default)}`"
    if spec.default_factory is not MISSING:
        return f"`{json.dumps(spec.default_factory())}`"
    return "required"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_message_is_described_with_all_its_fields(cls):
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", _section(cls), re.MULTILINE)
    assert rows == [(spec.name, _type_word(spec.metadata["check"]), _default(spec)) for spec in fields(cls)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_example_decodes_and_shows_nothing_else(cls):
    (example,) = re.findall(r"```json\n(.*?)```", _section(cls), re.DOTALL)
    message = cls.decode(example.encode())
    assert json.loads(example).keys() <= {spec.name for spec in fields(cls)}
    if isinstance(message, messages.Born):
        assert message.held()


@pytest.mark.parametrize(
    ("cls", "enum"),
    [
        (messages.Run, messages.JobKind),
        (messages.Event, messages.EventType),
        (messages.Event, messages.RejectReason),
        (messages.Event, messages.FinishOutcome),
        (messages.Held, messages.HeldState),
        (messages.WorkerStatus, messages.ReportedState),
        (messages.WorkerStatus, messages.OfflineReason),
        (messages.Request, messages.Method),
        (messages.BridgeStatus, messages.BridgeState),
    ],
)
def test_each_word_of_a_choice_is_explained(cls, enum: type[StrEnum]):
    for word in enum:
        assert f"`{word}`" in _section(cls)


def test_each_topic_is_listed():
    topics = Topics("{root}")
    listed = set(re.findall(r"^\| `([^`]+)` \|", PROTOCOL.split("## Topics")[1].split("\n## ")[0], re.MULTILINE))
    of_worker = [kind for kind in TopicKind if "-" not in kind and kind not in (TopicKind.JOBS, TopicKind.LOGS)]
    expected = {topics.worker("{worker}", kind) for kind in of_worker}
    expected |= {topics.logs("{worker}", "{job}"), topics.job_status("{job}"), topics.bridge_status}
    expected |= {topics.bridge_echo("{instance}")}
    base = topics.base
    expected |= {f"{base}/queue/{{queue}}/jobs/{{worker}}", f"{base}/queue/{{queue}}/status"}
    assert listed == expected


def test_each_state_has_a_meaning():
    states = (DOCS / "explanation/states.md").read_text()
    for state in [*JobState, *WorkerState]:
        assert re.search(rf"^\| `{state}` \| \S", states, re.MULTILINE), state


def _anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file.read_text()), target


def test_the_index_names_every_page():
    index = (DOCS / "README.md").read_text()
    for page in DOCS.rglob("*.md"):
        if page.name != "README.md":
            assert f"({page.relative_to(DOCS)})" in index, page
