"""Against open_clip 3.3.0 (coca_ViT-B-32, the same random weights): writing captions and a training step.

MACs and greedy words are held always, times and memory when PATCHBAY_BENCH_ROUNDS is set. Each round asks both workers
once, one after the other; times include the picture encoder. Ratios: open_clip's divided by ours.
"""

from __future__ import annotations

import json
import random
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.measure import ROUNDS
from bench.pair import Worker, ours, spread, theirs
from core.cli import main
from plugins.text.tokenizer import load_tokenizer

CAPTIONS = Path(__file__).parents[2].parent / "shared" / "data" / "coco" / "captions.json"
LENGTH, CONTEXT, BATCH = 30, 76, 8
KINDS = {"fp32": False, "bf16": True}
TRAINING = {"fp32": (False, "adamw"), "bf16": (True, "adamw"), "fp32, ours by Adafactor": (False, "adafactor")}
timing = pytest.mark.skipif(not ROUNDS, reason="takes minutes: set PATCHBAY_BENCH_ROUNDS")
WRITING = {"1 picture": (1, 1), "16 pictures": (16, 1), "48 pictures": (48, 1), "2 pictures, beam 6": (2, 6)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The job's folder: weights in both forms, pictures, captions of full length and real ones; and who made it."""
    place = tmp_path_factory.mktemp("against_open_clip")
    with theirs(place) as worker:
        vocabulary = worker.ask("make")["vocabulary"]
        given = [str(place / "peer.safetensors"), "--out", str(place / "ours"), "--vocabulary", vocabulary]
        assert main(["import", "open_clip", *given]) == 0
        torch.manual_seed(0)
        job = {"images": torch.randint(0, 256, (48, 3, 224, 224), dtype=torch.uint8)}
        job["full ids"] = torch.randint(1, 49406, (BATCH, CONTEXT))
        if CAPTIONS.exists():
            told = json.loads(CAPTIONS.read_text())["annotations"]
            texts = [one["caption"] for one in random.Random(0).sample(told, BATCH)]
            read = load_tokenizer(str(place / "ours"), CONTEXT)(texts)
            job["real ids"] = torch.nn.functional.pad(read.ids * read.mask, (0, CONTEXT - read.ids.shape[1]))
        save_file(job, str(place / "job.safetensors"))
        yield place, worker


@pytest.fixture(scope="module")
def writers(made):
    """open_clip, and ours with packed weights of both kinds."""
    folder, slow = made
    with ours(folder) as fp32, ours(folder) as bf16:
        fp32.ask("pack", bf16=False)
        bf16.ask("pack", bf16=True)
        yield {"open_clip": slow, "fp32": fp32, "bf16": bf16}


def in_turns(workers: dict[str, Worker], verb: str, **request: object) -> dict[str, list[dict]]:
    """Each worker's answers, round by round, the first of which warms up."""
    found = {name: [] for name in workers}
    for _ in range(ROUNDS + 1):
        for name, worker in workers.items():
            found[name].append(worker.ask(verb, **request))
    return found


def column(answers: list[dict], name: str, unit: float = 1) -> list[float]:
    """Without the first round."""
    return [answer[name] / unit for answer in answers[1:]]


def ratio(theirs: list[float], ours: list[float]) -> str:
    return spread([slow / fast for slow, fast in zip(theirs, ours, strict=True)])


def test_decoder_macs_and_words(made, tell):
    """Greedy, one picture, 30 tokens; of MACs the encoder's are left out. Packing changes no word."""
    folder, slow = made
    with ours(folder) as fast:
        one, other = (worker.ask("macs", length=LENGTH) for worker in (slow, fast))
        fast.ask("pack", bf16=False)
        packed = fast.ask("generate", count=1, length=LENGTH, beams=1)
    counts = [one["macs"], other["macs"]]
    told = f"open_clip {counts[0] / 1e9:.1f} G, ours {counts[1] / 1e9:.2f} G, ratio {counts[0] / counts[1]:.1f}"
    tell(f"decoder MACs, greedy, {LENGTH} tokens: {told}")
    assert counts[0] >= 15 * counts[1]
    assert one["ids"] == other["ids"] == packed["ids"]
    assert len(one["ids"][0]) == LENGTH - 2


@timing
@pytest.mark.parametrize("what", WRITING)
def test_writing(writers, tell, what):
    count, beams = WRITING[what]
    found = in_turns(writers, "generate", count=count, length=LENGTH, beams=beams)
    slow = column(found["open_clip"], "seconds")
    tell(f"{what}, {LENGTH} tokens: open_clip {spread(slow)} s")
    for kind in KINDS:
        fast = column(found[kind], "seconds")
        told = f"  {kind}: {spread(fast)} s, ratio {ratio(slow, fast)}"
        if beams == 1:
            texts = (chain.from_iterable(found[name][0]["ids"]) for name in (kind, "open_clip"))
            same = [one == other for one, other in zip(*texts, strict=True)]
            told += f", words equal {sum(same)} of {len(same)}"
            assert kind == "bf16" or all(same)
        tell(told)


@timing
def test_the_way_of_the_weights(writers, tell):
    """One picture: every weight of the decoder goes through the memory's bus at each word."""
    for kind in KINDS:
        answers = [writers[kind].ask("floor", length=LENGTH) for _ in range(ROUNDS + 1)]
        rates, steps = column(answers, "bandwidth", 1e9), column(answers, "step", 1e-3)
        size = answers[0]["weights"] / 1e6
        share = [size / 1e3 / rate / (step / 1e3) for rate, step in zip(rates, steps, strict=True)]
        tell(f"  {kind}: {size:.0f} MB a word, memory read at {spread(rates)} GB/s, {spread(steps)} ms a word:")
        tell(f"    share of that bandwidth that the decoder reaches: {spread(share)}")


@timing
@pytest.mark.parametrize("kind", TRAINING)
@pytest.mark.parametrize("text", ["real", "full"])
def test_a_training_step(made, tell, text, kind):
    """Contrast and captions, backward, optimizer; in fresh processes, whose peak resident size in a step is read.

    Ours by what training uses here: fused AdamW, or Adafactor, the paper's own; open_clip's is AdamW.
    """
    if text == "real" and not CAPTIONS.exists():
        pytest.skip(f"{CAPTIONS} is missing")
    (bf16, optimizer), folder = TRAINING[kind], made[0]
    with theirs(folder) as slow, ours(folder) as fast:
        found = in_turns({"open_clip": slow, "ours": fast}, "train", text=text, bf16=bf16, optimizer=optimizer)
    losses = [found[name][0]["loss"] for name in ("open_clip", "ours")]
    seconds, peaks = (
        [column(found[name], field, unit) for name in ("open_clip", "ours")]
        for field, unit in (("seconds", 1), ("peak", 2**30))
    )
    tell(f"training step, batch {BATCH}, {text} captions, {kind}: open_clip {spread(seconds[0])} s")
    tell(f"  ours {spread(seconds[1])} s, throughput ratio {ratio(*seconds)}")
    tell(f"  peak {spread(peaks[0])} and {spread(peaks[1])} GiB: ours / open_clip {ratio(peaks[1], peaks[0])}")
    assert losses[1] == pytest.approx(losses[0], rel=1e-2 if bf16 else 1e-4)
