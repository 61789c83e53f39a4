"""Video: every frame goes through the backbone as a picture, then a clip's frames stand side by side as one sequence.

So does CoCa (section 4): one pooler over the tokens of all frames. Everything behind ``finish`` reads a clip as it
reads a picture. Letters as in core.types.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from core.kinds import Backbone
from core.types import Tokens


def trunk(backbone: Backbone, images: Tensor) -> Tokens:
    """Blocks before the first pruner: pictures (B, 3, H, W) -> x (B, N, D), clips (B, T, 3, H, W) -> x (B, T, N, D)."""
    if images.ndim == 4:
        return backbone.trunk(images)
    clips, frames = int(images.shape[0]), int(images.shape[1])
    return backbone.trunk(images.flatten(0, 1)).map(lambda t: t.unflatten(0, (clips, frames)))


def finish(backbone: Backbone, trunk: Tokens, guide: Tensor | None, frame_embedding: Tensor | None) -> Tokens:
    """Prune and run the later blocks, frame by frame under the clip's guide (B, G), then join the frames.

    Args:
        frame_embedding: (F, D) added to the tokens of the first, second, ... frame; None: nothing tells their order.
        Pictures
            get none.

    Raises:
        ValueError: clips of more than F frames.
    """
    if trunk.x.ndim == 3:
        return backbone.finish(trunk, guide)
    clips, frames = int(trunk.x.shape[0]), int(trunk.x.shape[1])
    guides = None if guide is None else guide.repeat_interleave(frames, 0)  # (B T, G)
    image = backbone.finish(trunk.map(lambda t: t.flatten(0, 1)), guides)
    image = image.map(lambda t: t.unflatten(0, (clips, frames)))  # x (B, T, N, D)
    if frame_embedding is not None:
        if frames > len(frame_embedding):
            raise ValueError(
                f"clips of {frames} frames, but model.frames has places in time for {len(frame_embedding)}"
            )
        image = replace(image, x=image.x + frame_embedding[:frames, None].to(image.x.dtype))
    return join(image, trunk.patches[1] - trunk.patches[0])


def join(frames: Tokens, shown: int) -> Tokens:
    """The frames' tokens side by side: x (B, T, N, D) -> (B, T N, D), pooled (B, T, D) -> its mean (B, D).

    What stands before the patches comes first, of all frames, then all patches, then what stands behind them; so a
    clip of one frame is that picture.

    Args:
        shown: P, patches of a frame before any pruning: frame t's patch p is the clip's patch t P + p.
    """
    start, stop = frames.patches

    def lay(t: Tensor) -> Tensor:
        """(B, T, N, ...) -> (B, T N, ...)."""
        return torch.cat([t[:, :, a:b].flatten(1, 2) for a, b in ((0, start), (start, stop), (stop, None))], 1)

    length, source = int(frames.x.shape[1]), frames.source
    if source is not None:
        first = torch.arange(length, device=source.device).unsqueeze(1) * shown  # (T, 1)
        source = torch.where(source < 0, source, source + first).flatten(1, 2)
    return Tokens(
        lay(frames.x),
        None if frames.pooled is None else frames.pooled.mean(1),
        None if frames.mask is None else lay(frames.mask),
        (length * start, length * stop),
        source,
        None if frames.scores is None else frames.scores.flatten(1, 2),
    )
