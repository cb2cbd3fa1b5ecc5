"""The page's files, read as text: what they may not do is held here, what they do in tests/browser."""

import re
from pathlib import Path

import airflow_mqtt.executor.ui.static as served

FILES = sorted((Path(served.__file__).parent / "page").iterdir())
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
