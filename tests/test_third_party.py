"""Real packages, installed with pip into a real environment: a good one, and five that are broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / "tests" / "third_party"
SMALL = """\
model:
  backbone: {name: vit, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 16, prune: [{after_block: 1, pruner:
  PRUNER}]}
  text: {name: bert, layers: 1, embed_dim: 32, num_heads: 2}
  heads: {image: projection, text: projection, temperature: temperature}
objectives: {itc: {}}
data: {name: scenes, train_size: 50}
train: {steps: 2, batch: 4, workers: 0}
run: {evaluate: false}
"""
CHECK_ALL = """\
import json, sys
from plugins.commands.check import check
from plugins.commands.list import rows
recipe, *pruners = sys.argv[1:]
where = "model.backbone.prune[0].pruner="
print(json.dumps({"rows": rows(), "checks": {p: check(recipe, [where + p]) for p in pruners}}))
"""
# plugin -> distribution, fault
BROKEN = {
    "missing_library": ("broken-import", "ModuleNotFoundError: No module named 'a_library_that_is_not_installed'"),
    "typo": ("broken-syntax", "SyntaxError"),
    "raiser": ("broken-hook", "RuntimeError: the licence file is missing"),
    "copycat": ("broken-duplicate", "DuplicateName: token pruner 'tpd' is claimed by plugin 'plugins.pruners.tpd'"),
}


@dataclass
class Environment:
    """A virtual environment that also sees this one's libraries, so that nothing is downloaded."""

    folder: Path

    def __call__(self, *args: str, status: int = 0, autoload: bool = True) -> str:
        python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        env["PATCHBAY_NO_AUTOLOAD"] = "" if autoload else "1"
        done = subprocess.run(
            [str(python), "-W", "ignore", *args], cwd=self.folder, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == status, done.stderr + done.stdout
        return done.stdout if status == 0 else done.stderr

    def pip(self, *args: str) -> None:
        self("-m", "pip", *args)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    inside = next(folder.glob("[Ll]ib*/**/site-packages"))
    outside = [path for path in sys.path if path.endswith("site-packages")]
    (inside / "outside.pth").write_text("\n".join(outside) + "\n")
    packages = shutil.copytree(PACKAGES, folder / "packages")  # building leaves files beside the sources
    made = Environment(folder)
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    made.pip("install", *offline, *(str(p) for p in sorted(packages.iterdir()) if (p / "pyproject.toml").exists()))
    (folder / "small.yaml").write_text(SMALL.replace("PRUNER", "norm"))
    return made


@pytest.fixture(scope="module")
def seen(environment: Environment) -> dict[str, object]:
    """What one process with all six installed lists and says of recipes that use them."""
    names = ["norm", "cutter", "half_registered", "missing_library", "random"]
    found: dict[str, object] = json.loads(environment("-c", CHECK_ALL, "small.yaml", *names))
    return found


def test_good_plugin_is_listed(seen):
    expected = {
        "kind": "token pruner",
        "name": "norm",
        "distribution": "patchbay-norm",
        "version": "1.0",
        "status": "ok",
    }
    assert expected in seen["rows"]


def test_good_plugin_runs_beside_five_broken_ones(environment):
    environment("-m", "core.run", "small.yaml", "run.folder=made")
    used = json.loads((environment.folder / "made" / "versions.json").read_text())["plugins"]
    assert {"plugin": "norm", "distribution": "patchbay-norm", "version": "1.0"} in used
    assert "name: norm" in (environment.folder / "made" / "recipe.yaml").read_text()
    assert (environment.folder / "made" / "model.safetensors").exists()


@pytest.mark.parametrize("plugin", BROKEN)
def test_each_broken_plugin_is_named_with_distribution_and_fault(seen, plugin):
    distribution, fault = BROKEN[plugin]
    (row,) = [row for row in seen["rows"] if row["name"] == plugin]
    assert row["kind"] == "plugin"
    assert row["distribution"] == distribution
    assert row["version"] == "1.0"
    assert row["status"].startswith("failed: ")
    assert fault in row["status"]


def test_duplicate_names_both_claimants(seen):
    (row,) = [row for row in seen["rows"] if row["name"] == "copycat"]
    assert "of distribution patchbay-vl" in row["status"]
    assert "plugin 'copycat' of distribution broken-duplicate 1.0" in row["status"]


def test_failed_plugins_leave_nothing_behind(seen):
    assert not [row for row in seen["rows"] if row["name"] == "half_registered"]
    (tpd,) = [row for row in seen["rows"] if row["name"] == "tpd"]
    assert tpd["distribution"] == "patchbay-vl"


def test_a_package_that_prints_leaves_json_alone(environment):
    used = "model.backbone.prune[0].pruner=noisy"
    assert json.loads(environment("-m", "patchbay", "check", "small.yaml", used, "--json"))["ok"]


def test_missing_name_quotes_the_failures(seen):
    for name in ("half_registered", "missing_library"):
        (problem,) = seen["checks"][name]["problems"]
        assert f"no token pruner is named '{name}'" in problem
        for plugin, (distribution, fault) in BROKEN.items():
            assert f"plugin '{plugin}' of distribution {distribution} 1.0" in problem
            assert fault in problem


def test_wrong_shape_is_named_when_used(seen):
    (problem,) = seen["checks"]["cutter"]["problems"]
    assert "token pruner 'cutter' (plugin 'cutter' of distribution broken-shape 1.0)" in problem
    assert "returned states of shape (4, 17, 31); expected (4, tokens kept, 32)" in problem


def test_other_recipes_are_untouched(seen):
    assert seen["checks"]["norm"]["ok"]
    assert seen["checks"]["random"]["ok"]


def test_autoload_can_be_turned_off(environment):
    listed = json.loads(environment("-m", "core.cli", "list", "--no-load", "--json", autoload=False))
    assert {row["distribution"] for row in listed} == {"patchbay-vl"}


def test_gone_after_uninstall(environment, seen):
    listed = json.loads(environment("-m", "core.cli", "list", "--no-load", "--json"))
    assert "norm" in [row["name"] for row in listed]
    environment.pip("uninstall", "--quiet", "--yes", "patchbay-norm")
    listed = json.loads(environment("-m", "core.cli", "list", "--no-load", "--json"))
    assert "norm" not in [row["name"] for row in listed]
    said = environment("-m", "core.run", "small.yaml", "run.folder=gone", status=2)
    assert "small.yaml:3:3: model.backbone.prune[0].pruner: no token pruner is named 'norm'." in said
    assert "Traceback" not in said
    assert not (environment.folder / "gone").exists()
