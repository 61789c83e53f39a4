"""Streams of a command: closed and full pipes, redirected descriptors, escapes and widths."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry import terminal

ROOT = Path(__file__).parents[3]


def process(code: str, stdout: int, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``code`` as the command of a process, with ``terminal`` and ``sys`` imported."""
    program = f"import os, sys\nfrom registry import terminal\ndef work():\n    {code}\n    return 0\n"
    program += "from plugins.commands.console import run_cli\nsys.exit(terminal.run_process(lambda: run_cli(work)))"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run([sys.executable, "-c", program], stdout=stdout, stderr=subprocess.PIPE, env=env, check=False)


@pytest.fixture
def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(
    "code",
    [
        "print('x')",
        "print('x' * 100_000)",
        "print('x', flush=True); print('y')",
        "import threading; t = threading.Thread(target=lambda: print('x', flush=True)); t.start(); t.join()",
        "from tqdm import tqdm; bar = tqdm(range(2), file=sys.stdout); list(bar)",
    ],
)
def test_nobody_reads(closed_pipe, code):
    result = process(code, closed_pipe)
    assert (result.returncode, result.stderr) == (terminal.CLOSED_PIPE, b"")


def test_a_log_that_nobody_reads_does_not_end_the_work(closed_pipe, tmp_path):
    code = f"terminal.output_is_a_log(); print('x', flush=True); open({str(tmp_path / 'done')!r}, 'w')"
    result = process(code, closed_pipe)
    assert (result.returncode, result.stderr) == (0, b"")
    assert (tmp_path / "done").exists()


def test_another_broken_pipe_is_an_error():
    result = process("raise BrokenPipeError(32, 'Broken pipe', 'a worker')", subprocess.PIPE)
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"a worker" in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("code", ["print('x')", "print('x', flush=True)"])
def test_a_full_disk_is_named_once(code):
    with open("/dev/full", "wb") as full:
        result = process(code, full.fileno())
    assert result.returncode == 2
    assert result.stderr.count(b"No space left on device: 'standard output'") == 1
    assert b"Traceback" not in result.stderr


def test_any_text_in_an_ascii_terminal():
    result = process(r"print('caf\xe9 \udcff')", subprocess.PIPE, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (result.returncode, result.stdout) == (0, b"caf\\xe9 \\udcff\n")


def test_descriptors_are_restored(capfd):
    with terminal.stdout_to_stderr():
        os.write(1, b"one\n")
        subprocess.run(["echo", "two"], check=True)
        print("three")
    os.write(1, b"four\n")
    streams = capfd.readouterr()
    assert streams.out == "four\n"
    assert sorted(streams.err.split()) == ["one", "three", "two"]


def test_json_output_is_reserved(capfd):
    assert not terminal.writes_json()
    with terminal.json_output() as output:
        print("noise")
        os.write(1, b"noise\n")
        assert terminal.writes_json()
        output.write("{}\n")
    assert not terminal.writes_json()
    streams = capfd.readouterr()
    assert (streams.out, streams.err) == ("{}\n", "noise\nnoise\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2Jred\r\x07", "\\x1b[2Jred\\x0d\\x07"),
        (os.fsdecode(b"caf\xe9.png"), "caf\\xe9.png"),
        ("\x9b31m \x7f \u202egnp.exe", "\\x9b31m \\x7f \\u202egnp.exe"),
        ("一只猫\tund Größe\nعربي", "一只猫\tund Größe\nعربي"),
    ],
)
def test_printable(text, expected):
    assert terminal.printable(text) == expected


def test_width_follows_the_terminal(monkeypatch):
    widths = []
    for columns in ("10", "50", "1000"):
        monkeypatch.setenv("COLUMNS", columns)
        widths.append(terminal.width())
    assert widths == [40, 50, 200]
    lines = terminal.wrap(["  name  a long description of it", "x" * 60, ""], 20, 8)
    assert lines == ["  name  a long", "        description", "        of it", "x" * 60, ""]
