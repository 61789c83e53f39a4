"""``patchbay`` in a folder with its own ``core``, ``plugins`` and ``registry``: editable, and from a wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import core
import patchbay
from registry.recipe_files import near_recipe, recipe_names, recipe_path

ROOT = Path(__file__).parents[3]
RECIPES = sorted(file.relative_to(ROOT / "projects").as_posix() for file in ROOT.glob("projects/*/*.yaml"))
TINY = ["train.steps=2", "train.batch=8", "run.evaluate=false", "run.device=cpu"]
TINY += ["data.train_size=50", "data.region_batch_size=4"]
EDITABLE = f"""\
import importlib.util, os, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        base = os.path.join({str(ROOT)!r}, name)
        files = [file for file in (os.path.join(base, "__init__.py"), base + ".py") if os.path.exists(file)]
        return importlib.util.spec_from_file_location(name, files[0]) if files else None
sys.path.remove({str(ROOT)!r}) if {str(ROOT)!r} in sys.path else None
sys.meta_path.append(Finder)
"""
SPAWN = """\
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    import patchbay
    assert patchbay.main(["run", "copa/pretrain", *sys.argv[1:]]) == 0
"""


def shadow(folder: Path, init: bool = True) -> Path:
    """Make packages of Patchbay's names that fail when they are imported; without ``init`` they are bare folders."""
    for name in patchbay.PACKAGES:
        (folder / name).mkdir(parents=True)
        if init:
            (folder / name / "__init__.py").write_text("raise RuntimeError('not Patchbay')\n")
    return folder


def python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a folder; Patchbay is found as with an editable install, after everything on the path."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([sys.executable, "-c", EDITABLE + code], cwd=folder, env=env, capture_output=True, text=True)


def test_same_names_as_core():
    assert patchbay.__all__ == [*core.__all__, "main"]
    assert set(patchbay.__all__) <= set(dir(patchbay))
    assert patchbay.TokenPruner is core.TokenPruner
    assert patchbay.load is core.load
    with pytest.raises(AttributeError, match="module 'patchbay' has no attribute 'Tokns'"):
        _ = patchbay.Tokns


@pytest.mark.parametrize("init", [True, False])
def test_own_packages_come_first(tmp_path, init):
    code = "import patchbay, core, plugins, registry; from core import hookimpl; import core.settings, registry.part\n"
    code += "print(core.__file__, plugins.__file__, registry.__file__, 'torch' in sys.modules)"
    done = python(shadow(tmp_path, init), code)
    assert done.stdout.split() == [*(str(ROOT / p / "__init__.py") for p in ("core", "plugins", "registry")), "False"]


def test_import_is_light(tmp_path):
    done = python(tmp_path, "import patchbay; print(patchbay.hookimpl, 'torch' in sys.modules)")
    assert done.stdout.split()[-1] == "False", done.stderr


@pytest.mark.parametrize("name", patchbay.PACKAGES)
@pytest.mark.parametrize("init", [True, False])
def test_another_package_that_is_loaded_is_named(tmp_path, name, init):
    other = tmp_path / name
    other.mkdir()
    if init:
        (other / "__init__.py").touch()
    done = python(tmp_path, f"import {name}; import patchbay")
    found = other / "__init__.py" if init else other
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"ImportError: Patchbay's package {name!r} is {ROOT / name / '__init__.py'}, but {found} is")


def test_recipes_have_short_names():
    assert [f"{name}.yaml" for name in recipe_names()] == RECIPES
    assert recipe_path("copa/pretrain") == str(ROOT / "projects" / "copa" / "pretrain.yaml")
    assert recipe_path("copa/none") == "copa/none"


def test_an_existing_file_comes_before_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copa" / "pretrain").mkdir(parents=True)
    assert recipe_path("copa/pretrain").endswith(".yaml"), "a folder is no recipe"
    (tmp_path / "copa" / "evit").touch()
    assert recipe_path("copa/evit") == "copa/evit"


def test_unknown_recipes_have_a_near_match():
    assert near_recipe("copa/pretain").startswith(" Did you mean 'copa/pretrain'")
    assert near_recipe("pretrain").startswith(" Did you mean 'co")
    assert "copa/evit, copa/momentum" in near_recipe("?")
    assert near_recipe("copa/pretain.yaml") == ""


@dataclass
class Installed:
    """An environment with nothing of Patchbay but its wheel, and a working folder; libraries are those of this one."""

    wheel: Path
    scripts: Path
    folder: Path

    def __call__(self, program: str, *args: str) -> str:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(self.scripts / program), *args], cwd=self.folder, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    top = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns(".*", "tests", "build", "*.egg-info", "__pycache__", "runs")
    source = shutil.copytree(ROOT, top / "source", ignore=skipped)  # building leaves files beside the sources
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", str(top), str(source)], check=True)
    shutil.rmtree(source)
    (wheel,) = top.glob("*.whl")
    venv.create(top / "env")
    scripts = top / "env" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([*pip, "--python", str(scripts / "python"), "install", *offline, str(wheel)], check=True)
    inside = next((top / "env").glob("[Ll]ib*/**/site-packages"))
    outside = [path for path in sys.path if path.endswith("site-packages")]
    (inside / "outside.pth").write_text("\n".join(outside) + "\n")
    return Installed(wheel, scripts, shadow(top / "project"))


def test_contents_of_the_wheel(installed):
    names = zipfile.ZipFile(installed.wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"core", "plugins", "registry", "patchbay.py"}
    assert sorted(name.removeprefix("core/recipes/") for name in names if name.endswith(".yaml")) == RECIPES


def test_run_check_and_load_from_a_wheel(installed):
    installed("patchbay", "run", "copa/pretrain", *TINY, "run.folder=one")
    assert (installed.folder / "one" / "model.safetensors").exists()
    report = json.loads(installed("patchbay", "check", "coca/base", "--json"))
    assert report["ok"] and report["parameters"]["parts"]["backbone"] == 85_999_872
    said = installed(
        "python", "-c", "import patchbay; print(patchbay.load('one', 'cpu').embed_texts(['a star']).shape)"
    )
    assert said.split() == ["torch.Size([1,", "128])"]


def test_module_from_a_wheel(installed):
    assert installed("python", "-m", "patchbay", "--version").startswith("patchbay ")
    rows = json.loads(installed("python", "-m", "patchbay", "list", "--no-load", "--json"))
    assert {"copa/pretrain", "coca/base"} <= {row["name"] for row in rows if row["kind"] == "recipe"}


def test_spawned_data_workers_from_a_wheel(installed):
    """Neither the main module nor sys.path leads a spawned worker to Patchbay's core; the pickled batches do."""
    (installed.folder / "train.py").write_text(SPAWN)
    installed("python", "train.py", *TINY, "train.workers=1", "run.folder=two")
    assert (installed.folder / "two" / "model.safetensors").exists()


def test_two_ranks_from_a_wheel(installed):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "patchbay"]
    installed("python", *launch, "run", "copa/pretrain", *TINY, "train.workers=0", "run.folder=three")
    assert (installed.folder / "three" / "model.safetensors").exists()
