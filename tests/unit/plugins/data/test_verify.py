"""``patchbay verify``, and how bad data reads on the terminal."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from core.cli import main

RECIPE = "projects/copa/pretrain_coco.yaml"


@pytest.fixture
def folder(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(12)]
    captions = [{"id": i, "image_id": i, "caption": f"picture number {i}"} for i in range(12)]
    captions.append({"id": 12, "image_id": 99, "caption": "of nothing"})
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    for i in range(11):
        Image.new("RGB", (64, 48), (20 * i, 100, 50)).save(tmp_path / f"{i}.png")
    return tmp_path


def source(folder):
    return f"data.sources=[{{images: {folder}, captions: [{folder}/captions.json]}}]"


def test_everything_is_read_and_counted_whatever_the_budget(folder, capsys):
    assert main(["verify", RECIPE, source(folder), "data.budget=0", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["pictures"], said["records"]) == (12, 25)
    assert list(said) == ["pictures", "records", "splits", "skipped", "messages"]
    assert said["skipped"] == {"unknown image": 1, "missing file": 1}
    assert list(said["splits"]) == ["train", "validation", "test"]
    assert sum(said["splits"].values()) == 12
    assert main(["verify", RECIPE, source(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 images, 25 records: 2 cannot be used"
    assert lines[1] == ", ".join(f"{split} {count}" for split, count in said["splits"].items())
    assert f"{folder}/captions.json: annotations[12].image_id: no image has the id 99" in lines


def test_drawn_data_has_nothing_to_verify(capsys):
    assert main(["verify", "projects/copa/pretrain.yaml"]) == 0
    assert "nothing to verify" in capsys.readouterr().out
    assert main(["verify", "projects/copa/pretrain.yaml", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["pictures", "records", "splits", "skipped", "messages"]
    assert report["splits"] == {"train": 0, "validation": 0, "test": 0}
    assert "nothing to verify" in report["messages"][0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_on_bad_pictures_ends_with_a_sentence(folder, workers, tmp_path, capfd):
    for i in range(4, 11):
        (folder / f"{i}.png").write_text("<html>no picture</html>")
    settings = [f"train.workers={workers}", "train.batch=8", "objectives={itc: {}}", "data.budget=0.1"]
    settings = [*settings, "data.held_out=0", "evaluate.split=train", f"run.folder={tmp_path / 'run'}"]
    assert main(["run", RECIPE, source(folder), *settings]) == 2
    said = capfd.readouterr().err
    assert "images read cannot be used; budget=0.1 allows" in said
    assert "it holds a web page" in said
    assert "Traceback" not in said
