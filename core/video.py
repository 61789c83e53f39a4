"""Video: encode each frame as an image, then join the frames' tokens for one pooler (CoCa, section 4).

Every part behind the backbone gets a clip in the format of an image. Letters as in core.types.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from core.kinds import Backbone
from core.types import Tokens


def encode_frames(backbone: Backbone, clips: Tensor) -> Tokens:
    """Run the blocks before the first pruner on each frame: (B, T, 3, H, W) uint8 -> x (B, T, N, D)."""
    batch, frames = int(clips.shape[0]), int(clips.shape[1])
    trunk = backbone.trunk(clips.flatten(0, 1))  # (B T, N, D)
    return trunk.map(lambda t: t.unflatten(0, (batch, frames)))  # (B, T, N, D)


def finish_frames(
    backbone: Backbone, trunk: Tokens, guide: Tensor | None, frame_embedding: Tensor | None = None
) -> Tokens:
    """Prune each frame, run the later blocks on it, and join the frames: x (B, T, N, D) -> (B, T K, D).

    Args:
        trunk: the output of ``encode_frames``.
        guide: (B, G), one guide for all frames of a clip.
        frame_embedding: (F, D), added to the tokens of frame 1, 2, ...; None: the order of the frames has no effect.

    Raises:
        ValueError: the clips have more than F frames.
    """
    batch, frames = int(trunk.x.shape[0]), int(trunk.x.shape[1])
    guides = None if guide is None else guide.repeat_interleave(frames, 0)  # (B T, G)
    tokens = backbone.finish(trunk.map(lambda t: t.flatten(0, 1)), guides)  # (B T, K, D)
    tokens = tokens.map(lambda t: t.unflatten(0, (batch, frames)))  # (B, T, K, D)
    if frame_embedding is not None:
        if frames > len(frame_embedding):
            raise ValueError(f"clips of {frames} frames, but model.frames is {len(frame_embedding)}")
        tokens = replace(tokens, x=tokens.x + frame_embedding[:frames, None].to(tokens.x.dtype))
    return join_frames(tokens, trunk.patches[1] - trunk.patches[0])


def join_frames(frames: Tokens, num_patches: int) -> Tokens:
    """Concatenate the frames' tokens: x (B, T, N, D) -> (B, T N, D); ``pooled`` (B, T, D) -> their mean (B, D).

    The tokens before the patches come first, for all frames; then all patches; then the tokens after the patches.
    ``num_patches`` is P, those of a frame before any pruning: patch p of frame t becomes the clip's patch t P + p.
    """
    start, stop = frames.patches

    def concatenate(t: Tensor) -> Tensor:
        """(B, T, N, ...) -> (B, T N, ...)."""
        return torch.cat([t[:, :, a:b].flatten(1, 2) for a, b in ((0, start), (start, stop), (stop, None))], 1)

    length, source = int(frames.x.shape[1]), frames.source
    if source is not None:
        offset = torch.arange(length, device=source.device).unsqueeze(1) * num_patches  # (T, 1)
        source = torch.where(source < 0, source, source + offset).flatten(1, 2)  # (B, T K)
    return Tokens(
        concatenate(frames.x),
        None if frames.pooled is None else frames.pooled.mean(1),  # (B, D)
        None if frames.mask is None else concatenate(frames.mask),
        (length * start, length * stop),
        source,
        None if frames.scores is None else frames.scores.flatten(1, 2),  # (B, T P)
    )
