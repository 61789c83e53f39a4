"""Clips: what is drawn, and that the model takes every frame by itself before one pooler reads them all."""

from __future__ import annotations

import pytest
import torch

from core import video
from core.model import Model
from core.objectives import Step
from core.types import Batch, Text, Tokens
from plugins.backbones.vit import ViT
from plugins.data.clips import MOTIONS, Clips, Pose, path
from plugins.data.drawing.compositing import stream
from plugins.data.drawing.scene_painter import BACKGROUNDS
from plugins.heads.classify import Classify
from plugins.heads.unit import Unit
from plugins.poolers.query import QueryPooler
from plugins.pruners.evit import AttentivePruner
from plugins.pruners.prune_list import Prune
from plugins.pruners.tpd import TextAwarePatchDetector
from plugins.text.bert import BertEncoder
from registry.part import Part

DATA = Clips(frames=4, distractors=2, train_size=300)
OPPOSITE = {"left": "right", "up": "down", "grows": "shrinks"}
FRAMES = 3


def model(*, frames: int = 0, cls: bool = False, prune: tuple[Prune, ...] = (), text: bool = False) -> Model:
    torch.manual_seed(0)
    width = {"embed_dim": 32, "num_heads": 2}
    made = Model(
        backbone=Part(ViT, {**width, "depth": 2, "patch_size": 16, "cls": cls, "prune": list(prune)}),
        pooler=Part(QueryPooler, {"num_heads": 2}),
        text=Part(BertEncoder, {**width, "layers": 1, "dropout": 0.0}) if text else None,
        heads={"classify": Part(Classify), "image": Part(Unit), **({"text": Part(Unit)} if text else {})},
        frames=frames,
        vocabulary=30,
        text_length=8,
        image_size=64,
        classes=5,
    )
    return made.eval()


def pictures(count: int = 2, frames: int = FRAMES) -> torch.Tensor:
    return torch.randint(0, 256, (count, frames, 3, 64, 64), dtype=torch.uint8)


def pooled(model: Model, images: torch.Tensor, guide: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model.encode_image(model.trunk(images), guide).pooled


def test_clips_are_a_function_of_their_number():
    one, other = DATA.draw("test", 7), Clips(frames=4, distractors=2, train_size=300).draw("test", 7)
    assert torch.equal(one.image, other.image)
    assert (one.caption, one.labels) == (other.caption, other.labels)
    assert one.image.shape == (4, 3, 64, 64)
    assert not torch.equal(one.image, DATA.draw("test", 18).image), "the next of its class"


def test_classes_take_turns_and_captions_name_them():
    labelled = DATA.labelled_examples("validation", 2 * len(MOTIONS))
    assert [name for _, name in labelled] == 2 * list(MOTIONS)
    assert all(example.caption.endswith(f" {name}") for example, name in labelled)
    text = DATA.tokenizer([example.caption for example, _ in labelled])
    assert [DATA.tokenizer.decode(row.tolist()) for row in text.ids] == [example.caption for example, _ in labelled]


def test_backgrounds_are_apart():
    assert not set(range(*BACKGROUNDS["train"])) & set(range(*BACKGROUNDS["test"]))


@pytest.mark.parametrize("motion", [motion for motion in MOTIONS if motion != "stands still"])
def test_a_motion_backwards_is_its_opposite(motion):
    """So no single frame, and no set of frames without their order, tells them apart."""
    word = motion.split()[-1]
    other = motion.replace(word, {**OPPOSITE, **{b: a for a, b in OPPOSITE.items()}}[word])
    middle = Pose(0.4, 0.6, 0.5)
    poses = [path(stream("same"), name, middle, 5) for name in (motion, other)]
    for one, back in zip(poses[0], reversed(poses[1]), strict=True):
        assert one == pytest.approx(back)
    assert poses[0][2] == pytest.approx(middle)
    assert poses[0][0] != pytest.approx(poses[0][4])


def test_only_the_moving_shape_changes():
    for example, name in DATA.labelled_examples("test", 2 * len(MOTIONS)):
        changed = (example.image != example.image[:1]).any()
        assert changed == (name != "stands still")


def test_batches_are_not_mirrored_and_frames_vary_alike():
    batch = DATA.batch(3, size=6, seed=1, reads=frozenset({"labels", "masked"}))
    assert batch.images.shape == (6, 4, 3, 64, 64)
    assert (batch.labels.sum(1) == 1).all()
    for text, row in zip(batch.text.ids, batch.labels, strict=True):
        assert DATA.tokenizer.decode(text.tolist()).endswith(DATA.classes[int(row.argmax())])
    still = batch.labels[:, DATA.classes.index("stands still")].bool()
    assert all((clip == clip[:1]).all() for clip in batch.images[still])


@pytest.mark.parametrize("cls", [False, True])
def test_a_clip_of_one_frame_is_that_picture(cls):
    made, images = model(cls=cls), pictures(frames=1)
    assert torch.allclose(pooled(made, images), pooled(made, images[:, 0]), atol=1e-6)


def test_without_places_in_time_the_order_of_frames_is_invisible():
    images = pictures()
    blind, sees = model(), model(frames=FRAMES)
    assert torch.allclose(pooled(blind, images), pooled(blind, images.flip(1)), atol=1e-5)
    assert not torch.allclose(pooled(sees, images), pooled(sees, images.flip(1)), atol=1e-3)
    assert not torch.allclose(pooled(blind, images), pooled(blind, images[:, :1].expand_as(images)), atol=1e-4)


def test_clips_of_a_batch_are_apart():
    made, images = model(frames=FRAMES), pictures()
    assert torch.allclose(pooled(made, images)[1:], pooled(made, images[1:]), atol=1e-5)


def test_more_frames_than_places_is_told():
    with pytest.raises(ValueError, match=r"clips of 3 frames, but model.frames is 2"):
        pooled(model(frames=2), pictures())


def test_pruned_frame_by_frame():
    made, images = model(cls=True, prune=(Prune(1, Part(AttentivePruner, {"keep_rate": 0.5})),)), pictures()
    with torch.no_grad():
        clip = made.run_pruned_blocks(made.trunk(images))
        frames = [made.run_pruned_blocks(made.trunk(images[:, t])) for t in range(FRAMES)]
    shown = 16  # patches of a frame
    assert torch.allclose(clip.patch_states, torch.cat([f.patch_states for f in frames], 1), atol=1e-5)
    places = [torch.where(f.source < 0, f.source, f.source + t * shown) for t, f in enumerate(frames)]
    assert torch.equal(clip.source, torch.cat(places, 1))
    assert clip.x.shape[1] == sum(f.x.shape[1] for f in frames)
    assert torch.allclose(clip.pooled, torch.stack([f.pooled for f in frames]).mean(0), atol=1e-5)


def test_one_text_guides_all_frames_of_its_clip():
    made = model(prune=(Prune(1, Part(TextAwarePatchDetector, {"keep_rate": 0.5})),), text=True)
    images, guide = pictures(), torch.randn(2, 32)
    with torch.no_grad():
        clip = made.run_pruned_blocks(made.trunk(images), guide)
        last = made.run_pruned_blocks(made.trunk(images[:, -1]), guide)
        kept = last.patch_states.shape[1]
        assert torch.allclose(clip.patch_states[:, -kept:], last.patch_states, atol=1e-5)
        step = Step(made, Batch(images, Text(torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool))))
        rows = torch.tensor([1, 0, 1])
        assert step.image_for(rows, step.text.rows(rows)).x.shape[0] == 3


def test_join_keeps_masks_in_step_with_tokens():
    x = torch.arange(12.0).view(1, 2, 6, 1)
    mask = x.squeeze(-1) % 2 == 0
    joined = video.join_frames(Tokens(x, None, mask, (1, 5)), 4)
    assert torch.equal(joined.mask, joined.x.squeeze(-1) % 2 == 0)
    assert joined.x.flatten().tolist() == [0, 6, 1, 2, 3, 4, 7, 8, 9, 10, 5, 11]
    assert joined.patches == (2, 10)
    assert joined.source is None
