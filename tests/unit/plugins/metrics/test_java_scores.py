"""METEOR and SPICE: where they are measured, and what becomes of a Java that fails or hangs. Stand-ins mostly."""

from __future__ import annotations

import logging
import os
import textwrap
import time

import pytest
import small
from evaluations import evaluation
from real_captions import REAL, held_out, real_photos
from small_coca import coca

from plugins.metrics import captions, java_scores

# a scorer that gives the share of pictures whose caption is one of the references
SCORER = """
    class {title}:
        def compute_score(self, wanted, given):
            assert wanted.keys() == given.keys()
            hits = [own in wanted[key] for key, (own,) in given.items()]
            return sum(hits) / len(hits), hits
"""
TOKENS = [["a", "dog"], ["a", "cat"]], [[["a", "dog"], ["one", "dog"]], [["two", "cats"]]]


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """Puts a stand-in for pycocoevalcap first on the path, and one for java."""
    names = {"meteor": SCORER.format(title="Meteor"), "spice": SCORER.format(title="Spice")}

    def make(**bodies):
        for name, body in {**names, **bodies}.items():
            folder = tmp_path / "site" / "pycocoevalcap" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.py").write_text(textwrap.dedent(body))
            for file in java_scores.FILES[name]:
                place = tmp_path / "site" / "pycocoevalcap" / file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
        return tmp_path / "site" / "pycocoevalcap"

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "java").chmod(0o755)
    make()
    (tmp_path / "site" / "pycocoevalcap" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return make


def test_measured_where_package_java_and_files_are(peer, monkeypatch):
    package = peer()
    assert java_scores.available() == ["meteor", "spice"]
    assert java_scores.java_scores(*TOKENS) == {"meteor": 0.5, "spice": 0.5}
    (package / "spice/lib/stanford-corenlp-3.6.0-models.jar").unlink()  # what pycocoevalcap would fetch
    assert java_scores.available() == ["meteor"]
    monkeypatch.setenv("PATH", "")
    assert java_scores.available() == []
    assert java_scores.java_scores(*TOKENS) == {}


def test_without_the_package_nothing_is_said(monkeypatch, caplog):
    monkeypatch.setattr(java_scores, "PEER", "a_package_that_is_not_here")
    assert java_scores.java_scores(*TOKENS) == {}
    assert not caplog.records


def test_a_scorer_gets_tokens_as_text_and_java_may_talk(peer):
    peer(
        spice="""
            import os
            class Spice:
                def compute_score(self, wanted, given):
                    os.system("echo Parsing captions")
                    print("0.75")
                    assert wanted == {"0": ["a dog", "one dog"], "1": ["two cats"]}, wanted
                    assert given == {"0": ["a dog"], "1": ["a cat"]}, given
                    return 0.25, []
        """
    )
    assert java_scores.java_scores(*TOKENS)["spice"] == 0.25


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise MemoryError('Could not reserve enough space')", "Could not reserve enough space"),
        ("return float('nan'), []", "it gives nan"),
        ("import os; os._exit(3)", "ended with 3"),
    ],
)
def test_a_failure_is_told_and_leaves_the_other_measure(peer, caplog, body, said):
    peer(meteor=f"class Meteor:\n    def compute_score(self, wanted, given):\n        {body}\n")
    with caplog.at_level(logging.WARNING, "patchbay"):
        assert java_scores.java_scores(*TOKENS) == {"spice": 0.5}
    (record,) = caplog.records
    assert record.getMessage().startswith("METEOR is left out of the report: ")
    assert said in record.getMessage()


def test_what_takes_too_long_is_ended_with_all_that_it_started(peer, caplog, monkeypatch, tmp_path):
    peer(
        meteor=f"""
            import subprocess
            class Meteor:
                def compute_score(self, wanted, given):
                    java = subprocess.Popen(["sleep", "60"])
                    open({str(tmp_path / "pid")!r}, "w").write(str(java.pid))
                    java.wait()
        """
    )
    monkeypatch.setattr(java_scores, "TIMEOUT_SECONDS", 3.0)
    started = time.monotonic()
    assert "meteor" not in java_scores.java_scores(*TOKENS)
    assert time.monotonic() - started < 20
    assert "it took longer than 3 s" in caplog.text
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if _gone(pid):
            break
        time.sleep(0.1)
    assert _gone(pid)


def _gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"  # dead, and nobody has asked after it yet
    except OSError:
        return True


def test_the_section_and_its_table_have_what_was_measured(peer, monkeypatch):
    made = evaluation(coca(), small.data(), split="validation", examples=4, batch=4)
    monkeypatch.setattr(captions, "write", lambda _, given: [example.caption for example in given])
    section = captions.evaluate(made)["captions"]
    assert section["meteor"] == section["spice"] == 1
    head, written, constant = captions.format_report({"captions": section})["captions"][1:]
    assert head.split() == ["BLEU-4", "ROUGE-L", "CIDEr", "METEOR", "SPICE"]
    assert len(written.split()) == 6
    assert constant.split()[3:] == [f"{section['cider_constant']:.3f}"]
    monkeypatch.setenv("PATH", "")
    assert set(section) - set(captions.evaluate(made)["captions"]) == {"meteor", "spice"}


@pytest.mark.skipif("meteor" not in java_scores.available(), reason="needs pycocoevalcap with Java")
@pytest.mark.skipif(not REAL.is_file(), reason=f"needs real captions at {REAL}")
def test_meteor_of_real_captions():
    """The figure of pycocoevalcap's own wrapper called directly, on its own tokeniser's tokens."""
    found = java_scores.java_scores(*held_out(real_photos(), 4))
    assert found["meteor"] == pytest.approx(0.227214586, abs=1e-6)
