"""Overrides on the folders of runs and imports: commands, ``load``, and messages for folders of one part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file
from small_runs import COPA, paint, train_run

from core import load
from core.cli import main
from plugins.inference.verbs import split_overrides

KEEP = "model.backbone.prune[0].pruner.keep_rate=0.25"  # of 16 patches
EVIT = "model.backbone.prune=[{after_block: 1, pruner: {name: evit, keep_rate: 0.5}}]"
UNPRUNED = "model.backbone.prune=[]"


@pytest.fixture(scope="module")
def copa(tmp_path_factory: pytest.TempPathFactory) -> str:
    return train_run(tmp_path_factory.mktemp("copa"), COPA)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return paint(tmp_path_factory.mktemp("images"), 2)


def kept(folder: str, *overrides: str) -> int:
    """Count the patches of an image that a loaded model keeps."""
    model = load(folder, "cpu", "fp32", overrides).model
    trunk = model.trunk(load(folder, "cpu", "fp32")._preprocess(paint(Path(folder) / "images", 1)))
    start, stop = model.run_pruned_blocks(trunk).patches
    return stop - start


def report_of(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    output = capsys.readouterr()
    assert not output.out
    return output.err.strip()


def test_load_changes_the_pruning(copa):
    assert (kept(copa), kept(copa, KEEP), kept(copa, UNPRUNED)) == (8 + 1, 4 + 1, 16)  # the average is a token more
    assert kept(copa, EVIT) == 9  # 8 patches and the average of the others


def test_load_refuses_settings_of_other_sections(copa):
    with pytest.raises(ValueError, match=r"override 'train.steps=5': only the model can be changed here"):
        load(copa, "cpu", "fp32", ["train.steps=5"])


def test_a_wrong_override_is_explained_as_in_recipes(copa):
    with pytest.raises(ValueError, match=r"keep_rat.*Did you mean 'keep_rate'\?"):
        load(copa, "cpu", "fp32", ["model.backbone.prune[0].pruner.keep_rat=0.25"])


def test_another_shape_names_the_tensor(copa):
    with pytest.raises(ValueError, match=r"(?s)does not fit .*size mismatch for heads.image.linear.bias"):
        load(copa, "cpu", "fp32", ["model.heads.image.width=4"])


def test_parts_with_weights_of_their_own_must_be_trained_first(copa):
    second = "model.backbone.prune=[{after_block: 1, pruner: tpd}, {after_block: 2, pruner: tpd}]"
    with pytest.raises(ValueError, match=r"(?s)new parts need training: .*Missing key.*backbone.prunings"):
        load(copa, "cpu", "fp32", [second])


@pytest.mark.parametrize("command", ["flops", "check"])
def test_reports_of_a_folder_have_the_keys_of_a_recipe(copa, capsys, command):
    recipe = Path(copa).parent / "small.yaml"
    of_recipe, of_folder = (report_of(capsys, command, str(path)) for path in (recipe, copa))
    assert list(of_recipe) == list(of_folder)
    fewer = report_of(capsys, command, copa, KEEP)
    assert list(fewer) == list(of_folder)
    total = (lambda report: report["total"]) if command == "flops" else (lambda report: report["macs"]["total"])
    assert total(fewer) < total(of_folder) == total(of_recipe)


def test_flops_count_a_pruner_that_has_no_weights_yet(copa, capsys):
    second = "model.backbone.prune=[{after_block: 1, pruner: {name: tpd, keep_rate: 0.25}}]"
    assert report_of(capsys, "flops", copa, second)["parts"]["pruner"] > 0


def test_check_compares_the_weights(copa, capsys):
    assert "heads.image" in error_of(capsys, "check", copa, "model.heads.image.width=4")


def test_evaluate_keeps_the_reports_of_other_models(copa, capsys):
    whole = report_of(capsys, "evaluate", copa, "evaluate.candidates=8")
    pruned = report_of(capsys, "evaluate", copa, "evaluate.candidates=8", KEEP)
    assert pruned["patches"] != whole["patches"]
    folders = sorted(path for path in Path(copa).glob("evaluate-*") if path.is_dir())
    assert len(folders) == 2
    assert [json.loads((folder / "report.json").read_text()) for folder in folders] == [whole, pruned]
    recipes = [yaml.safe_load((folder / "evaluated.yaml").read_text()) for folder in folders]
    rates = [recipe["model"]["backbone"]["prune"][0]["pruner"]["keep_rate"] for recipe in recipes]
    assert rates == [0.5, 0.25]
    assert (folders[1] / "evaluated.yaml").read_text().startswith(f"# patchbay evaluate {copa} ")


def test_image_commands_take_overrides_among_the_images(copa, images, capsys):
    outputs = []
    for overrides in ([], [UNPRUNED]):
        assert main(["embed", copa, images[0], *overrides, images[1], "--device", "cpu"]) == 0
        outputs.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert [row["image"] for row in outputs[0]] == [row["image"] for row in outputs[1]] == images
    assert outputs[0] != outputs[1]
    assert "only the model" in error_of(capsys, "embed", copa, images[0], "train.steps=3")


def test_existing_files_are_never_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.a=b.png").touch()
    arguments = ["model.a=b.png", "x=1.png", "model.b=2", "./model.c=3", "models.d=4"]
    assert split_overrides(arguments) == (["model.b=2"], ["model.a=b.png", "x=1.png", "./model.c=3", "models.d=4"])


def test_loading_a_folder_without_its_unused_weights(copa, tmp_path):
    shutil.copytree(copa, tmp_path / "run")
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("heads.match")}
    save_file(rest, tmp_path / "run" / "model.safetensors")
    with pytest.raises(ValueError, match=r"(?s)Missing key.*heads.match"):
        load(tmp_path / "run", "cpu", "fp32")
    assert load(tmp_path / "run", "cpu", "fp32", ["model.heads.match=null"]).model.lacks("heads.match")


@pytest.mark.parametrize("command", ["embed", "caption", "flops", "check", "evaluate"])
@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        ("backbone: {name: vit, weights: here}", {"image_size": 64, "crop": True}),
        ("text: {name: bert, weights: here}", {"text_length": 20, "vocabulary": 99}),
        ("text: {name: bert, weights: here}", None),
    ],
)
def test_imports_of_one_part_state_their_use(tmp_path, images, capsys, command, part, sizes):
    (tmp_path / "recipe.yaml").write_text(f"model: {{{part}}}\n")
    if sizes:
        (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    message = error_of(capsys, command, str(tmp_path), *(images if command in ("embed", "caption") else []))
    assert "by extends" in message


def test_check_of_one_part_is_json(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("model: {backbone: {name: vit}}\n")
    assert main(["check", str(tmp_path), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert all("is missing; a file without it is only for others, by extends" in line for line in report["problems"])


@pytest.mark.parametrize("override", ["train.steps=3", "objectives.itm=null", "run.seed=1"])
def test_settings_of_training_alone_are_refused_by_evaluate(copa, capsys, override):
    assert error_of(capsys, "evaluate", copa, override) == f"override {override!r}: has no effect on an evaluation"
