"""``patchbay check``: one step without data or memory finds what is wrong, and counts as the other counters do."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import small
import timm
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile

from core import cli, discovery
from core.recipe import Recipe, read
from core.run import build
from core.types import DataSpec
from plugins.commands.check import Check, check
from plugins.commands.flops import flops
from plugins.compute import dry_run, memory
from plugins.compute.dry_run import DryRun
from plugins.heads.match import Match
from plugins.objectives.itc import ImageTextContrast
from registry.part import Filled, PartError

ROOT = Path(__file__).parents[4]
COPA = ROOT / "projects" / "copa"
RECIPES = sorted((ROOT / "projects").glob("*/*.yaml"))
CATALOG = discovery.load()
FULL = ("pretrain_4m", "mplug_4m")
LITTLE = ("data.train_size=100", "data.region_batch_size=4")


def recipe_of(name: str, *overrides: str) -> Recipe:
    return read(str(COPA / f"{name}.yaml"), overrides, CATALOG)


def dry_of(name: str, *overrides: str) -> DryRun:
    recipe = recipe_of(name, *overrides)
    return dry_run.build_dry_run(recipe, dry_run.data_spec(recipe))


@pytest.fixture(scope="module")
def checked() -> dict:
    return check(str(COPA / "pretrain.yaml"), ["train.optimizer=adamw"])


@pytest.mark.parametrize("path", [p for p in RECIPES if "photos" not in p.stem], ids=lambda p: p.stem)
def test_every_recipe_passes(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where no data lies
    report = check(str(path), ["train.batch=4"])
    assert report["ok"], report["problems"]
    assert not report["problems"]
    recipe = read(str(path), [], CATALOG)
    starts = [note for note in report["notes"] if note.startswith("not checked: train.init_from: ")]
    files = [note for note in report["notes"] if note.startswith("not here, so not checked: data.")]
    assert len(starts) == bool(recipe.train.init_from)
    assert bool(files) is (recipe.data.name not in ("scenes", "clips"))
    assert sorted(report["notes"]) == sorted(starts + files)
    assert report["memory"]["activations"] > 0


def test_report_adds_up(checked):
    assert checked["ok"]
    parameters, macs, memory = (checked[key] for key in ("parameters", "macs", "memory"))
    assert parameters["total"] == sum(parameters["parts"].values())
    assert macs["total"] == sum(macs["parts"].values()) < macs["unpruned"]
    assert set(memory) == {"parameters", "gradients", "optimizer", "teacher", "activations", "total"}
    assert memory["total"] == sum(bytes for part, bytes in memory.items() if part != "total")
    assert memory["parameters"] == memory["gradients"] == 4 * parameters["total"] == memory["optimizer"] / 2
    assert checked["step"]["pictures"] == 96


def test_parameters_are_those_of_the_built_model(checked):
    model = build(recipe_of("pretrain")).model
    assert checked["parameters"]["parts"] == memory.parameters(model)
    assert checked["parameters"]["total"] == sum(p.numel() for p in set(model.parameters()))


def test_macs_equal_patchbay_flops(checked):
    report = flops(str(COPA / "pretrain.yaml"), ["train.batch=2", *LITTLE])
    assert checked["macs"] == {key: report[key] for key in ("total", "unpruned", "parts", "unpruned_parts")}


def test_a_teacher_is_memory_and_no_parameter():
    plain, taught = (check(str(COPA / f"{name}.yaml"), ["train.batch=2", *LITTLE]) for name in ("pretrain", "momentum"))
    assert taught["parameters"] == plain["parameters"]
    parts = taught["parameters"]["parts"]
    queues = 2 * 2048 * 128 * 4
    encoders = sum(parts[part] for part in ("backbone", "pruner", "text", "null_guide"))
    contrast = 2 * (128 * 128 + 128)
    model = build(recipe_of("pretrain")).model
    words = sum(p.numel() for p in model.heads["words"].parameters() if p is not model.text.embedding)
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())  # each teacher's copy has them again
    expected = (
        plain["memory"]["teacher"] + queues + 4 * (2 * encoders + contrast + parts["fusion"] + words) + 2 * buffers
    )
    assert taught["memory"]["teacher"] == pytest.approx(expected, abs=64)  # two counters
    assert taught["memory"]["gradients"] == plain["memory"]["gradients"]


def test_activations_are_what_a_real_step_holds(monkeypatch):
    """The bytes alive after a real forward pass of the same shapes, by torch's profiler, within 3 %."""
    made = dry_of("pretrain", "train.batch=8", "train.precision=fp32", *LITTLE)
    data = made.recipe.data()
    built = build(made.recipe).objectives.train()
    batch = data.batch(0, size=8, seed=0, reads=built.batch_fields)
    monkeypatch.setattr(DryRun, "batch", lambda self, chunks=1: batch.map(self.mode.from_tensor))
    estimate = made.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        total, _ = built(batch)
    alive = sum(event.self_cpu_memory_usage for event in watched.key_averages())
    assert total.requires_grad
    assert estimate == pytest.approx(alive, rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_grows_with_the_batch_and_shrinks_with_the_precision(precision):
    few, many = (dry_of("pretrain", f"train.batch={n}", f"train.precision={precision}", *LITTLE).step() for n in (4, 8))
    assert few < many < 2 * few  # the region batch stays


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("name", ["pretrain", "../coca/pretrain"])
def test_true_pairs_are_excluded_in_the_dry_step_too(name, chunks):
    losses = ("itc", "itm") if name == "pretrain" else ("itc",)
    overrides = [f"objectives.{loss}.exclude_true=true" for loss in losses]
    report = check(str(COPA / f"{name}.yaml"), ["train.batch=8", f"train.gradcache_chunks={chunks}", *overrides])
    assert report["ok"] and not report["problems"]


def test_nothing_is_drawn_or_allocated_at_full_size():
    """COPA-base at its batch: no tensor of it has values."""
    made = dry_of("pretrain_4m")
    assert sum(p.numel() for p in made.objectives.parameters()) > 7.0e8  # with both teachers
    assert all(p.untyped_storage().device.type == "meta" for p in made.objectives.parameters())


@pytest.mark.parametrize(("name", "total"), [("pretrain_4m", 346_186_104), ("mplug_4m", 344_706_167)])
def test_parameters_at_full_size(name, total):
    """mPLUG's base is said to have 350 M; ours has no unused cross-attention and positions for 25 words only."""
    parts = memory.parameters(dry_of(name).model)
    assert sum(parts.values()) == total
    unused = 4 * 768**2 + 4 * 768 + 2 * 768
    positions = 2 * (512 - 25) * 768
    assert total + unused + positions == pytest.approx(350e6, rel=0.01)
    if name == "pretrain_4m":
        assert parts["pruner"] == 1536 * 768 + 768 + 768 * 384 + 384 + 384 + 1 + 4 * 768


def test_full_size_recipes_differ_in_pruner_and_pta_alone():
    copa, mplug = (recipe_of(name) for name in FULL)
    assert set(copa.objectives) - set(mplug.objectives) == {"pta"}
    ours, theirs = (recipe.model.settings["backbone"].settings for recipe in (copa, mplug))
    assert {key for key in ours if ours[key] != theirs[key]} == {"prune"}
    assert copa.train == mplug.train
    assert copa.train.steps == pytest.approx(30 * 4.073e6 / 1024, rel=0.001)
    assert copa.objectives["itc_momentum"].part.settings["ramp"] == pytest.approx(copa.train.steps / 30, rel=0.001)


BAD = {
    "model.backbone.num_heads=5": "backbone 'vit': 5 heads do not divide dim 128",
    "model.fusion=null": "objectives.itm: objective 'itm' needs model.fusion, which this model lacks",
    "evaluate.split=tests": "evaluate.split: 'tests' is no split of this data. Did you mean 'test'?",
    "train.groups=[{prefix: model.bakbone, lr: 1e-4}]": "no parameter starts with 'model.bakbone'",
    "model.decoder.embed_dim=64": "one step fails: RuntimeError: a and b must have same reduction dim",
    "model.text.weights=nowhere": "nowhere/config.json: cannot be read",
    "data.vocabulary=nowhere": "data 'scenes'",
    "run.device=tpu": "run.device: 'tpu' is no device",
}


@pytest.mark.parametrize("override", BAD)
def test_faults_that_reading_cannot_find(override, capfd):
    report = check(str(COPA / "pretrain.yaml"), [override, "train.batch=2", *LITTLE])
    assert not report["ok"]
    assert any(BAD[override] in problem for problem in report["problems"]), report["problems"]
    assert capfd.readouterr().err == ""


def test_weights_are_compared_in_shape(tmp_path, capfd):
    file = str(tmp_path / "vit.safetensors")
    save_file(timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0).state_dict(), file)
    settings = ["stem=linear", "dim=192", "heads=3", "depth=2", "patch=8", f"weights={file}"]
    call = [f"model.backbone.{setting}" for setting in settings] + ["train.batch=2", *LITTLE]
    assert check(str(COPA / "pretrain.yaml"), call)["ok"]
    report = check(str(COPA / "pretrain.yaml"), [*call, "model.backbone.depth=3"])
    assert "does not fit this ViT: lacks blocks.2." in report["problems"][0]
    assert "UserWarning" not in capfd.readouterr().err


def test_absent_data_is_a_note_and_no_problem(tmp_path, capsys):
    section = "data: {name: coco, image_size: 64, sources: [{images: here, captions: [c.json]}]}"
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(re.sub("(?m)^data: .*", section, (COPA / "pretrain.yaml").read_text()))
    assert cli.main(["check", str(recipe), "train.batch=2"]) == 0
    said = capsys.readouterr().out
    assert "no problems" in said
    assert "not here, so not checked: data.sources[0].captions[0]: no file 'c.json'" in said


def test_text_names_what_the_memory_is_for_and_leaves_out(capsys):
    path, settings = str(COPA / "pretrain.yaml"), ["train.batch=2", "train.precision=fp32", "run.device=cpu", *LITTLE]
    assert cli.main(["check", path, *settings]) == 0
    said = capsys.readouterr().out
    assert "memory of 2 images, fp32 on cpu, about" in said
    assert "not included in memory: temporary" in said
    assert cli.main(["check", path, *settings, "--json"]) == 0
    keys = {"ok", "problems", "notes", "parameters", "macs", "memory", "step"}
    assert set(json.loads(capsys.readouterr().out)) == keys


def test_chunks_take_the_memory_of_one_and_must_divide_the_batch(capsys):
    path, settings = str(COPA / "pretrain.yaml"), ["train.batch=8", *LITTLE]
    found = {count: check(path, [*settings, f"train.gradcache_chunks={count}"]) for count in (1, 4)}
    kept = {count: report["memory"]["activations"] for count, report in found.items()}
    assert 2 < kept[1] / kept[4] < 4
    assert found[4]["macs"] == found[1]["macs"]
    coca = str(ROOT / "projects" / "coca" / "base.yaml")
    many = check(coca, ["train.batch=65536", "train.gradcache_chunks=1024", "model.backbone.depth=1"])
    assert many["memory"]["activations"] > 2 * 4 * 65536**2, "the contrast of all chunks is computed at once"
    assert cli.main(["check", path, *settings, "train.gradcache_chunks=4"]) == 0
    assert "memory of 8 images in 4 chunks" in capsys.readouterr().out
    assert cli.main(["check", path, *settings, "train.gradcache_chunks=3"]) == 2
    assert (
        "train.batch: 8 rows cannot be shared evenly by 1 ranks of train.gradcache_chunks 3" in capsys.readouterr().err
    )


def test_a_folder_to_start_from_that_is_not_there_is_a_note(tmp_path):
    found = check(str(COPA / "pretrain.yaml"), [*LITTLE, "train.batch=2", f"train.init_from={tmp_path}"])
    assert found["ok"]
    assert any(f"not checked: train.init_from: {tmp_path}" in note for note in found["notes"])


class Careful(Match):
    """Looks at a value while it is built."""

    def __init__(self, *, dim: Filled[int]):
        super().__init__(dim=dim)
        assert self.linear.bias.sum().item() == 0


class Teacher(ImageTextContrast):
    """Looks at a value when it is attached."""

    def on_model_built(self, model):
        assert model.heads["temperature"].log.item() < 0


def test_an_objective_that_reads_values_when_it_is_attached():
    recipe = recipe_of("pretrain", "train.batch=2", *LITTLE)
    slot = recipe.objectives["itc"]
    recipe.objectives["itc"] = dataclasses.replace(slot, part=dataclasses.replace(slot.part, cls=Teacher))
    report = {"problems": [], "notes": []}
    Check(recipe, report).run()
    assert (report["problems"], report["notes"]) == ([], [])


class Peeking(Match):
    """Looks at a value in its forward pass."""

    def __init__(self, *, dim: Filled[int]):
        super().__init__(dim=dim)

    def forward(self, x):
        return super().forward(x) if x.sum().item() else x


@pytest.mark.parametrize(
    ("cls", "note"), [(Careful, ""), (Peeking, "one step depends on values, so it was not checked")]
)
def test_a_part_that_reads_values(cls, note):
    """While it is built it gets them; a forward pass on fake tensors has none, which is no fault of the recipe."""
    recipe = recipe_of("pretrain", "train.batch=2", *LITTLE)
    heads = recipe.model.settings["heads"]
    heads["match"] = dataclasses.replace(heads["match"], cls=cls)
    report = {"problems": [], "notes": []}
    Check(recipe, report).run()
    assert report["problems"] == []
    assert [said[: len(note)] for said in report["notes"]] == ([note] if note else [])
    assert all("test_check.py:" in said for said in report["notes"])
    assert ("macs" in report) is not bool(note)


def test_the_sketch_names_the_recipes_place_in_a_fault(monkeypatch):
    recipe = recipe_of("pretrain")

    def fail(settings, reads):
        raise ValueError("no such thing")

    monkeypatch.setattr(recipe.data.cls, "spec", fail)
    with pytest.raises(PartError, match=r"pretrain\.yaml:\d+:\d+: data: data 'scenes': no such thing"):
        dry_run.data_spec(recipe)


def test_the_sketch_of_the_embedded_data():
    data = small.data()
    sizes = type(data).spec({"train_size": 200, "region_batch_size": 4, "box_fraction": 0.2}, small.READS)
    told = DataSpec(
        data.image_size,
        data.text_length,
        data.tokenizer.vocabulary,
        sizes.masked,
        4,
        tuple(data.splits()),
        classes=tuple(data.classes),
    )
    assert sizes == told
    assert 1 <= sizes.masked <= small.batch(data).masked.positions.shape[1]


@pytest.mark.parametrize(
    ("name", "settings", "rows", "absent"),
    [
        ("copa/pretrain", [], ["unpruned"], ["teacher", "frozen"]),
        ("copa/momentum", [], ["unpruned", "teacher"], ["frozen"]),
        ("copa/mplug", ["train.ema=0.9"], ["teacher"], ["unpruned", "frozen", "pruner"]),
        ("coca/convnet", [], ["poolers"], ["teacher", "frozen", "unpruned", "pruner", "fusion"]),
        ("coca/frozen_feature", [], ["frozen weights, buffers"], ["teacher", "unpruned", "decoder"]),
    ],
)
def test_only_rows_with_content_are_printed(name, settings, rows, absent, capsys):
    assert cli.main(["check", name, "train.batch=4", "run.device=cpu", *settings]) == 0
    printed = capsys.readouterr().out.splitlines()
    labels = [line.strip().rsplit("  ", 1)[0].strip() for line in printed[1:]]
    for row in rows:
        assert row in labels
    assert not [label for label in labels if label.startswith(tuple(absent))]
    assert not [line for line in printed if line.endswith((" 0", " 0 MiB", " 0.0 MiB"))]
