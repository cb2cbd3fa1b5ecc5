"""The page's files, read as text: what they may not do is held here, what they do in tests/browser."""

import re

import airflow_mqtt.executor.ui.static as served
from airflow_mqtt.executor import page_files

FILES = sorted(page_files.FILES.iterdir())
MODULES = {path.name: path.read_text() for path in FILES if path.suffix == ".js"}


def test_each_file_has_a_type():
    assert MODULES
    assert {path.suffix for path in FILES} == set(served._TYPES)


def test_nothing_is_loaded_but_our_own_files():
    for name, text in MODULES.items():
        for found in re.findall(r'from "([^"]+)"', text):
            assert found.removeprefix("./") in MODULES, (name, found)
        assert not re.search(r"\bimport\(|https?://", text), name


def test_no_text_becomes_markup_or_code():
    for name, text in MODULES.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )


def test_other_files_have_another_version(tmp_path, monkeypatch):
    monkeypatch.setattr(page_files, "FILES", tmp_path)
    versions = []
    for name, content in [("a.js", "1"), ("b.js", ""), ("b.js", "2"), ("a.js", "12")]:
        (tmp_path / name).write_text(content)
        versions.append(page_files.version.__wrapped__())
    (tmp_path / "b.js").rename(tmp_path / "c.js")
    versions.append(page_files.version.__wrapped__())
    assert len(set(versions)) == len(versions)
    assert page_files.version.__wrapped__() == versions[-1]
