"""The console script: quick help without torch, plain messages, and what scripts may rely on."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from core import cli, discovery
from core import run as running
from core.loading import load_run
from plugins.commands.check import check
from plugins.commands.console import run_cli
from plugins.commands.list import metadata_rows, rows
from plugins.commands.show import show
from plugins.compute.memory import parameters
from registry import UnknownName

ROOT = Path(__file__).parents[3]
SMALL = """\
model:
  backbone: {name: vit, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 16, prune: [{after_block: 1, pruner: tpd}]}
  text: {name: bert, layers: 1, embed_dim: 32, num_heads: 2, dropout: 0.0}
  fusion: {name: skip_connected, layers: 2, num_heads: 2, dropout: 0.0}
  heads:
    image: {name: projection, width: 8}
    text: {name: projection, width: 8}
    temperature: temperature
    words: vocabulary
objectives: {itc: {}, mlm: {}}
data: {name: scenes, train_size: 50}
train: {steps: 2, batch: 4, workers: 0, precision: fp32}
evaluate: {candidates: 8, examples: 4, rounds: 0, pictures: 1}
run: {device: cpu}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run's folder and its report."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small.yaml").write_text(SMALL)
    report = running.run(str(folder / "small.yaml"), [f"run.folder={folder / 'run'}"])
    return folder / "run", report


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("call", ["--help", "--version", "list --no-load", "run --help", "evaluate --help"])
def test_torch_is_not_needed_to_ask(call):
    say = f"import sys; from core import cli\ntry: cli.main({call.split()})\nexcept SystemExit: pass\n"
    done = python(say + "print(sorted({'torch', 'timm', 'transformers'} & set(sys.modules)))")
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_help_is_quick_and_names_every_verb(capsys):
    began = time.perf_counter()
    assert cli.main(["--help"]) == 0
    assert time.perf_counter() - began < 1
    said = capsys.readouterr().out
    assert all(f"  {verb} " in said for verb in ("run", "check", "list", "show", "evaluate"))


def test_import_core_is_light_and_from_core_is_whole():
    import core

    done = python("import sys; from core import hookimpl; print('torch' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr
    assert all(getattr(core, name) is not None for name in core.__all__)
    assert set(core.__all__) == set(core._MODULES)
    with pytest.raises(AttributeError, match="module 'core' has no attribute 'Tokns'"):
        _ = core.Tokns  # type: ignore[attr-defined]


def test_unknown_verb_has_a_near_match(capsys):
    assert cli.main(["chekc"]) == 2
    assert capsys.readouterr().err.startswith("there is no command 'chekc'. Did you mean 'check'?")


def test_list_has_a_row_for_each_part_and_failure(monkeypatch, capsys):
    found = rows()
    assert all(set(row) == {"kind", "name", "distribution", "version", "status"} for row in found)
    assert {"token pruner", "backbone", "objective", "data", "command"} <= {row["kind"] for row in found}
    assert cli.main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert cli.main(["list"]) == 0
    assert "token pruner  tpd " in capsys.readouterr().out
    assert {row["status"] for row in metadata_rows()} == {"not loaded"}


def test_show_says_settings_ranges_defaults_and_owner():
    page = show("tpd")
    assert page.startswith("token pruner 'tpd'")
    assert "  keep_rate: number between 0 and 1; default 0.5" in page
    assert "  guide_dim: whole number, filled in at assembly from other parts" in page
    assert "plugins.pruners.tpd" in page
    assert str(ROOT / "plugins" / "pruners" / "tpd.py") in page
    assert "Settings\n  weight: number; default 1  # factor" in show("pta")
    assert '  reduction: mean | sum; default "mean"\n' in show("objective/itc")
    assert show("token pruner/tpd") == show("token_pruner/tpd") == page


def test_every_part_can_be_shown():
    for registry in discovery.load().registries.values():
        for name in registry:
            assert f"{registry.kind} {name!r}" in show(f"{registry.kind}/{name}")


def test_show_of_a_section():
    page = show("train")
    assert "  gradcache_chunks: whole number at least 1; default 1  # parts of a batch in turn" in page
    assert "core/settings.py" in page
    assert all(f"section {name!r}" in show(name) for name in ("model", "train", "evaluate", "run"))
    assert "  frames: " in show("model")


def test_show_of_an_unknown_part():
    with pytest.raises(UnknownName, match=r"no part is named 'tdp'\. Did you mean 'tpd'"):
        show("tdp")
    with pytest.raises(UnknownName, match=r"There is no kind 'prunner'\. Kinds: backbone, token pruner"):
        show("prunner/tpd")


def test_check_counts_parameters_by_part(recipe, capsys):
    assert cli.main(["check", str(recipe), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["problems"] == []
    parts = report["parameters"]["parts"]
    assert set(parts) == {"backbone", "pruner", "text", "fusion", "heads", "null_guide"}
    assert report["parameters"]["total"] == sum(parts.values())


def test_tied_weights_count_once(recipe):
    built = running.build(running.read(str(recipe), (), discovery.load()))
    assert sum(parameters(built.model).values()) == sum(p.numel() for p in set(built.model.parameters()))


def test_check_finds_what_reading_cannot(recipe):
    cases = {
        "model.backbone.num_heads=5": "backbone 'vit': 5 heads do not divide dim 32",
        "model.fusion=null": "objectives.mlm: objective 'mlm' needs model.fusion, which this model lacks",
        "evaluate.split=tests": "evaluate.split: 'tests' is no split of this data. Did you mean 'test'?",
    }
    for override, said in cases.items():
        report = check(str(recipe), [override])
        assert not report["ok"]
        assert said in report["problems"][0], report


def test_check_prints_all_problems_without_traceback(recipe, capsys):
    wrong = ["train.stepz=1", "model.backbone.name=vti", "data.box_fraction=2", "objectives.itk={}", "run.seed=x"]
    assert cli.main(["check", str(recipe), *wrong]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(":")[0] for line in sorted(said.err.splitlines())] == sorted(f"override {w!r}" for w in wrong)


def test_run_leaves_recipe_weights_versions_and_report(made):
    folder, report = made
    names = {path.name for path in folder.iterdir()}
    assert {"recipe.yaml", "model.safetensors", "versions.json", "report.json", "tokenizer.json"} <= names
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["torch"] == torch.__version__
    assert versions["precision"] == "fp32"
    assert (folder / "recipe.yaml").read_text().startswith("# patchbay run recipe.yaml")


def test_run_folder_suffices_to_load_the_model(made):
    folder, _ = made
    recipe, data, model = load_run(str(folder))
    assert recipe.data.settings["vocabulary"] == str(folder)
    assert data.tokenizer(["a red star"]).ids.shape[0] == 1
    one, two = load_run(str(folder))[2].state_dict(), model.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_evaluate_repeats_the_report(made, capsys):
    folder, report = made
    assert cli.main(["evaluate", str(folder), "--json"]) == 0
    said = capsys.readouterr()
    again = json.loads(said.out)  # nothing but the report on stdout
    assert again["retrieval"] == json.loads(json.dumps(report))["retrieval"]
    assert (folder / "evaluate-test" / "report.json").exists()


def test_evaluate_of_no_run(tmp_path, capsys):
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: holds no run: there is no recipe.yaml in it\n"


def test_a_run_is_never_overwritten(made, capsys):
    folder, _ = made
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert cli.main(["run", str(folder / "recipe.yaml"), f"run.folder={folder}"]) == 2
    assert f"{folder}: already holds a run. Add run.resume=true to continue it" in capsys.readouterr().err
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_resume_refuses_another_recipe(made, capsys):
    folder, _ = made
    recipe = str(folder.parent / "small.yaml")
    place = [f"run.folder={folder}", "run.resume=true"]
    assert cli.main(["run", recipe, *place, "train.lr=5e-4", "objectives.mlm=null", "train.log_every=7"]) == 2
    said = capsys.readouterr().err
    assert f"{folder}: cannot be continued, its recipe differs in objectives.mlm." in said
    assert "train.lr" in said
    assert "log_every" not in said


def test_resume_needs_a_folder(recipe, capsys):
    assert cli.main(["run", str(recipe), "run.resume=true"]) == 2
    assert "run.resume=true needs run.folder=PATH" in capsys.readouterr().err


def test_resumed_run_equals_an_uninterrupted_one(recipe, monkeypatch, capsys):
    groups = "train.groups=[{prefix: model.text, lr: 1e-4}]"  # a shell would read it as several words
    call = ["run", str(recipe), "run.evaluate=false", "train.save_every=1", "train.steps=3", groups]
    assert cli.main([*call, "run.folder=whole"]) == 0

    def interrupt(losses: Any, trainer: Any) -> None:
        if trainer.step == 2:
            raise KeyboardInterrupt

    class Stopper:
        after_step = staticmethod(discovery.hookspecs.hookimpl(interrupt))

    load = discovery.load
    with monkeypatch.context() as patch:

        def with_stopper() -> discovery.Catalog:
            catalog = load()
            catalog.hooks.register(Stopper())
            return catalog

        patch.setattr(discovery, "load", with_stopper)
        assert cli.main([*call, "run.folder=cut"]) == 130
    said = capsys.readouterr().err
    assert "stopped after step 2 of 3; newest checkpoint: step-00000001. Continue with:" in said
    command = said.splitlines()[-1]
    assert command.startswith("patchbay run ") and command.endswith("run.folder=cut run.resume=true")
    assert cli.main(shlex.split(command)[1:]) == 0
    one, two = _weights("whole"), _weights("cut")
    assert all(torch.equal(one[key], two[key]) for key in one)


def _weights(folder: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(f"{folder}/model.safetensors")


def test_json_alone_goes_to_stdout(recipe, capsys):
    assert cli.main(["run", str(recipe), "--json", "run.folder=here", "train.steps=1"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads(Path("here/report.json").read_text())
    assert "Run folder: here" in said.err


def test_default_folder_carries_recipe_and_time(recipe, capsys):
    assert cli.main(["run", str(recipe), "train.steps=1", "run.evaluate=false"]) == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("small-20")


def test_guard(capsys, monkeypatch):
    def fail(err: BaseException) -> int:
        raise err

    assert run_cli(lambda: 0) == 0
    assert run_cli(lambda: fail(ValueError("in words"))) == 2
    assert capsys.readouterr().err == "in words\n"
    assert run_cli(lambda: fail(KeyboardInterrupt())) == 130
    for bug in (KeyError("x"), RuntimeError("x"), TypeError("x")):
        with pytest.raises(type(bug)):
            run_cli(lambda bug=bug: fail(bug))
    monkeypatch.setenv("PATCHBAY_TRACEBACK", "1")
    with pytest.raises(ValueError, match="in words"):
        run_cli(lambda: fail(ValueError("in words")))
