"""``patchbay caption``, ``embed``, ``retrieve`` and ``classify`` through the console script's own door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import COCA, paint, train_run

from core import cli, load
from plugins.inference.predictor import Predictor

VERBS = ("caption", "embed", "retrieve", "classify")
ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return train_run(tmp_path_factory.mktemp("coca"), COCA)


@pytest.fixture(scope="module")
def model(folder: str) -> Predictor:
    return load(folder, "cpu", "fp32")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures, two of them in a subfolder, beside a file that is none."""
    root = tmp_path_factory.mktemp("shelf")
    paint(root / "inner", 2)
    paint(root, 3, (50, 80))
    (root / "note.txt").write_text("no picture")
    return root


def files(shelf: Path) -> list[str]:
    return [str(shelf / name) for name in ("0.png", "1.png", "2.png", "inner/0.png", "inner/1.png")]


class Said:
    def __init__(self, status: int, out: str, err: str):
        self.status, self.err = status, err
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def patchbay(folder, capsys):
    def call(verb: str, *words: str, place: str = folder) -> Said:
        capsys.readouterr()
        status = cli.main([verb, place, *words, "--device", "cpu", "--precision", "fp32"])
        return Said(status, *capsys.readouterr())

    return call


def test_caption(patchbay, model, shelf):
    said = patchbay("caption", str(shelf), "--max-length", "5")
    assert said.status == 0
    assert said.err == ""  # no bar where nobody looks
    assert [line["image"] for line in said.lines] == files(shelf)
    assert [line["caption"] for line in said.lines] == model.caption(files(shelf), max_length=5)
    assert all(line["score"] < 0 for line in said.lines)


def test_caption_settings(patchbay, model, shelf):
    said = patchbay("caption", *files(shelf), "--beams", "3", "--max-length", "4", "--prompt", "there is")
    wanted = model.caption(files(shelf), "there is", beams=3, max_length=4)
    assert [line["caption"] for line in said.lines] == wanted
    drawn = [patchbay("caption", str(shelf), "--top-p", "0.9", "--seed", seed).lines for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [line["caption"] for line in drawn[0]] == model.caption(files(shelf), top_p=0.9, seed=1)


def test_embed(patchbay, model, shelf, tmp_path):
    (tmp_path / "texts").write_text("a red star\n\n  a blue ring \n", encoding="utf-8")
    texts = ["a disc", "a red star", "a blue ring"]
    said = patchbay("embed", str(shelf), "--text", "a disc", "--texts", str(tmp_path / "texts"))
    assert [line["text"] for line in said.lines[:3]] == texts
    assert [line["image"] for line in said.lines[3:]] == files(shelf)
    found = torch.tensor([line["embedding"] for line in said.lines])
    assert torch.equal(found[:3], model.embed_texts(texts))  # nine digits are exact
    torch.testing.assert_close(found[3:], model.embed_images(files(shelf)))
    assert len(patchbay("embed", "--text", "a disc").lines) == 1
    assert patchbay("embed", files(shelf)[0]).lines == [said.lines[3]]


def test_embed_as_tensors(patchbay, model, shelf, tmp_path):
    out = tmp_path / "shelf.safetensors"
    said = patchbay("embed", str(shelf), "--text", "a disc", "--out", str(out))
    names = str(tmp_path / "shelf.json")
    assert said.lines == [{"tensors": str(out), "names": names, "images": [5, 32], "texts": [1, 32]}]
    assert json.loads(Path(names).read_text()) == {"images": files(shelf), "texts": ["a disc"]}
    torch.testing.assert_close(load_file(out)["images"], model.embed_images(files(shelf)))


def test_retrieve(patchbay, model, shelf):
    said = patchbay("retrieve", str(shelf), "--text", "a red star", "--text", "a ring", "--top", "2")
    found = model.retrieve(files(shelf), ["a red star", "a ring"], top=2)
    wanted = [
        (text, rank + 1, files(shelf)[place])
        for text, row in zip(["a red star", "a ring"], found, strict=True)
        for rank, (place, _) in enumerate(row)
    ]
    assert [(line["text"], line["rank"], line["image"]) for line in said.lines] == wanted


def test_classify(patchbay, model, shelf, tmp_path):
    (tmp_path / "names").write_text("cat\ndog, small\n")
    said = patchbay("classify", str(shelf), "--classes", "cat, dog", "--prompt", "a photo of {labels}")
    for line, row in zip(said.lines, model.classify(files(shelf), ["cat", "dog"], "a photo of {labels}"), strict=True):
        assert line["class"] == row[0][0]
        assert line["top"] == pytest.approx(dict(row), abs=1e-5)
        assert line["score"] == line["top"][line["class"]]
    said = patchbay("classify", str(shelf), "--classes", str(tmp_path / "names"), "--top", "1")
    assert {name for line in said.lines for name in line["top"]} <= {"cat", "dog, small"}
    assert all(len(line["top"]) == 1 for line in said.lines)


@pytest.mark.parametrize("batch", ["1", "2", "3", "100"])
def test_bad_pictures_are_named_and_lose_nothing(patchbay, shelf, tmp_path, batch):
    bad, empty, gone = (tmp_path / name for name in ("bad.png", "empty.jpg", "gone.jpg"))
    bad.write_bytes(Path(files(shelf)[0]).read_bytes()[:600])
    empty.write_bytes(b"")
    good = files(shelf)
    mixed = [str(bad), good[0], good[1], str(empty), str(gone), good[2]]
    alone = patchbay("caption", *good[:3], "--max-length", "3").lines
    said = patchbay("caption", *mixed, "--max-length", "3", "--batch", batch)
    assert said.status == 1
    assert [line["caption"] for line in said.lines] == [line["caption"] for line in alone]
    assert [line["image"] for line in said.lines] == good[:3]
    *faults, total = said.err.splitlines()
    assert [line.split(":")[0] for line in faults] == [str(bad), str(empty), str(gone)]
    assert total == "3 of 6 images could not be read"
    places = patchbay("retrieve", *mixed, "--text", "x", "--top", "9")
    assert places.status == 1
    assert {line["image"] for line in places.lines} == set(good[:3])


def test_only_bad_pictures(patchbay, tmp_path):
    (tmp_path / "bad.png").write_text("x")
    for verb, more in (
        ("caption", []),
        ("retrieve", ["--text", "x"]),
        ("classify", ["--classes", "a,b"]),
        ("embed", []),
    ):
        said = patchbay(verb, str(tmp_path), *more)
        assert (said.status, said.lines) == (1, [])
        assert said.err.endswith("1 of 1 images could not be read\n")
    out = str(tmp_path / "none.safetensors")
    assert patchbay("embed", str(tmp_path), "--out", out).status == 1
    assert load_file(out)["images"].shape == (0, 32)


def test_out_goes_to_a_file_line_by_line(patchbay, folder, shelf, tmp_path, monkeypatch):
    out = tmp_path / "captions.jsonl"
    whole = patchbay("caption", str(shelf)).lines
    said = patchbay("caption", str(shelf), "--out", str(out))
    assert said.lines == []
    assert [json.loads(line) for line in out.read_text().splitlines()] == whole
    assert patchbay("caption", str(shelf), "--out", str(out), "--max-length", "50").status == 2
    assert [json.loads(line) for line in out.read_text().splitlines()] == whole, "a mistake leaves an older file alone"
    captions = Predictor.captions

    def stopped(self, *given, **settings):
        for place, found in enumerate(captions(self, *given, **settings)):
            if place == 2:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(Predictor, "captions", stopped)
    assert cli.main(["caption", folder, str(shelf), "--out", str(out), "--batch", "1"]) == 130
    assert [json.loads(line)["image"] for line in out.read_text().splitlines()] == files(shelf)[:2]


MISTAKES = {
    "a folder without a run": (
        ["caption", "{shelf}", "{shelf}"],
        "{shelf}: holds no run: there is no recipe.yaml in it",
    ),
    "a folder without pictures": (
        ["caption", "{folder}", "{bare}"],
        "{bare}: no image in this folder; looked for .jpg",
    ),
    "beams and draws": (
        ["caption", "{folder}", "{shelf}", "--beams", "2", "--top-p", "0.5"],
        "beams is for a beam search, top_p for draws",
    ),
    "too long": (
        ["caption", "{folder}", "{shelf}", "--max-length", "50"],
        "max_length is 50; after a prompt of 1 it must",
    ),
    "out of range": (
        ["caption", "{folder}", "{shelf}", "--top-p", "1.5"],
        "top_p is 1.5; it must be above 0 and at most 1",
    ),
    "no classes": (["classify", "{folder}", "{shelf}"], "no head for classes of its own: give the classes"),
    "a class twice": (["classify", "{folder}", "{shelf}", "--classes", "a,b,a"], "classes: 'a' is there twice"),
    "a prompt without a place": (
        ["classify", "{folder}", "{shelf}", "--classes", "a,b", "--prompt", "a photo"],
        "prompts: 'a photo' has no {labels}, where the class's name belongs",
    ),
    "one class": (
        ["classify", "{folder}", "{shelf}", "--classes", "clases.txt"],
        "--classes clases.txt: no such file, and one class leaves nothing to choose from",
    ),
    "texts that are not there": (
        ["retrieve", "{folder}", "{shelf}", "--texts", "{bare}/none.txt"],
        "{bare}/none.txt: cannot be read",
    ),
    "an output nowhere": (
        ["embed", "{folder}", "--text", "a", "--out", "{bare}/none/a.safetensors"],
        "{bare}/none/a.safetensors: there is no folder '{bare}/none'",
    ),
    "lines nowhere": (
        ["caption", "{folder}", "{shelf}", "--out", "{bare}/none/a.jsonl"],
        "{bare}/none/a.jsonl: there is no folder '{bare}/none'",
    ),
    "no such device": (["embed", "{folder}", "--text", "a", "--device", "tpu9"], "device: 'tpu9' is no device here"),
}


@pytest.mark.parametrize(("words", "said"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_in_a_line(folder, shelf, tmp_path, capsys, words, said):
    places = {"{folder}": folder, "{shelf}": str(shelf), "{bare}": str(tmp_path)}

    def filled(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    assert cli.main([filled(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert filled(said) in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["caption", "x"], "the following arguments are required: images"),
        (["caption"], "the following arguments are required: folder, images"),
        (["embed", "x"], "nothing to embed: give images, --text or --texts"),
        (["retrieve", "x", "y"], "give --text or --texts"),
        (["caption", "x", "y", "--batch", "0"], "argument --batch: it must be at least 1, got 0"),
        (["caption", "x", "y", "--beams", "two"], "argument --beams: invalid count value: 'two'"),
        (["classify", "x", "y", "--precision", "fp8"], "argument --precision: invalid choice: 'fp8'"),
        (["run"], "the following arguments are required: recipe\n"),
        (["evaluate"], "the following arguments are required: folder\n"),
        (["verify"], "the following arguments are required: recipe\n"),
    ],
)
def test_usage(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys; from core import cli\nfor verb in sys.argv[1:]:\n"
    code += " try: cli.main([verb, '--help'])\n except SystemExit: pass\n"
    code += "print(sorted({'torch', 'PIL', 'numpy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *VERBS], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
