"""Files: messages of what cannot be read, and writes that are complete or absent."""

from __future__ import annotations

import os

import pytest

from core import files
from core.settings import RunSettings
from registry.sections import PluginSettings


@pytest.mark.parametrize(
    ("content", "place"),
    [(b"\xff", "1:1"), (b"ab\n\ncd\xe9", "3:3"), (b"a\n" * 9 + b"\x80", "10:1")],
)
def test_a_byte_that_is_not_utf8_is_named_by_line_and_column(tmp_path, content, place):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.txt:{place}: not UTF-8: byte 0x"):
        files.read_text(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read: "):
        files.read_text(str(tmp_path / "none.txt"))


@pytest.mark.parametrize("text", ["", "ä\n", "no newline at the end"])
def test_text_is_read_as_it_was_written(tmp_path, text):
    path = str(tmp_path / "a.txt")
    files.write_text(path, text)
    assert files.read_text(path) == text
    assert os.listdir(tmp_path) == ["a.txt"], "the partial file is left"


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = str(tmp_path / "a.txt")
    files.write_text(path, "old")
    monkeypatch.setattr(files, "sync", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        files.write_text(path, "new")
    assert files.read_text(path) == "old"


def test_json_ends_with_a_newline(tmp_path):
    path = str(tmp_path / "a.json")
    files.write_json(path, {"a": [1]})
    assert files.read_text(path) == '{\n  "a": [\n    1\n  ]\n}\n'


def test_settings_of_plugins_are_found_by_class():
    run = RunSettings(seed=3)
    assert PluginSettings({"run": [run], "other": [1]}).get(RunSettings) is run
    with pytest.raises(LookupError, match="float"):
        PluginSettings({"run": [run]}).get(float)
