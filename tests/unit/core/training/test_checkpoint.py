"""Checkpoints: whole or not there, the one before in reserve, equal files from equal weights."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.run import build, run
from core.training import checkpoint
from core.training.checkpoint import load_weights

# what a program does to a folder; a kill between two of them is all that can leave it in another state
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
FILES = ["objectives.safetensors", "optimizer.safetensors", "state.json"]


class Killed(BaseException):
    """Ends the work as a kill would: nothing in between catches it."""


class Killer:
    """Counts what happens to files under a folder, and stops it before the ``last``-th."""

    folder, last, count = "", 0, 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.folder or event not in EVENTS:
            return
        if event == "open" and not str(args[0]).startswith(self.folder):
            return  # removals inside a folder come with their last name only, so all of them count
        self.count += 1
        if self.count == self.last:
            raise Killed

    def work(self, work: Callable[[], object], folder: Path, last: int = 0) -> bool:
        """Whether the work came to its end."""
        self.folder, self.last, self.count = str(folder), last, 0
        try:
            work()
            return True
        except Killed:
            return False
        finally:
            self.folder = ""


killer = Killer()
sys.addaudithook(killer)


class Toy(nn.Module):
    """Two layers that share their weights with a third."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("a", "b", "c")})
        self.model["b"].weight = self.model["c"].weight = self.model["a"].weight
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)

    def train_to(self, step: int) -> None:
        while self.steps < step:
            x = torch.ones(1, 3)
            for layer in self.model.values():
                x = layer(x)
            (x + self.steps).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.steps += 1

    def save(self, folder: Path, keep: str | None = None) -> str:
        return checkpoint.save(self, self.model, self.optimizer, str(folder), int(self.steps), keep)

    def resume(self, folder: Path) -> str | None:
        found = checkpoint.newest(str(folder))
        if found:
            assert checkpoint.load(found, self, self.optimizer) == self.steps
        return found


def trained(folder: Path, *steps: int) -> Toy:
    """One that resumed where the folder let it, and saved after each of the further steps."""
    toy = Toy()
    kept = toy.resume(folder)
    for step in steps:
        if step > toy.steps:
            toy.train_to(step)
            kept = toy.save(folder, kept)
    return toy


def content(folder: Path) -> dict[str, str]:
    """Every file below the folder and its SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_a_save_leaves(tmp_path):
    trained(tmp_path, 1, 2, 3)
    checkpoints = [f"checkpoints/step-0000000{step}/{name}" for step in (2, 3) for name in FILES]
    assert list(content(tmp_path)) == [*checkpoints, "model.safetensors"]


def test_equal_weights_make_equal_files(tmp_path):
    found = set()
    for i in range(6):  # safetensors lists the names of tied tensors in a new order each time
        trained(tmp_path / str(i), 1)
        found.add(tuple(content(tmp_path / str(i)).values()))
    assert len(found) == 1
    tied = Toy().model
    load_weights(tied, str(tmp_path / "0"))
    assert tied["a"].weight is tied["b"].weight


def test_resume_restores_weights_moments_and_buffers(tmp_path):
    trained(tmp_path / "a", 1, 2, 3, 4)
    trained(tmp_path / "b", 1, 2)
    trained(tmp_path / "b", 1, 2, 3, 4)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_kill_at_any_moment_of_a_save_heals(tmp_path):
    trained(tmp_path / "whole", 1, 2, 3)
    wanted, last, ended = content(tmp_path / "whole"), 0, False
    while not ended:
        last += 1
        folder = tmp_path / str(last)
        toy = trained(folder, 1, 2)
        toy.train_to(3)
        kept = str(folder / "checkpoints/step-00000002")
        ended = killer.work(partial(toy.save, folder, kept), folder, last)
        assert Toy().resume(folder) in (kept, kept[:-1] + "3")
        trained(folder, 3)
        assert content(folder) == wanted, f"killed before operation {last}"
    assert last > 20


def test_a_kill_at_any_moment_of_the_first_save_heals(tmp_path):
    trained(tmp_path / "whole", 1)
    wanted, last, ended = content(tmp_path / "whole"), 0, False
    while not ended:
        last += 1
        folder = tmp_path / str(last)
        ended = killer.work(partial(trained, folder, 1), folder, last)
        trained(folder, 1)
        assert content(folder) == wanted, f"killed before operation {last}"
    assert last > 15


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    else:
        held = bytearray(path.read_bytes())
        half = len(held) // 2
        path.write_bytes({"empty": b"", "truncated": held[:half], "zeroed": bytes(len(held))}.get(how, held))
        if how == "one bit":
            held[half] ^= 1
            path.write_bytes(held)


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "zeroed", "one bit"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_and_replaced(tmp_path, caplog, name, how):
    trained(tmp_path / "whole", 1, 2, 3)
    folder = tmp_path / "hurt"
    trained(folder, 1, 2, 3)
    newest, before = (folder / f"checkpoints/step-0000000{step}" for step in (3, 2))
    damage(newest / name, how)
    assert checkpoint.newest(str(folder)) == str(before)
    assert f"{newest}: damaged: " in caplog.text and name in caplog.text
    assert f"going back to {before}" in caplog.text
    trained(folder, 3)
    assert content(folder) == content(tmp_path / "whole")


def test_a_state_of_another_shape_is_damage(tmp_path):
    trained(tmp_path, 1)
    state = tmp_path / "checkpoints/step-00000001/state.json"
    held = state.read_text()
    for text in ("[]", "{}", '{"sha256": null}', '{"sha256": {"other": "0"}}', held.replace('"step": 1', '"step": 9')):
        state.write_text(text)
        with pytest.raises(
            ValueError, match=r"step-00000001: damaged: .*\nno whole checkpoint is left; remove .* to start"
        ):
            checkpoint.newest(str(tmp_path))


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    trained(tmp_path, 1)
    other = nn.Linear(2, 2)
    found = checkpoint.newest(str(tmp_path))
    with pytest.raises(ValueError, match=r"step-00000001: this checkpoint does not fit the recipe: "):
        checkpoint.load(found, other, torch.optim.AdamW(other.parameters()))


# the run's start

RECIPE = """\
model:
  backbone: {name: vit, embed_dim: 16, depth: 1, num_heads: 1, patch_size: 16}
  text: {name: bert, layers: 1, embed_dim: 16, num_heads: 1}
  heads: {image: {name: projection, width: 8}, text: {name: projection, width: 8}, temperature: temperature}
objectives: {itc: {}}
data: {name: scenes, image_size: 32, train_size: 20}
train: {steps: 1, batch: 2, workers: 0, precision: fp32}
run: {device: cpu, evaluate: false}
"""


def test_a_kill_at_any_moment_of_a_runs_start_heals(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(RECIPE)

    def go(folder: Path, *more: str) -> None:
        run(str(tmp_path / "small.yaml"), [f"run.folder={folder}", f"data.vocabulary={words}", *more])

    words = tmp_path / "words"
    run(str(tmp_path / "small.yaml"), [f"run.folder={words}"])
    go(tmp_path / "whole")
    wanted = content(tmp_path / "whole")
    last, begun = 0, False
    while not begun:  # from the first checkpoint on, the tests above have it
        last += 1
        folder = tmp_path / str(last)
        assert not killer.work(partial(go, folder), folder, last)
        begun = (folder / "checkpoints").exists()
        marked = (folder / "recipe.yaml").exists()
        if marked:
            with pytest.raises(ValueError, match=r"already holds a run\. Add run\.resume=true"):
                go(folder)
            assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "whole/tokenizer.json").read_bytes()
        capsys.readouterr()
        go(folder, "run.resume=true")
        said = "Continuing from step 0" if marked else "No run to continue: starting from step 0"
        assert said in capsys.readouterr().out
        found = content(folder)
        assert found.keys() == wanted.keys(), f"killed before operation {last}"
        for name in ("model.safetensors", "tokenizer.json", "checkpoints/step-00000001/objectives.safetensors"):
            assert found[name] == wanted[name], f"{name}, killed before operation {last}"
    assert last > 12


def test_a_resumed_run_reads_with_the_words_it_was_begun_with(tmp_path, monkeypatch):
    """Its data may make another vocabulary by then; word ids must not shift under trained embeddings."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    folder, read_by = tmp_path / "run", []

    def watched(recipe, **settings):
        built = build(recipe, **settings)
        read_by.append(built.data.tokenizer(["a circle"]).ids.tolist())
        return built

    monkeypatch.setattr("core.run.build", watched)
    run(str(tmp_path / "small.yaml"), [f"run.folder={folder}"])
    saved = (folder / "tokenizer.json").read_text()
    assert '"circle": ' in saved
    (folder / "tokenizer.json").write_text(saved.replace('"circle": ', '"cirque": '))
    run(str(tmp_path / "small.yaml"), [f"run.folder={folder}", "run.resume=true"])
    first, again = read_by
    assert len(again[0]) > len(first[0]), "the resumed run made its own vocabulary, which knows the word"
