"""Two ranks train as one process: the same weights, losses and files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pluggy
import pytest
import small
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from small_coca import SOURCE, coca
from torch import Tensor, multiprocessing

from core import hookspecs, runtime
from core.objectives import Objectives
from core.settings import RunSettings, TrainSettings
from core.training import checkpoint
from core.training.trainer import Trainer
from plugins.objectives.caption import Captioning
from plugins.objectives.itc import ImageTextContrast
from plugins.objectives.itc_momentum import MomentumContrast

ROOT = Path(__file__).parents[3]
RANKS, STEPS = 2, 3
# itm draws negatives within its rank, and the momentum's first batches are mostly its queue: they run, and differ
SAME = {"coca": {}, "coca_chunks": {"gradcache_chunks": 2, "gradient_accumulation_steps": 2, "ema": 0.5}, "copa": {}}
RUN = {"copa_itm": {}, "momentum": {}}


def objectives(name: str) -> Objectives:
    if name.startswith("coca"):
        parts = {"itc": ImageTextContrast(reduction="sum"), "caption": Captioning()}
        return Objectives(coca(), parts, {"itc": 1.0, "caption": 2.0})
    if name == "momentum":
        return Objectives(coca(), {"itc": MomentumContrast(queue=12, ramp=2)}, {"itc": 1.0})
    return small.objectives(small.copa(SOURCE), *(["itc", "mlm", "prefix_lm", "pta"] if name == "copa" else []))


class Losses:
    """A hook that keeps what it is told, and the norm of the gradient: Adam would hide its scale."""

    def __init__(self):
        self.told: list[dict[str, float]] = []

    @hookspecs.hookimpl
    def after_step(self, trainer, losses):
        norm = float(trainer.grad_norm)
        self.told.append({"gradient": norm, **{name: float(loss) for name, loss in losses.items()}})


def trainer(name: str, folder: str, *hooks, resume: bool = False, **settings) -> Trainer:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for hook in hooks:
        manager.register(hook)
    # at a small rate, for Adam makes steps of this size of gradients that are nothing but rounding
    made = {"steps": STEPS, "batch": 8, "lr": 3e-5, "warmup": 1, "workers": 0, "save_every": 2, "precision": "fp32"}
    newest = runtime.broadcast(lambda: checkpoint.newest(folder)) if resume else None
    train, run = TrainSettings(**{**made, **settings}), RunSettings(device="cpu")
    return Trainer(objectives(name), SOURCE, train, run, manager, folder, resume_from=newest)


def on_a_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    for name, settings in {**SAME, **RUN}.items():
        heard = Losses()
        made = trainer(name, f"{folder}/{name}", heard, **settings)
        made.fit()
        assert bool(heard.told) == (rank == 0), "only the first is to call hooks that tell"
        Path(folder, f"{name}-{rank}.json").write_text(json.dumps(heard.told))
        torch.save(made.objectives.state_dict(), f"{folder}/{name}-{rank}.pt")
    if rank == 0:
        shutil.copytree(f"{folder}/coca", f"{folder}/again")
    dist.barrier()
    calls: list[int] = []
    assert runtime.broadcast(lambda: calls.append(rank) or {"rank": rank}) == {"rank": 0}
    assert calls == [0] * (rank == 0), "rank 0 alone computes"
    again = trainer("coca", f"{folder}/again", resume=True, steps=STEPS + 2)
    assert again.first_step == STEPS
    again.fit()
    torch.save(again.model.state_dict(), f"{folder}/resumed-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(on_a_rank, (str(folder),), nprocs=RANKS)
    return folder


def weights(folder: Path, name: str) -> list[dict[str, Tensor]]:
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("name", SAME)
def test_two_ranks_end_where_one_process_does(together, tmp_path, name):
    heard = Losses()
    alone = trainer(name, str(tmp_path), heard, **SAME[name])
    alone.fit()
    first, second = weights(together, name)
    torch.testing.assert_close(first, alone.objectives.state_dict(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    told = json.loads((together / f"{name}-0.json").read_text())
    assert len(told) == STEPS
    for losses, expected in zip(told, heard.told, strict=True):
        assert losses == pytest.approx(expected, rel=2e-5)
    saved, result = load_file(together / name / "model.safetensors"), alone.result.state_dict()
    torch.testing.assert_close(saved, {key: result[key] for key in saved}, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RUN)
def test_what_compares_within_a_rank_keeps_the_ranks_alike(together, name):
    first, second = weights(together, name)
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # teacher and queue included
    assert all(tensor.isfinite().all() for tensor in first.values())


def test_ranks_resume_from_what_the_first_saved(together, tmp_path):
    alone = trainer("coca", str(tmp_path))
    alone.fit()
    again = trainer("coca", str(tmp_path), resume=True, steps=STEPS + 2)
    again.fit()
    first, second = weights(together, "resumed")
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, again.model.state_dict(), rtol=1e-5, atol=1e-5)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"train.batch: 8 rows .* 1 ranks of train.gradcache_chunks 3; expected a multiple of 3"
    ):
        trainer("coca", str(tmp_path), gradcache_chunks=3)


def torchrun(folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run a small COCA recipe on two ranks, from the command line."""
    parts = {"model.backbone": ("embed_dim=32", "depth=1", "num_heads=2"), "model.pooler": ("num_heads=2",)}
    parts |= {"model.decoder": ("embed_dim=32", "num_heads=2"), "data": ("train_size=40", "image_size=32")}
    parts |= {"train": ("steps=2", "batch=4", "workers=0", "warmup=1", "save_every=1")}
    parts |= {"evaluate": ("candidates=4", "examples=2", "pictures=1", "rounds=0")}
    sizes = [f"{part}.{setting}" for part, values in parts.items() for setting in values]
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "core.run"]
    recipe = str(ROOT / "projects/coca/pretrain.yaml")
    done = subprocess.run(
        [*line, recipe, f"run.folder={folder}", "run.device=cpu", *sizes, *settings],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_torchrun_and_resume(tmp_path):
    """Two ranks write one folder and one report, print once, and resume together from the newest whole checkpoint."""
    folder = tmp_path / "run"
    done = torchrun(folder)
    assert done.stdout.count("Run folder") == 1
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert json.loads((folder / "report.json").read_text())
    before = load_file(folder / "model.safetensors")
    (folder / "checkpoints/step-00000002/state.json").write_text("{}")
    (folder / "model.safetensors").unlink()
    done = torchrun(folder, "run.resume=true", "run.evaluate=false")
    assert done.stdout.count("Continuing from step 1") == 1
    assert done.stderr.count("going back to") == 1, "rank 0 alone looks for a checkpoint"
    torch.testing.assert_close(load_file(folder / "model.safetensors"), before, rtol=0, atol=0)
