"""Video: frames are encoded as images, pruned one by one, and joined into one sequence."""

from __future__ import annotations

import pytest
import torch
from tiny import DIM, SIDE, TinyBackbone, tiny_model

from core import video
from core.types import Tokens

FRAMES = 3


def clips(batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, frames, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def backbone() -> TinyBackbone:
    torch.manual_seed(0)
    return TinyBackbone().eval()


@torch.no_grad()
def test_frames_are_encoded_as_images():
    part, images = backbone(), clips()
    trunk = video.encode_frames(part, images)
    assert trunk.x.shape == (2, FRAMES, 17, DIM)
    for t in range(FRAMES):
        torch.testing.assert_close(trunk.x[:, t], part.trunk(images[:, t]).x)


@torch.no_grad()
def test_guides_are_repeated_for_the_frames_of_their_clip(monkeypatch):
    part, images, guide = backbone(), clips(), torch.arange(2.0).view(2, 1)
    trunk = video.encode_frames(part, images)
    guides = []
    finish = part.finish
    monkeypatch.setattr(part, "finish", lambda trunk, guide: guides.append(guide) or finish(trunk, guide))
    video.finish_frames(part, trunk, guide)
    assert guides[0].flatten().tolist() == [0, 0, 0, 1, 1, 1]


@torch.no_grad()
def test_frame_embeddings_are_added_to_every_token_of_their_frame():
    part = backbone()
    trunk = video.encode_frames(part, clips())
    embedding = torch.arange(4.0).view(4, 1).expand(4, DIM)  # of 4 frames, of which a clip has 3
    difference = video.finish_frames(part, trunk, None, embedding).x - video.finish_frames(part, trunk, None).x
    expected = torch.tensor([0.0, 1, 2] + [0.0] * 16 + [1.0] * 16 + [2.0] * 16)  # [CLS] of all frames, then patches
    torch.testing.assert_close(difference, expected[None, :, None].expand_as(difference), atol=1e-5, rtol=0)


def test_too_many_frames_are_an_error():
    part = backbone()
    with pytest.raises(ValueError, match=r"^clips of 3 frames, but model\.frames is 2$"):
        video.finish_frames(part, video.encode_frames(part, clips()), None, torch.zeros(2, DIM))


def test_joined_sources_count_the_patches_before_pruning():
    source = torch.tensor([[[3, 0, -1], [1, 2, -1]]])  # of 4 patches a frame; -1: a fused token
    joined = video.join_frames(Tokens(torch.zeros(1, 2, 4, 1), patches=(1, 4), source=source), 4)
    assert joined.source.tolist() == [[3, 0, -1, 5, 6, -1]]
    assert joined.patches == (2, 8)


def test_pooled_states_are_averaged_and_scores_concatenated():
    frames = Tokens(
        torch.zeros(1, 2, 3, 2),
        pooled=torch.tensor([[[1.0, 2], [3, 6]]]),
        patches=(1, 3),
        scores=torch.tensor([[[1.0, 2], [3, 4]]]),
    )
    joined = video.join_frames(frames, 2)
    assert joined.pooled.tolist() == [[2, 4]]
    assert joined.scores.tolist() == [[1, 2, 3, 4]]


@torch.no_grad()
def test_an_image_does_not_pass_the_functions_for_video(monkeypatch):
    model = tiny_model().eval()
    images = clips()[:, 0]
    for name in ("encode_frames", "finish_frames", "join_frames"):
        monkeypatch.setattr(video, name, None)
    tokens = model.encode_image(model.trunk(images))
    expected = model.backbone(images, model.null_guide.expand(2, -1))
    assert torch.equal(tokens.x, expected.x)


@torch.no_grad()
def test_a_clip_of_one_frame_is_that_image():
    model, images = tiny_model().eval(), clips(frames=1)
    clip, image = (model.encode_image(model.trunk(x)) for x in (images, images[:, 0]))
    torch.testing.assert_close(clip.x, image.x)
    torch.testing.assert_close(clip.pooled, image.pooled)
    assert torch.equal(clip.source, image.source)
    assert clip.patches == image.patches
