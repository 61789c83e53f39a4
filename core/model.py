"""The model as slots, and the losses that read them.

Letters as in core.types.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from core import video
from core.files import SIZES, paths, read_text, write_json
from core.kinds import Backbone, Data, Decoder, Fusion, Head, Pooler, TextEncoder, Tokenizer, TokenPruner
from core.types import DataSpec, Fused, Text, Tokens
from registry.part import Filled, NonNegativeInt, Part, PartError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Model(nn.Module):
    """Parts in slots. What a recipe's ``model:`` section sets is this signature.

    Args:
        backbone: pictures to tokens; its ``prune`` list holds the token pruners.
        pooler: the picture's tokens to those that the decoder reads and the one that a contrast reads.
        text: words to states; what it pools guides the pruners. Without one a decoder that pools is read.
        fusion: words and picture to joint states.
        decoder: causal, attends to the fused states.
        heads: named last layers; ``image`` and ``classify`` read the picture's pooled state, ``text`` the text's, every
            other head reads the fused (or decoded) states.
        frames: how many frames of a clip have a learnt place in time, added to their tokens before they are joined.
            0: none, as the paper describes none (CoCa, section 4); then nothing tells in which order they came.
        guide: which words the pruner may see. ``paper``: one pass, guided by the whole caption. ``leak_free``: each
            objective is guided only by the words that it may see, and by a learned null guide where it may see none.
    """

    origin: str = ""

    def __init__(
        self,
        *,
        backbone: Part[Backbone],
        pooler: Part[Pooler] | None = None,
        text: Part[TextEncoder] | None = None,
        fusion: Part[Fusion] | None = None,
        decoder: Part[Decoder] | None = None,
        heads: Mapping[str, Part[Head]] | None = None,
        guide: Literal["leak_free", "paper"] = "leak_free",
        frames: NonNegativeInt = 0,
        vocabulary: Filled[int],
        text_length: Filled[int],
        image_size: Filled[int],
        classes: Filled[int] = 0,
    ):
        super().__init__()
        self.policy = guide
        words = {"vocabulary": vocabulary, "text_length": text_length}
        self.text = None if text is None else text(**words)
        text_dim = 0 if self.text is None else self.text.dim
        guide_dim = text_dim or (0 if decoder is None else decoder.cls.pooled_dim(decoder.settings))
        self.backbone = backbone(image_size=image_size, guide_dim=guide_dim)
        self.frame_embedding = nn.Parameter(torch.randn(frames, self.backbone.dim) * 0.5) if frames else None
        self.pooler = None if pooler is None else pooler(dim=self.backbone.dim)
        image_dim = self.backbone.dim if self.pooler is None else self.pooler.dim
        self.fusion = None if fusion is None else fusion(dim=text_dim, image_dim=image_dim)
        joint_dim = image_dim if self.fusion is None else self.fusion.dim
        self.decoder = None if decoder is None else decoder(memory_dim=joint_dim, **words)

        embeddings = {
            name: part.embedding for name, part in (("text", self.text), ("decoder", self.decoder)) if part is not None
        }
        widths = {
            "image": image_dim,
            "classify": image_dim,
            "text": 0 if self.text_tower is None else self.text_tower.dim,
        }
        other = joint_dim if self.fusion is not None or self.decoder is None else self.decoder.dim
        self.heads = nn.ModuleDict(
            {
                name: head(dim=widths.get(name, other), vocabulary=vocabulary, classes=classes, embeddings=embeddings)
                for name, head in (heads or {}).items()
            }
        )
        unread = [name for name in ("image", "classify") if name in self.heads]
        if unread and self.pooler is None and not self.backbone.has_pooled:
            what = "pools nothing (no [CLS]): set model.pooler, or let the backbone pool"
            raise PartError(f"{self.backbone.origin}: {what}; model.heads.{unread[0]} reads what is pooled")
        self.guided = any(pruner.guided for pruner in self.backbone.pruners)  # by what the reader pools
        if self.guided and self.text_tower is None:
            what = "a text-guided pruner needs model.text for its guide, or a decoder that pools"
            raise PartError(f"{self.backbone.origin}: {what}")
        assert not self.guided or self.text_tower is None or self.text_tower.dim == guide_dim, "pooled_dim is not dim"
        self.null_guide = nn.Parameter(torch.randn(guide_dim) * 0.02) if self.guided else None

    @property
    def pruners(self) -> tuple[TokenPruner, ...]:
        """Of the backbone, then those of a single-stream fusion, in the order in which they act."""
        return (*self.backbone.pruners, *(() if self.fusion is None else self.fusion.pruners))

    @property
    def text_tower(self) -> TextEncoder | Decoder | None:
        """What gives a text's feature: the text encoder, or without one a decoder that pools."""
        if self.text is not None:
            return self.text
        return self.decoder if self.decoder is not None and self.decoder.has_pooled else None

    def lacks(self, slot: str) -> bool:
        """Whether the model lacks what an objective names: "text", "heads.match", "scores"."""
        if slot == "scores":
            return not any(type(pruner).score is not TokenPruner.score for pruner in self.pruners[:1])
        if slot.startswith("heads."):
            return slot.removeprefix("heads.") not in self.heads
        return (self.text_tower if slot == "text" else getattr(self, slot)) is None

    def encode_text(self, text: Text) -> Tokens:
        """The states of the text encoder, or of the decoder's lower half where there is none, (B, L, D)."""
        if self.text is None:
            assert self.decoder is not None
            return self.decoder.encode_text(text)
        states: Tokens = self.text(text)
        return states

    def trunk(self, images: Tensor) -> Tokens:
        """Blocks before the first pruner, of pictures (B, 3, H, W) or of a clip's every frame (B, T, 3, H, W)."""
        return video.trunk(self.backbone, images)

    def run_pruned_blocks(self, trunk: Tokens, guide: Tensor | None = None) -> Tokens:
        """Prune and run the later blocks, guided by ``guide`` (B, G) or by the learned null guide; join a clip's
        frames."""
        return video.finish(self.backbone, trunk, self._guide_or_null(guide, trunk), self.frame_embedding)

    def encode_image(self, trunk: Tokens, guide: Tensor | None = None) -> Tokens:
        """``finish``, then pool."""
        image = self.run_pruned_blocks(trunk, guide)
        return image if self.pooler is None else self.pooler(image)

    def score(self, trunk: Tokens, words: Tokens | None, blank: Tensor | None = None) -> Tensor | None:
        """The first pruner's logits (B, P) beside ``words``, without any later block.

        Rows marked in ``blank`` (B,) get the null guide; a single stream has none, there the text itself is empty.
        """
        if not self.backbone.pruners and self.fusion is not None and words is not None:
            return self.fusion.score(words, self.encode_image(trunk))
        guide = None if words is None else words.pooled
        if guide is not None and blank is not None and self.null_guide is not None:
            guide = torch.where(blank[:, None], self.null_guide.to(guide.dtype), guide)
        return self.backbone.score(trunk, self._guide_or_null(guide, trunk))

    def kept_patches(self, trunk: Tokens, words: Tokens | None) -> Tokens:
        """The picture's tokens that are left of it beside ``words`` when all pruning is done."""
        guide = None if words is None else words.pooled
        if self.fusion is None or words is None or not self.fusion.pruners:
            return self.run_pruned_blocks(trunk, guide)
        fused: Fused = self.fusion(words, self.encode_image(trunk, guide))
        return fused.image

    def _guide_or_null(self, guide: Tensor | None, trunk: Tokens) -> Tensor | None:
        if guide is not None or self.null_guide is None:
            return guide
        return self.null_guide.expand(int(trunk.x.shape[0]), -1)

    @contextmanager
    def unpruned(self) -> Iterator[None]:
        """Within it every patch is kept: what pruning is compared with."""
        parts: list[Backbone | Fusion] = [self.backbone, *([] if self.fusion is None else [self.fusion])]
        for part in parts:
            part.pruning = False
        try:
            yield
        finally:
            for part in parts:
                part.pruning = True


@dataclass(frozen=True)
class ModelSpec:
    """What a model was built to fit, beside its recipe: the content of sizes.json."""

    image_size: int
    text_length: int
    vocabulary: int
    classes: tuple[str, ...] = ()  # names of what a head "classify" tells apart
    crop: bool = True  # False: pictures are squeezed to the square, as training's held-out ones; True: cropped to it

    @classmethod
    def of(cls, data: Data | DataSpec) -> ModelSpec:
        """Return the sizes of a model for this data."""
        vocabulary = data.vocabulary if isinstance(data, DataSpec) else data.tokenizer.vocabulary
        return cls(data.image_size, data.text_length, vocabulary, tuple(data.classes), crop=False)

    @classmethod
    def read(cls, folder: str) -> ModelSpec:
        """As ``write`` left it; keys of others are passed over.

        Raises:
            ValueError: the file is missing or lacks a number; names it.
        """
        file = os.path.join(folder, SIZES)
        if not paths.isfile(file):
            raise ValueError(f"{file}: no such file. An older run gets it by: patchbay evaluate {folder}")
        try:
            held = json.loads(read_text(file))
            numbers = [held[name] for name in ("image_size", "text_length", "vocabulary")]
            if not all(isinstance(number, int) and number > 0 for number in numbers):
                raise ValueError(f"expected whole numbers above 0, got {numbers}")
            classes, crop = tuple(map(str, held.get("classes", ()))), bool(held.get("crop", True))
            return cls(numbers[0], numbers[1], numbers[2], classes, crop)
        except (ValueError, LookupError, TypeError, AttributeError) as err:
            said = f"lacks {err}" if isinstance(err, KeyError) else f"not the sizes of a model: {err}"
            raise ValueError(f"{file}: {said}") from err

    def write(self, folder: str) -> None:
        write_json(os.path.join(folder, SIZES), dataclasses.asdict(self))


@dataclass(frozen=True)
class LoadedModel:
    """A model out of its folder, in eval mode on ``device``, with what its use takes."""

    model: Model
    tokenizer: Tokenizer
    sizes: ModelSpec
    device: torch.device
    precision: str  # "fp32" or "bf16"
